// A learned mix of several matrices. See ops/mix.rs.

// shares[j] = softmax(weights)_j, shares[n + j] = scale * softmax(weights)_j. One thread: there are as many as a model has layers.
extern "C" __global__ void mix_shares(const float *weights, const float *scale, float *shares, int n) {
    if (threadIdx.x > 0 || blockIdx.x > 0) return;
    float highest = weights[0], sum = 0.0f;
    for (int j = 1; j < n; j++) highest = fmaxf(highest, weights[j]);
    for (int j = 0; j < n; j++) {
        shares[j] = expf(weights[j] - highest);
        sum += shares[j];
    }
    for (int j = 0; j < n; j++) {
        shares[j] /= sum;
        shares[n + j] = scale[0] * shares[j];
    }
}

// y = factor[0] * x, or y + that where `adds`.
extern "C" __global__ void mix_add_share(const void *x, int x_dtype, const float *factor, int adds, float *y,
                                         unsigned long long count) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float share = factor[0] * load(x, x_dtype, i);
    y[i] = adds ? y[i] + share : share;
}

// slopes[r, column] = the sum over the row of dy * x, one warp per row; slopes are `width` wide.
extern "C" __global__ void mix_dots(const void *x, int x_dtype, const void *dy, int dy_dtype, int column, float *slopes, int width,
                                    int rows, int cols) {
    int r = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (r >= rows) return;
    size_t first = (size_t)r * cols;
    float sum = 0.0f;
    for (int c = lane; c < cols; c += WARP) sum += load(dy, dy_dtype, first + c) * load(x, x_dtype, first + c);
    sum = warp_sum(sum);
    if (lane == 0) slopes[(size_t)r * width + column] = sum;
}

// Of each row's sums for the n inputs: the slopes of the weights in their place, that of the scale behind them.
extern "C" __global__ void mix_slopes(const float *shares, float *slopes, int rows, int n) {
    int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= rows) return;
    float *row = slopes + (size_t)r * (n + 1);
    float mean = 0.0f;
    for (int j = 0; j < n; j++) mean += shares[j] * row[j];
    for (int j = 0; j < n; j++) row[j] = shares[n + j] * (row[j] - mean);
    row[n] = mean;
}
