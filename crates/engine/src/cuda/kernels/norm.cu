// Layer norm: forward, backward of the input, partial sums for weight and bias. See ops/norm.rs.

// One warp per row: y = drop((x - mean) * rstd * gain + shift) (null: none); statistics[r] = (mean, rstd). `row_keys` may be
// null here and below.
extern "C" __global__ void norm_forward(const void *x, int x_dtype, const float *gain, const float *shift, float eps,
                                        float *y, float *statistics, int rows, int cols,
                                        const unsigned long long *row_keys, unsigned site, unsigned threshold,
                                        float scale) {
    int r = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (r >= rows) return;
    size_t at = (size_t)r * cols;
    float sum = 0.0f;
    for (int c = lane; c < cols; c += WARP) sum += load(x, x_dtype, at + c);
    float mean = warp_sum(sum) / cols;
    float squares = 0.0f;
    for (int c = lane; c < cols; c += WARP) {
        float d = load(x, x_dtype, at + c) - mean;
        squares += d * d;
    }
    float rstd = 1.0f / sqrtf(warp_sum(squares) / cols + eps);
    u64 key = row_keys != 0 ? derive(row_keys[r], site) : 0;
    for (int c = lane; c < cols; c += WARP) {
        // Before the product, so that compilers can fuse it with the sum.
        float addend = shift != 0 ? shift[c] : 0.0f;
        float out = (load(x, x_dtype, at + c) - mean) * rstd * gain[c] + addend;
        if (row_keys != 0) out *= dropout_factor(key, c, threshold, scale);
        y[at + c] = out;
    }
    if (lane == 0) {
        statistics[2 * (size_t)r] = mean;
        statistics[2 * (size_t)r + 1] = rstd;
    }
}

// One warp per row: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)), g = dy * dropout factor * gain.
extern "C" __global__ void norm_backward(const void *x, int x_dtype, const void *dy, int dy_dtype, const float *gain,
                                         const float *statistics, float *dx, int rows, int cols,
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
        dx[at + c] = rstd * (g - mean_g - (load(x, x_dtype, at + c) - mean) * rstd * mean_gx);
    }
}

// partial[b] = (sums over the rows of block b of dy * xhat, of dy), dy times the dropout factors, 2 * cols wide.
// Grid: columns / blockDim.x, rows / ROWS_PER_BLOCK.
extern "C" __global__ void norm_partial_sums(const void *x, int x_dtype, const void *dy, int dy_dtype,
                                             const float *statistics, float *partial, int rows, int cols,
                                             const unsigned long long *row_keys, unsigned site, unsigned threshold,
                                             float scale) {
    __shared__ u64 keys[ROWS_PER_BLOCK];
    int first = blockIdx.y * ROWS_PER_BLOCK;
    load_keys(row_keys, site, first, rows, keys);
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    float d_gain = 0.0f, d_shift = 0.0f;
    for (int r = first; r < rows && r < first + ROWS_PER_BLOCK; r++) {
        size_t i = (size_t)r * cols + c;
        float d = load(dy, dy_dtype, i);
        if (row_keys != 0) d *= dropout_factor(keys[r - first], c, threshold, scale);
        d_gain += d * ((load(x, x_dtype, i) - statistics[2 * (size_t)r]) * statistics[2 * (size_t)r + 1]);
        d_shift += d;
    }
    size_t at = (size_t)blockIdx.y * 2 * cols;
    partial[at + c] = d_gain;
    partial[at + cols + c] = d_shift;
}
