// Layer norm: forward, backward of the input, partial sums for weight and bias. See ops/norm.rs.
//
// A warp has a row. Where its columns are even, not too many and all f32, a lane keeps its pairs of them in registers between the
// passes over the row; else the row is read again.

// The most pairs that a lane keeps; half as many in kernels for narrower rows.
#define KEPT 16

// The first column of a lane's pair number k.
#define PAIR_COLUMN(k) (2 * (int)(threadIdx.x % WARP + (k)*WARP))

// Whether rows can be kept in PAIRS pairs a lane.
static inline __device__ bool fits(int cols, int pairs) { return cols % 2 == 0 && cols <= 2 * WARP * pairs; }

template <int PAIRS>
static inline __device__ void forward_kept(const float *x, const float *gain, const float *shift, float eps, float *y, void *operand,
                                           size_t of_operand, int operand_cols, float *statistics, int cols, u64 key,
                                           unsigned threshold, float scale, bool drops) {
    Pair row[PAIRS];
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int k = 0; k < PAIRS; k++) {
        int c = PAIR_COLUMN(k);
        row[k] = {0.0f, 0.0f};
        if (c < cols) row[k] = load_pair(x, F32, c, true, true);
    }
#pragma unroll
    for (int k = 0; k < PAIRS; k++) sum += row[k].a + row[k].b;
    float mean = warp_sum(sum) / cols;
#pragma unroll
    for (int k = 0; k < PAIRS; k++) {
        if (PAIR_COLUMN(k) < cols) squares += (row[k].a - mean) * (row[k].a - mean) + (row[k].b - mean) * (row[k].b - mean);
    }
    float rstd = 1.0f / sqrtf(warp_sum(squares) / cols + eps);
#pragma unroll
    for (int k = 0; k < PAIRS; k++) {
        int c = PAIR_COLUMN(k);
        if (c >= cols) {
            if (operand != 0 && c < operand_cols) store_pair(operand, BF16, of_operand + c, true, true, {0.0f, 0.0f});
            continue;
        }
        // Before the product, so that compilers can fuse it with the sum.
        Pair addend = {0.0f, 0.0f};
        if (shift != 0) addend = {shift[c], shift[c + 1]};
        Pair out = {(row[k].a - mean) * rstd * gain[c] + addend.a, (row[k].b - mean) * rstd * gain[c + 1] + addend.b};
        if (drops) {
            out.a *= dropout_factor(key, c, threshold, scale);
            out.b *= dropout_factor(key, c + 1, threshold, scale);
        }
        store_pair(y, F32, c, true, true, out);
        if (operand != 0) store_pair(operand, BF16, of_operand + c, true, true, out);
    }
    if (threadIdx.x % WARP == 0) {
        statistics[0] = mean;
        statistics[1] = rstd;
    }
}

// One warp per row: y = drop((x - mean) * rstd * gain + shift) (null: none); operand (null: none) = y in bf16, zeros behind it up to
// its own columns; statistics[r] = (mean, rstd). `row_keys` may be null here and below.
extern "C" __global__ void norm_forward(const void *x, int x_dtype, const float *gain, const float *shift, float eps,
                                        float *y, void *operand, int operand_cols, float *statistics, int rows, int cols,
                                        const unsigned long long *row_keys, unsigned site, unsigned threshold,
                                        float scale) {
    int r = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (r >= rows) return;
    size_t at = (size_t)r * cols, of_operand = (size_t)r * operand_cols;
    statistics += 2 * (size_t)r;
    u64 key = row_keys != 0 ? derive(row_keys[r], site) : 0;
    if (x_dtype == F32 && fits(cols, KEPT / 2)) {
        return forward_kept<KEPT / 2>((const float *)x + at, gain, shift, eps, y + at, operand, of_operand, operand_cols, statistics,
                                      cols, key, threshold, scale, row_keys != 0);
    }
    if (x_dtype == F32 && fits(cols, KEPT)) {
        return forward_kept<KEPT>((const float *)x + at, gain, shift, eps, y + at, operand, of_operand, operand_cols, statistics, cols,
                                  key, threshold, scale, row_keys != 0);
    }
    float sum = 0.0f;
    for (int c = lane; c < cols; c += WARP) sum += load(x, x_dtype, at + c);
    float mean = warp_sum(sum) / cols;
    float squares = 0.0f;
    for (int c = lane; c < cols; c += WARP) {
        float d = load(x, x_dtype, at + c) - mean;
        squares += d * d;
    }
    float rstd = 1.0f / sqrtf(warp_sum(squares) / cols + eps);
    for (int c = lane; c < cols; c += WARP) {
        float addend = shift != 0 ? shift[c] : 0.0f;
        float out = (load(x, x_dtype, at + c) - mean) * rstd * gain[c] + addend;
        if (row_keys != 0) out *= dropout_factor(key, c, threshold, scale);
        y[at + c] = out;
        if (operand != 0) store(operand, BF16, of_operand + c, out);
    }
    for (int c = cols + lane; operand != 0 && c < operand_cols; c += WARP) store(operand, BF16, of_operand + c, 0.0f);
    if (lane == 0) {
        statistics[0] = mean;
        statistics[1] = rstd;
    }
}

