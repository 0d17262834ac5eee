// Attention over packed sequences of f32 (bf16: attention_bf16.cu), without the matrix of probabilities: forward with a running softmax, backward from
// the saved log-sum-exp. See ops/attention.rs.
//
// A warp owns ROWS rows (queries, or keys where their gradients are summed) and walks over the other side in tiles of
// 32, one per lane (common.cuh); a block's warps share each staged tile. All arithmetic is f32. Shared memory is
// 2 * TILE * PITCH(dim) floats for two staged tiles, then per warp what each kernel names; the host computes it and takes
// as many warps as fit. Every output is summed by one warp in a fixed order.

// y and the log-sum-exp [N, heads]. Keys and values stand in the rows k_offsets[s] .. of `kv`, from columns k_col and
// v_col; when there are more of them than queries, the queries are the last.
// Shared, per warp: ROWS * (dim + TILE). Grid: tiles of the longest sequence's queries, heads, sequences.
extern "C" __global__ void attention_forward(const void *q, int q_stride, const void *kv, int kv_stride, int k_col,
                                             int v_col, int dtype, const unsigned *q_offsets,
                                             const unsigned *k_offsets, int causal, int window, float score_scale,
                                             int dim,
                                             const unsigned long long *row_keys, unsigned site, unsigned threshold,
                                             float scale, void *y, int y_dtype, float *log_sums) {
    extern __shared__ float shared[];
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int head = blockIdx.y, heads = gridDim.y;
    int q_start = q_offsets[blockIdx.z], q_end = q_offsets[blockIdx.z + 1];
    int k_start = k_offsets[blockIdx.z], k_end = k_offsets[blockIdx.z + 1];
    int tiles = (q_end - q_start + warps * ROWS - 1) / (warps * ROWS);
    if ((int)blockIdx.x >= tiles) return;
    // When causal, the last queries have most to do: they begin first.
    int block_first = q_start + (tiles - 1 - (int)blockIdx.x) * warps * ROWS;
    int past = (k_end - k_start) - (q_end - q_start);
    float *keys = shared, *values = keys + TILE * PITCH(dim);
    float *queries = values + TILE * PITCH(dim), *p = queries + warps * ROWS * dim;
    stage(q, dtype, q_stride, head * dim, block_first, warps * ROWS, q_end, dim, queries, dim);
    queries += warp * ROWS * dim;
    p += warp * ROWS * TILE;

    int first = block_first + warp * ROWS;
    float largest[ROWS], sums[ROWS], out[ROWS][GROUPS];
    u64 drop_keys[ROWS];
    for (int r = 0; r < ROWS; r++) {
        largest[r] = NEGATIVE_INFINITY;
        sums[r] = 0.0f;
        for (int g = 0; g < GROUPS; g++) out[r][g] = 0.0f;
        drop_keys[r] = row_keys != 0 && first + r < q_end ? head_key(row_keys, first + r, site, head) : 0;
    }
    int seen = k_end - k_start;
    int from = past + block_first - q_start;
    seen = min(seen, from + warps * ROWS + (causal ? 0 : window));
    for (int tile = max(0, from - window) / TILE * TILE; tile < seen; tile += TILE) {
        __syncthreads();
        stage(kv, dtype, kv_stride, k_col + head * dim, k_start + tile, TILE, k_end, dim, keys, PITCH(dim));
        stage(kv, dtype, kv_stride, v_col + head * dim, k_start + tile, TILE, k_end, dim, values, PITCH(dim));
        __syncthreads();
        float scores[ROWS];
        multiply_rows(queries, keys, dim, scores);
        int j = tile + lane;
        for (int r = 0; r < ROWS; r++) {
            bool sees = k_start + j < k_end && in_sight(past + first + r - q_start, j, causal, window);
            float score = sees ? scores[r] * score_scale : NEGATIVE_INFINITY;
            float now = fmaxf(largest[r], warp_max(score));
            // A window may hide a whole tile from a row.
            float correction = largest[r] == now ? 1.0f : expf(largest[r] - now);
            float e = sees ? expf(score - now) : 0.0f;
            sums[r] = sums[r] * correction + warp_sum(e);
            largest[r] = now;
            for (int g = 0; g < GROUPS; g++) out[r][g] *= correction;
            if (row_keys != 0) e *= dropout_factor(drop_keys[r], j, threshold, scale);
            p[r * TILE + lane] = e;
        }
        __syncwarp();
        add_weighted(p, values, dim, out);
    }
    for (int r = 0; r < ROWS && first + r < q_end; r++) {
        size_t row = first + r;
        for (int g = 0; g < GROUPS; g++) {
            int c = lane + g * WARP;
            if (c < dim) store(y, y_dtype, (row * heads + head) * dim + c, out[r][g] / sums[r]);
        }
        if (lane == 0) log_sums[row * heads + head] = largest[r] + logf(sums[r]);
    }
}

