// Layer norm's backward where x and dy are f32 and rows even: the gradients of the input and of weight and bias in one pass. See
// ops/norm.rs.
//
// PAIRS, defined before this text, says how wide a row may be: 2 * WARP * PAIRS columns, PAIRS pairs of them in a lane's registers.

// Blocks of 128 threads that are to fit into a multiprocessor: with fewer, too little is read at a time.
#define BLOCKS (PAIRS > 12 ? 3 : PAIRS > 8 ? 4 : 5)

// Rows that a block has.
#define BLOCK_ROWS 16

// The first column of a lane's pair number k.
#define PAIR_COLUMN(k) (2 * (int)(threadIdx.x % WARP + (k)*WARP))

// dx = more + rstd * (g - mean(g) - xhat * mean(g * xhat)), g = dy * dropout factor * gain; `more`, which may be dx itself, or null.
// Unless `partial` is null, partial[b] = (sums over the rows of block b of dy * xhat, of dy), dy times the dropout factors, 2 * cols
// wide. A warp has a row at a time. Shared, where there are sums: 2 * cols floats a warp. Grid: rows / BLOCK_ROWS.
extern "C" __global__ __launch_bounds__(128, BLOCKS) void
    norm_backward_kept(const float *x, const float *dy, const float *gain, const float *statistics, const float *more, float *dx,
                       float *partial, int rows, int cols, const unsigned long long *row_keys, unsigned site, unsigned threshold,
                       float scale) {
    extern __shared__ float sums[];
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, end = min(rows, BLOCK_ROWS * ((int)blockIdx.x + 1));
    Pair d_gain[PAIRS], d_shift[PAIRS];
#pragma unroll
    for (int k = 0; k < PAIRS; k++) d_gain[k] = d_shift[k] = {0.0f, 0.0f};
    for (int r = BLOCK_ROWS * blockIdx.x + warp; r < end; r += warps) {
        size_t at = (size_t)r * cols;
        float mean = statistics[2 * (size_t)r], rstd = statistics[2 * (size_t)r + 1];
        u64 key = row_keys != 0 ? derive(row_keys[r], site) : 0;
        // xhat and g.
        Pair row[PAIRS], g[PAIRS];
        float sum_g = 0.0f, sum_gx = 0.0f;
#pragma unroll
        for (int k = 0; k < PAIRS; k++) {
            int c = PAIR_COLUMN(k);
            row[k] = g[k] = {0.0f, 0.0f};
            if (c >= cols) continue;
            row[k] = load_pair(x, F32, at + c, true, true);
            g[k] = load_pair(dy, F32, at + c, true, true);
        }
#pragma unroll
        for (int k = 0; k < PAIRS; k++) {
            int c = PAIR_COLUMN(k);
            if (c >= cols) break;
            row[k] = {(row[k].a - mean) * rstd, (row[k].b - mean) * rstd};
            if (row_keys != 0) {
                g[k].a *= dropout_factor(key, c, threshold, scale);
                g[k].b *= dropout_factor(key, c + 1, threshold, scale);
            }
            d_gain[k] = {d_gain[k].a + g[k].a * row[k].a, d_gain[k].b + g[k].b * row[k].b};
            d_shift[k] = {d_shift[k].a + g[k].a, d_shift[k].b + g[k].b};
            g[k] = {g[k].a * gain[c], g[k].b * gain[c + 1]};
            sum_g += g[k].a + g[k].b;
            sum_gx += g[k].a * row[k].a + g[k].b * row[k].b;
        }
        float mean_g = warp_sum(sum_g) / cols, mean_gx = warp_sum(sum_gx) / cols;
#pragma unroll
        for (int k = 0; k < PAIRS; k++) {
            int c = PAIR_COLUMN(k);
            if (c >= cols) break;
            Pair d = {rstd * (g[k].a - mean_g - row[k].a * mean_gx), rstd * (g[k].b - mean_g - row[k].b * mean_gx)};
            if (more != 0) {
                Pair gathered = load_pair(more, F32, at + c, true, true);
                d = {gathered.a + d.a, gathered.b + d.b};
            }
            store_pair(dx, F32, at + c, true, true, d);
        }
    }
    if (partial == 0) return;
    float *of_warp = sums + warp * 2 * cols;
#pragma unroll
    for (int k = 0; k < PAIRS; k++) {
        int c = PAIR_COLUMN(k);
        if (c >= cols) break;
        store_pair(of_warp, F32, c, true, true, d_gain[k]);
        store_pair(of_warp, F32, cols + c, true, true, d_shift[k]);
    }
    __syncthreads();
    for (int c = threadIdx.x; c < 2 * cols; c += blockDim.x) {
        float sum = sums[c];
        for (int w = 1; w < warps; w++) sum += sums[w * 2 * cols + c];
        partial[(size_t)blockIdx.x * 2 * cols + c] = sum;
    }
}
