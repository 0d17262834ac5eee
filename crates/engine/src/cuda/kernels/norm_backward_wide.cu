// Layer norm's backward for wide rows, where x and dy are f32 and columns a multiple of four: the gradients of the input and of weight
// and bias in one pass. See ops/norm.rs.
//
// A block has a row at a time, a thread the same four columns of each; a row is read while the sums of the one before are gathered.

// Rows that a block has.
#define BLOCK_ROWS 16

// The most threads of a block: rows of up to four times as many columns.
#define MOST_THREADS 512

static inline __device__ float4 load_four(const float *x, size_t i) { return *(const float4 *)(x + i); }

// As norm_backward_kept. Grid: rows / BLOCK_ROWS; blocks: whole warps, at least cols / 4 threads.
extern "C" __global__ __launch_bounds__(MOST_THREADS) void
    norm_backward_wide(const float *x, const float *dy, const float *gain, const float *statistics, const float *more, float *dx,
                       float *partial, int rows, int cols, const unsigned long long *row_keys, unsigned site, unsigned threshold,
                       float scale) {
    // Two rooms, so that a row's sums may be written while those of the one before are read.
    __shared__ float of_warps[2][2][MOST_THREADS / WARP];
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, c = 4 * threadIdx.x;
    int end = min(rows, BLOCK_ROWS * ((int)blockIdx.x + 1));
    bool exists = c < cols;
    float4 zeros = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    // A parameter may begin anywhere.
    float gains[4];
#pragma unroll
    for (int i = 0; i < 4; i++) gains[i] = exists ? gain[c + i] : 0.0f;
    float d_gain[4] = {0.0f, 0.0f, 0.0f, 0.0f}, d_shift[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    float4 next_x = zeros, next_dy = zeros, next_more = zeros;
    auto read = [&](int r) {
        size_t at = (size_t)r * cols + c;
        if (!exists) return;
        next_x = load_four(x, at);
        next_dy = load_four(dy, at);
        if (more != 0) next_more = load_four(more, at);
    };
    int r = BLOCK_ROWS * blockIdx.x;
    read(r);
    for (int turn = 0; r < end; r++, turn ^= 1) {
        float mean = statistics[2 * (size_t)r], rstd = statistics[2 * (size_t)r + 1];
        u64 key = row_keys != 0 ? derive(row_keys[r], site) : 0;
        float row[4] = {next_x.x, next_x.y, next_x.z, next_x.w}, g[4] = {next_dy.x, next_dy.y, next_dy.z, next_dy.w};
        float gathered[4] = {next_more.x, next_more.y, next_more.z, next_more.w};
        if (r + 1 < end) read(r + 1);
        // xhat and g, as in norm_backward; where there is no column, g is zero.
        float sum_g = 0.0f, sum_gx = 0.0f;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            row[i] = (row[i] - mean) * rstd;
            if (row_keys != 0) g[i] *= dropout_factor(key, c + i, threshold, scale);
            d_gain[i] += g[i] * row[i];
            d_shift[i] += g[i];
            g[i] *= gains[i];
            sum_g += g[i];
            sum_gx += g[i] * row[i];
        }
        sum_g = warp_sum(sum_g);
        sum_gx = warp_sum(sum_gx);
        if (threadIdx.x % WARP == 0) {
            of_warps[turn][0][warp] = sum_g;
            of_warps[turn][1][warp] = sum_gx;
        }
        __syncthreads();
        float mean_g = 0.0f, mean_gx = 0.0f;
        for (int w = 0; w < warps; w++) {
            mean_g += of_warps[turn][0][w];
            mean_gx += of_warps[turn][1][w];
        }
        mean_g /= cols;
        mean_gx /= cols;
        float out[4];
#pragma unroll
        for (int i = 0; i < 4; i++) out[i] = gathered[i] + rstd * (g[i] - mean_g - row[i] * mean_gx);
        if (exists) *(float4 *)(dx + (size_t)r * cols + c) = make_float4(out[0], out[1], out[2], out[3]);
    }
    if (partial == 0 || !exists) return;
    float *sums = partial + (size_t)blockIdx.x * 2 * cols + c;
    *(float4 *)sums = make_float4(d_gain[0], d_gain[1], d_gain[2], d_gain[3]);
    *(float4 *)(sums + cols) = make_float4(d_shift[0], d_shift[1], d_shift[2], d_shift[3]);
}
