// Whole tensors: sums of gradients, conversion between types, ranges of columns, sums of columns.

// a += b, a in f32. A thread has four neighbouring elements.
extern "C" __global__ void add(float *a, const void *b, int b_dtype, unsigned long long count) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i >= count) return;
    bool two = i + 1 < count, more = i + 2 < count, four = i + 3 < count;
    Pair x = load_pair(a, F32, i, true, two), y = load_pair(b, b_dtype, i, true, two), z = {0.0f, 0.0f}, w = {0.0f, 0.0f};
    if (more) {
        z = load_pair(a, F32, i + 2, true, four);
        w = load_pair(b, b_dtype, i + 2, true, four);
    }
    store_pair(a, F32, i, true, two, {x.a + y.a, x.b + y.b});
    if (more) store_pair(a, F32, i + 2, true, four, {z.a + w.a, z.b + w.b});
}

// to = from, in the type of `to`. A thread has four neighbouring elements.
extern "C" __global__ void convert(const void *from, int from_dtype, void *to, int to_dtype, unsigned long long count) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i >= count) return;
    Pair low = load_pair(from, from_dtype, i, true, i + 1 < count), high = {0.0f, 0.0f};
    if (i + 2 < count) high = load_pair(from, from_dtype, i + 2, true, i + 3 < count);
    store_pair(to, to_dtype, i, true, i + 1 < count, low);
    if (i + 2 < count) store_pair(to, to_dtype, i + 2, true, i + 3 < count, high);
}

// to [to_rows, to_cols] = from [from_rows, from_cols] in bf16, zeros behind its rows and columns. to_cols is a multiple of 8, which is
// what a thread has. Grid: eights / blockDim.x.
extern "C" __global__ void pad(const void *from, int from_dtype, int from_rows, int from_cols, unsigned short *to, int to_rows,
                               int to_cols) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    int across = to_cols / 8;
    int r = (int)(i / across), c = (int)(i % across) * 8;
    if (r >= to_rows) return;
    uint4 values = make_uint4(0u, 0u, 0u, 0u);
    if (r < from_rows && c < from_cols) {
        size_t at = (size_t)r * from_cols;
        if (from_dtype == BF16) {
            values = eight((const half_word *)from + at, c, from_cols);
        } else {
            Pair x[4];
            bool even = from_cols % 2 == 0;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                x[k] = {0.0f, 0.0f};
                if (c + 2 * k < from_cols) x[k] = load_pair(from, F32, at + c + 2 * k, even, c + 2 * k + 1 < from_cols);
            }
            values = make_uint4(pack(x[0].a, x[0].b), pack(x[1].a, x[1].b), pack(x[2].a, x[2].b), pack(x[3].a, x[3].b));
        }
    }
    *(uint4 *)(to + i * 8) = values;
}

// Rows that a thread reads at once below, before it writes any.
#define AT_ONCE 4

// to[r][first + c] += from[r][c], `to` in f32 with rows of to_cols, `from` with rows of from_cols. A thread has two neighbouring
// columns. Grid: pairs of columns / blockDim.x, rows / AT_ONCE (in strides).
extern "C" __global__ void add_columns(float *to, int to_cols, int first, const void *from, int from_dtype, int from_cols,
                                       int rows, int cols) {
    int c = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= cols) return;
    // What is added to may begin anywhere.
    bool both = c + 1 < cols, even = from_cols % 2 == 0, to_even = ((size_t)(to + first) & 7) == 0 && to_cols % 2 == 0;
    for (int row = AT_ONCE * blockIdx.y; row < rows; row += AT_ONCE * gridDim.y) {
        Pair x[AT_ONCE], sum[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            size_t r = min(row + k, rows - 1);
            x[k] = load_pair(from, from_dtype, r * from_cols + c, even, both);
            sum[k] = load_pair(to + first, F32, r * to_cols + c, to_even, both);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            if (row + k >= rows) break;
            store_pair(to + first, F32, (size_t)(row + k) * to_cols + c, to_even, both, {sum[k].a + x[k].a, sum[k].b + x[k].b});
        }
    }
}

// to[r][c] = from[r][first + c], both in one type, `from` with rows of from_cols. Pairs and grid as above.
extern "C" __global__ void copy_columns(const void *from, int from_cols, int first, void *to, int dtype, int rows,
                                        int cols) {
    int c = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= cols) return;
    bool both = c + 1 < cols, from_even = (from_cols | first) % 2 == 0;
    for (int row = AT_ONCE * blockIdx.y; row < rows; row += AT_ONCE * gridDim.y) {
        Pair x[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            x[k] = load_pair(from, dtype, (size_t)min(row + k, rows - 1) * from_cols + first + c, from_even, both);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            if (row + k < rows) store_pair(to, dtype, (size_t)(row + k) * cols + c, cols % 2 == 0, both, x[k]);
        }
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