// to [rows, parts * pitch] = from in bf16, whose rows are from_stride apart and have parts of dim columns: each part's columns begin
// `pitch` columns after those of the part before, zeros behind them. pitch is a multiple of 8, which is what a thread has.
// Grid: eights / blockDim.x.
extern "C" __global__ void spread_heads(const unsigned short *from, int from_stride, unsigned short *to, int rows, int parts, int dim,
                                        int pitch) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    int of_part = pitch / 8, across = parts * of_part;
    size_t row = i / across;
    int at = (int)(i % across), part = at / of_part;
    if (row >= (size_t)rows) return;
    *(uint4 *)(to + i * 8) = eight(from + row * from_stride + part * dim, at % of_part * 8, dim);
}

// The sum of the products of two pairs of bf16.
static inline __device__ float products(unsigned a, unsigned b) {
    return __uint_as_float(a << 16) * __uint_as_float(b << 16) + __uint_as_float(a & 0xffff0000u) * __uint_as_float(b & 0xffff0000u);
}

// As attention_delta, in bf16, and dy in bf16 with heads `pitch` columns apart, zeros between, into `spread` unless it is null. Eight lanes have a
// head of a row. Grid: 8 * row_heads / blockDim.x.
extern "C" __global__ void attention_delta_bf16(const unsigned short *y, const void *dy, int dy_dtype, int stride, float *delta,
                                                unsigned short *spread, int heads, int row_heads, int dim, int pitch) {
    int i = (blockIdx.x * blockDim.x + threadIdx.x) / 8, lane = threadIdx.x % 8;
    float sum = 0.0f;
    if (i < row_heads) {
        size_t first = (size_t)(i / heads) * stride + i % heads * dim;
        for (int c = 8 * lane; c < dim; c += 64) {
            uint4 a = eight(y + first, c, dim), b;
            if (dy_dtype == BF16) {
                b = eight((const half_word *)dy + first, c, dim);
            } else {
                float wide[8];
#pragma unroll
                for (int k = 0; k < 8; k++) wide[k] = c + k < dim ? ((const float *)dy)[first + c + k] : 0.0f;
                b = make_uint4(pack(wide[0], wide[1]), pack(wide[2], wide[3]), pack(wide[4], wide[5]), pack(wide[6], wide[7]));
            }
            if (spread != 0) *(uint4 *)(spread + (size_t)i * pitch + c) = b;
            sum += products(a.x, b.x) + products(a.y, b.y) + products(a.z, b.z) + products(a.w, b.w);
        }
    }
    for (int offset = 4; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    if (lane == 0 && i < row_heads) delta[i] = sum;
}

// delta[row, head] = sum of dy * y over the head's columns, one warp each; rows of both are `stride` apart.
extern "C" __global__ void attention_delta(const void *y, int y_dtype, const void *dy, int dy_dtype, int stride, float *delta,
                                           int heads, int row_heads, int dim) {
    int i = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (i >= row_heads) return;
    float sum = 0.0f;
    for (int c = threadIdx.x % WARP; c < dim; c += WARP) {
        size_t at = (size_t)(i / heads) * stride + i % heads * dim + c;
        sum += load(y, y_dtype, at) * load(dy, dy_dtype, at);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) delta[i] = sum;
}

// The gradient of the queries, into their columns of `gradient` (laid out and typed as qkv).
// Shared, per warp: ROWS * (2 * dim + TILE). Grid as the forward's.
extern "C" __global__ void attention_backward_queries(const void *qkv, int dtype, const void *dy, int dy_dtype,
                                                      const unsigned *offsets, int causal, int window,
                                                      float score_scale, int dim,
                                                      const unsigned long long *row_keys, unsigned site,
                                                      unsigned threshold, float scale, const float *log_sums,
                                                      const float *delta, void *gradient) {
    extern __shared__ float shared[];
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int head = blockIdx.y, heads = gridDim.y, width = heads * dim;
    int start = offsets[blockIdx.z], end = offsets[blockIdx.z + 1];
    int tiles = (end - start + warps * ROWS - 1) / (warps * ROWS);
    if ((int)blockIdx.x >= tiles) return;
    int block_first = start + (tiles - 1 - (int)blockIdx.x) * warps * ROWS;
    float *keys = shared, *values = keys + TILE * PITCH(dim);
    float *queries = values + TILE * PITCH(dim), *d_out = queries + warps * ROWS * dim;
    float *d_scores = d_out + warps * ROWS * dim;
    stage(qkv, dtype, 3 * width, head * dim, block_first, warps * ROWS, end, dim, queries, dim);
    stage(dy, dy_dtype, width, head * dim, block_first, warps * ROWS, end, dim, d_out, dim);
    queries += warp * ROWS * dim;
    d_out += warp * ROWS * dim;
    d_scores += warp * ROWS * TILE;

    int first = block_first + warp * ROWS;
    float log_sum[ROWS], row_delta[ROWS], dq[ROWS][GROUPS];
    u64 drop_keys[ROWS];
    for (int r = 0; r < ROWS; r++) {
        bool exists = first + r < end;
        log_sum[r] = exists ? log_sums[(size_t)(first + r) * heads + head] : 0.0f;
        row_delta[r] = exists ? delta[(size_t)(first + r) * heads + head] : 0.0f;
        drop_keys[r] = row_keys != 0 && exists ? head_key(row_keys, first + r, site, head) : 0;
        for (int g = 0; g < GROUPS; g++) dq[r][g] = 0.0f;
    }
    int seen = min(end, block_first + warps * ROWS + (causal ? 0 : window));
    int nearest = start + max(0, block_first - start - window) / TILE * TILE;
    for (int tile = nearest; tile < seen; tile += TILE) {
        __syncthreads();
        stage(qkv, dtype, 3 * width, width + head * dim, tile, TILE, end, dim, keys, PITCH(dim));
        stage(qkv, dtype, 3 * width, 2 * width + head * dim, tile, TILE, end, dim, values, PITCH(dim));
        __syncthreads();
        float scores[ROWS], dp[ROWS];
        multiply_rows(queries, keys, dim, scores);
        multiply_rows(d_out, values, dim, dp);
        int key = tile + lane;
        for (int r = 0; r < ROWS; r++) {
            bool sees = key < end && first + r < end && in_sight(first + r, key, causal, window);
            float kept = row_keys != 0 ? dropout_factor(drop_keys[r], key - start, threshold, scale) : 1.0f;
            float p = sees ? expf(scores[r] * score_scale - log_sum[r]) : 0.0f;
            d_scores[r * TILE + lane] = p * (dp[r] * kept - row_delta[r]) * score_scale;
        }
        __syncwarp();
        add_weighted(d_scores, keys, dim, dq);
    }
    for (int r = 0; r < ROWS && first + r < end; r++) {
        for (int g = 0; g < GROUPS; g++) {
            int c = lane + g * WARP;
            if (c < dim) store(gradient, dtype, (size_t)(first + r) * 3 * width + head * dim + c, dq[r][g]);
        }
    }
}

// The gradients of keys and values, into their columns of `gradient`.
// Shared, per warp: ROWS * (2 * dim + 2 * TILE). Grid: tiles of the longest sequence's keys, heads, sequences.
extern "C" __global__ void attention_backward_keys(const void *qkv, int dtype, const void *dy, int dy_dtype,
                                                   const unsigned *offsets, int causal, int window,
                                                   float score_scale, int dim,
                                                   const unsigned long long *row_keys, unsigned site,
                                                   unsigned threshold, float scale, const float *log_sums,
                                                   const float *delta, void *gradient) {
    extern __shared__ float shared[];
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int head = blockIdx.y, heads = gridDim.y, width = heads * dim;
    int start = offsets[blockIdx.z], end = offsets[blockIdx.z + 1];
    // When causal, the first keys have most to do: they begin first.
    int block_first = start + (int)blockIdx.x * warps * ROWS;
    if (block_first >= end) return;
    float *queries = shared, *d_out = queries + TILE * PITCH(dim);
    float *keys = d_out + TILE * PITCH(dim), *values = keys + warps * ROWS * dim;
    float *p = values + warps * ROWS * dim, *d_scores = p + warps * ROWS * TILE;
    stage(qkv, dtype, 3 * width, width + head * dim, block_first, warps * ROWS, end, dim, keys, dim);
    stage(qkv, dtype, 3 * width, 2 * width + head * dim, block_first, warps * ROWS, end, dim, values, dim);
    keys += warp * ROWS * dim;
    values += warp * ROWS * dim;
    p += warp * ROWS * TILE;
    d_scores += warp * ROWS * TILE;

    int first = block_first + warp * ROWS;
    float dk[ROWS][GROUPS], dv[ROWS][GROUPS];
    for (int r = 0; r < ROWS; r++) {
        for (int g = 0; g < GROUPS; g++) dk[r][g] = dv[r][g] = 0.0f;
    }
    // When causal, earlier queries do not know these keys.
    int nearest = causal ? block_first : start + max(0, block_first - start - window) / TILE * TILE;
    int seeing = min(end, block_first + warps * ROWS + window);
    for (int tile = nearest; tile < seeing; tile += TILE) {
        __syncthreads();
        stage(qkv, dtype, 3 * width, head * dim, tile, TILE, end, dim, queries, PITCH(dim));
        stage(dy, dy_dtype, width, head * dim, tile, TILE, end, dim, d_out, PITCH(dim));
        __syncthreads();
        float scores[ROWS], dp[ROWS];
        multiply_rows(keys, queries, dim, scores);
        multiply_rows(values, d_out, dim, dp);
        int query = tile + lane;
        bool exists = query < end;
        float log_sum = exists ? log_sums[(size_t)query * heads + head] : 0.0f;
        float row_delta = exists ? delta[(size_t)query * heads + head] : 0.0f;
        u64 drop_key = row_keys != 0 && exists ? head_key(row_keys, query, site, head) : 0;
        for (int r = 0; r < ROWS; r++) {
            int key = first + r;
            bool sees = exists && key < end && in_sight(query, key, causal, window);
            float kept = row_keys != 0 ? dropout_factor(drop_key, key - start, threshold, scale) : 1.0f;
            float e = sees ? expf(scores[r] * score_scale - log_sum) : 0.0f;
            p[r * TILE + lane] = e * kept;
            d_scores[r * TILE + lane] = e * (dp[r] * kept - row_delta) * score_scale;
        }
        __syncwarp();
        add_weighted(p, d_out, dim, dv);
        add_weighted(d_scores, queries, dim, dk);
    }
    for (int r = 0; r < ROWS && first + r < end; r++) {
        size_t at = (size_t)(first + r) * 3 * width + head * dim;
        for (int g = 0; g < GROUPS; g++) {
            int c = lane + g * WARP;
            if (c < dim) {
                store(gradient, dtype, at + width + c, dk[r][g]);
                store(gradient, dtype, at + 2 * width + c, dv[r][g]);
            }
        }
    }
}

// The key and value columns of new rows, behind the `past` rows that a cache [.., 2 * width] holds already.
extern "C" __global__ void append_keys_values(const void *qkv, int dtype, void *cache, int past, int rows, int width) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= 2 * width) return;
    for (int r = blockIdx.y; r < rows; r += gridDim.y) {
        store(cache, dtype, (size_t)(past + r) * 2 * width + c, load(qkv, dtype, (size_t)r * 3 * width + width + c));
    }
}
