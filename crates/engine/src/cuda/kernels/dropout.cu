// Dropout by itself. See ops/dropout.rs.

// y = x * the dropout factors of row r under the key row_keys[r].
// Grid: columns / blockDim.x, rows (in strides).
extern "C" __global__ void apply_dropout(const void *x, int x_dtype, const unsigned long long *row_keys,
                                         unsigned site, unsigned threshold, float scale, void *y, int y_dtype,
                                         int rows, int cols) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int r = blockIdx.y; r < rows; r += gridDim.y) {
        u64 key = derive(row_keys[r], site);
        size_t i = (size_t)r * cols + c;
        store(y, y_dtype, i, load(x, x_dtype, i) * dropout_factor(key, c, threshold, scale));
    }
}
