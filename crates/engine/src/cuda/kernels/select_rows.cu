// Rows picked out of a matrix. See ops/select_rows.rs; the way back is scatter_rows in embedding.cu.

// to[i] = from[rows[i]], zeros for NO_ROW. Grid: columns / blockDim.x, rows (in strides).
extern "C" __global__ void gather_rows(const void *from, int from_dtype, const unsigned *rows, int row_count, void *to,
                                       int to_dtype, int cols) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int i = blockIdx.y; i < row_count; i += gridDim.y) {
        float x = rows[i] == NO_ROW ? 0.0f : load(from, from_dtype, (size_t)rows[i] * cols + c);
        store(to, to_dtype, (size_t)i * cols + c, x);
    }
}
