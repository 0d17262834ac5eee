// Whole tensors: sums of gradients, conversion between types, ranges of columns, sums of columns.

// a += b, a in f32.
extern "C" __global__ void add(float *a, const void *b, int b_dtype, unsigned long long count) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) a[i] += load(b, b_dtype, i);
}

// to = from, in the type of `to`.
extern "C" __global__ void convert(const void *from, int from_dtype, void *to, int to_dtype, unsigned long long count) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) store(to, to_dtype, i, load(from, from_dtype, i));
}

// to[r][first + c] += from[r][c], `to` in f32 with rows of to_cols. Grid: columns / blockDim.x, rows (in strides).
extern "C" __global__ void add_columns(float *to, int to_cols, int first, const void *from, int from_dtype, int rows,
                                       int cols) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int r = blockIdx.y; r < rows; r += gridDim.y) {
        to[(size_t)r * to_cols + first + c] += load(from, from_dtype, (size_t)r * cols + c);
    }
}

// to[r][c] = from[r][first + c], both in one type, `from` with rows of from_cols. Grid as above.
extern "C" __global__ void copy_columns(const void *from, int from_cols, int first, void *to, int dtype, int rows,
                                        int cols) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int r = blockIdx.y; r < rows; r += gridDim.y) {
        store(to, dtype, (size_t)r * cols + c, load(from, dtype, (size_t)r * from_cols + first + c));
    }
}

// The second stage of column sums: to[c] += the sum over rows of partial[row][first + c]. A block has 32 columns; each of its
// ROW_GROUPS warps sums every ROW_GROUPS-th row, the first warp those sums, all in a fixed order. Grid: columns / 32.
#define ROW_GROUPS 16
extern "C" __global__ void add_column_sums(const float *partial, int rows, int stride, int first, float *to, int cols) {
    __shared__ float sums[ROW_GROUPS][WARP];
    int lane = threadIdx.x % WARP, group = threadIdx.x / WARP;
    int c = blockIdx.x * WARP + lane;
    float sum = 0.0f;
    if (c < cols) {
        for (int r = group; r < rows; r += ROW_GROUPS) sum += partial[(size_t)r * stride + first + c];
    }
    sums[group][lane] = sum;
    __syncthreads();
    if (group > 0 || c >= cols) return;
    for (int g = 1; g < ROW_GROUPS; g++) sum += sums[g][lane];
    to[c] += sum;
}