// One warp per row: dx = more + rstd * (g - mean(g) - xhat * mean(g * xhat)), g = dy * dropout factor * gain; `more`, which may be dx
// itself, or null. (What has rows in registers is norm_backward.cu.)
extern "C" __global__ void norm_backward(const void *x, int x_dtype, const void *dy, int dy_dtype, const float *gain,
                                         const float *statistics, const float *more, float *dx, int rows, int cols,
                                         const unsigned long long *row_keys, unsigned site, unsigned threshold,
                                         float scale) {
    int r = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (r >= rows) return;
    size_t at = (size_t)r * cols;
    float mean = statistics[2 * (size_t)r], rstd = statistics[2 * (size_t)r + 1];
    u64 key = row_keys != 0 ? derive(row_keys[r], site) : 0;
    float sum_g = 0.0f, sum_gx = 0.0f;
    for (int c = lane; c < cols; c += WARP) {
        float g = load(dy, dy_dtype, at + c) * gain[c];
        if (row_keys != 0) g *= dropout_factor(key, c, threshold, scale);
        sum_g += g;
        sum_gx += g * ((load(x, x_dtype, at + c) - mean) * rstd);
    }
    float mean_g = warp_sum(sum_g) / cols, mean_gx = warp_sum(sum_gx) / cols;
    for (int c = lane; c < cols; c += WARP) {
        float g = load(dy, dy_dtype, at + c) * gain[c];
        if (row_keys != 0) g *= dropout_factor(key, c, threshold, scale);
        float d = rstd * (g - mean_g - (load(x, x_dtype, at + c) - mean) * rstd * mean_gx);
        dx[at + c] = more != 0 ? more[at + c] + d : d;
    }
}

// Rows that a thread reads at once below.
#define AT_ONCE 4

// The sums of a block's rows in two columns.
template <bool EVEN, int X, int DY>
static inline __device__ void sum_rows(const void *x, int x_dtype, const void *dy, int dy_dtype, const float *statistics,
                                       float *partial, int rows, int cols, const u64 *keys, unsigned threshold, float scale,
                                       int first, int c) {
    int of_x = X == ANY ? x_dtype : X, of_dy = DY == ANY ? dy_dtype : DY, end = min(rows, first + ROWS_PER_BLOCK);
    bool both = EVEN || c + 1 < cols, even = EVEN || cols % 2 == 0;
    Pair d_gain = {0.0f, 0.0f}, d_shift = {0.0f, 0.0f};
    for (; first < end; first += AT_ONCE) {
        Pair p[AT_ONCE], d[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            size_t i = (size_t)min(first + k, end - 1) * cols + c;
            p[k] = load_pair(x, of_x, i, even, both);
            d[k] = load_pair(dy, of_dy, i, even, both);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            int r = first + k;
            if (r >= end) break;
            if (keys != 0) {
                d[k].a *= dropout_factor(keys[r % ROWS_PER_BLOCK], c, threshold, scale);
                d[k].b *= dropout_factor(keys[r % ROWS_PER_BLOCK], c + 1, threshold, scale);
            }
            float mean = statistics[2 * (size_t)r], rstd = statistics[2 * (size_t)r + 1];
            d_gain = {d_gain.a + d[k].a * ((p[k].a - mean) * rstd), d_gain.b + d[k].b * ((p[k].b - mean) * rstd)};
            d_shift = {d_shift.a + d[k].a, d_shift.b + d[k].b};
        }
    }
    size_t at = (size_t)blockIdx.y * 2 * cols + c;
    partial[at] = d_gain.a;
    partial[at + cols] = d_shift.a;
    if (!both) return;
    partial[at + 1] = d_gain.b;
    partial[at + cols + 1] = d_shift.b;
}

// partial[b] = (sums over the rows of block b of dy * xhat, of dy), dy times the dropout factors, 2 * cols wide.
// Grid: pairs of columns / blockDim.x, rows / ROWS_PER_BLOCK.
extern "C" __global__ void norm_partial_sums(const void *x, int x_dtype, const void *dy, int dy_dtype,
                                             const float *statistics, float *partial, int rows, int cols,
                                             const unsigned long long *row_keys, unsigned site, unsigned threshold,
                                             float scale) {
    __shared__ u64 block_keys[ROWS_PER_BLOCK];
    int first = blockIdx.y * ROWS_PER_BLOCK;
    load_keys(row_keys, site, first, rows, block_keys);
    int c = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= cols) return;
    const u64 *keys = row_keys != 0 ? block_keys : 0;
    if (cols % 2 == 0 && x_dtype == F32 && dy_dtype == F32) {
        sum_rows<true, F32, F32>(x, F32, dy, F32, statistics, partial, rows, cols, keys, threshold, scale, first, c);
    } else {
        sum_rows<false, ANY, ANY>(x, x_dtype, dy, dy_dtype, statistics, partial, rows, cols, keys, threshold, scale, first, c);
    }
}
