// Columns times learned factors: forward and backward of the input, partial sums for the factors. See ops/column_scale.rs.

// y[:, first + c] = x[:, first + c] * factors[c] for c < width; x and y are [rows, cols].
// Grid: columns / blockDim.x, rows (in strides).
extern "C" __global__ void column_scale(const void *x, int x_dtype, int first, const float *factors, void *y, int y_dtype,
                                        int rows, int cols, int width) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= width) return;
    for (int r = blockIdx.y; r < rows; r += gridDim.y) {
        size_t at = (size_t)r * cols + first + c;
        store(y, y_dtype, at, load(x, x_dtype, at) * factors[c]);
    }
}

// partial[b] = the sums over the rows of block b of dy * x, of the columns from `first` on, `width` wide.
// Grid: columns / blockDim.x, rows / ROWS_PER_BLOCK.
extern "C" __global__ void column_scale_partial_sums(const void *x, int x_dtype, const void *dy, int dy_dtype, int first,
                                                     float *partial, int rows, int cols, int width) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= width) return;
    int start = blockIdx.y * ROWS_PER_BLOCK;
    float sum = 0.0f;
    for (int r = start; r < rows && r < start + ROWS_PER_BLOCK; r++) {
        size_t at = (size_t)r * cols + first + c;
        sum += load(dy, dy_dtype, at) * load(x, x_dtype, at);
    }
    partial[(size_t)blockIdx.y * width + c] = sum;
}
