// Attention over packed sequences with bf16 products on tensor cores: what attention.cu computes, where queries, keys and
// values are bf16. Dao 2023 (FlashAttention-2), but for the backward: the gradients of queries and of keys have a kernel
// each, so that every output is summed by one warp in a fixed order. See ops/attention.rs.
//
// STEPS, defined before this text, says how wide a head may be: 16 * STEPS columns, those beyond its own being zeros.
//
// Heads of q, k, v and dy begin `pitch` columns apart: `dim`, their own columns, or more with zeros behind those (spread_heads), where
// 16 bytes at a time could not be read otherwise. Heads of y and of the gradients are always `dim` apart.
//
// A warp owns 16 rows (queries, or keys where their gradients are summed), whose operands it keeps in registers; it walks
// over the other side in tiles of 64 rows that its block's warps share. Products are bf16 with f32 sums; probabilities and
// the gradients of scores are rounded to bf16 before they are multiplied, sums of probabilities before that.
//
// Fragments, as PTX has them for m16n8k16: lane l holds of the sums [16][8] the rows l / 4 and l / 4 + 8 (elements 0, 1 and 2, 3)
// at the columns 2 * (l % 4) and the next. Two neighbouring sums, rounded, are the left operand of the product after.

#define OWN 16
#define SEEN 64
#define WIDE (16 * STEPS)
// From one staged row to the next: the rows that eight lanes read start in different banks.
#define STRIDE (WIDE + 8)
// Columns of scores that exist at once where two sets of them do; fewer where registers are short.
#define PART (STEPS == 3 || STEPS > 6 ? 16 : 32)
#define PARTS (PART / 8)
// Blocks that are to fit into a multiprocessor where the gradients of keys are summed. Unasked, compilers take a few registers more
// than let them in.
#define KEYS_BLOCKS (STEPS < 4 ? 4 : STEPS == 4 ? 3 : 2)
// Two staged tiles.
#define ROOM (2 * SEEN * STRIDE)
#define LOG2_E 1.4426950408889634f

#ifdef __CUDACC_RTC__
// sums += left * right.
static inline __device__ void multiply_add(float (&sums)[4], const unsigned (&left)[4], unsigned right0, unsigned right1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}

// Four matrices of 8 x 8; lane l gives the address of row l % 8 of matrix l / 8, and gets of each the elements of row l / 4.
static inline __device__ void load_matrices(const half_word *row, unsigned (&to)[4]) {
    unsigned at = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
}

// The same, each matrix transposed.
static inline __device__ void load_transposed(const half_word *row, unsigned (&to)[4]) {
    unsigned at = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
}

// 16 bytes into shared memory, beside what the thread goes on with; zeros where they are not there.
static inline __device__ void copy_async(half_word *to, const half_word *from, bool there) {
    unsigned at = (unsigned)__cvta_generic_to_shared(to);
    int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(at), "l"(from), "r"(bytes) : "memory");
}

// Until the thread's own copies have been made.
static inline __device__ void wait_for_copies() { asm volatile("cp.async.wait_all;" : : : "memory"); }

// 2^x, two units in the last place off; 0 for what is far below.
static inline __device__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

// Rows first .. first + count (those below `end`; zeros beyond) of columns col .. col + dim, into shared memory, where they are once the
// thread has waited for its copies, and the others for theirs.
static inline __device__ void stage_rows(const void *x, int dtype, int stride, int col, int first, int count, int end, int dim,
                                         half_word *to) {
    if (dtype == BF16 && (size_t)x % 16 == 0 && (stride | col | dim) % 8 == 0) {
        const half_word *from = (const half_word *)x + col;
#pragma unroll 4
        for (int i = threadIdx.x; i < count * (WIDE / 8); i += blockDim.x) {
            int r = i / (WIDE / 8), c = i % (WIDE / 8) * 8;
            bool there = first + r < end && c < dim;
            copy_async(to + r * STRIDE + c, there ? from + (size_t)(first + r) * stride + c : from, there);
        }
        return;
    }
    for (int i = threadIdx.x; i < count * (WIDE / 8); i += blockDim.x) {
        int r = i / (WIDE / 8), c = i % (WIDE / 8) * 8;
        uint4 values = make_uint4(0u, 0u, 0u, 0u);
        if (first + r < end && c < dim) {
            size_t at = (size_t)(first + r) * stride + col;
            if (dtype == BF16) {
                values = eight((const half_word *)x + at, c, dim);
            } else {
                const float *row = (const float *)x + at;
                float wide[8];
#pragma unroll
                for (int k = 0; k < 8; k++) wide[k] = c + k < dim ? row[c + k] : 0.0f;
                values = make_uint4(pack(wide[0], wide[1]), pack(wide[2], wide[3]), pack(wide[4], wide[5]), pack(wide[6], wide[7]));
            }
        }
        *(uint4 *)(to + r * STRIDE + c) = values;
    }
}

// What was staged is there for all threads, and what was read before may be written again.
static inline __device__ void staged() {
    wait_for_copies();
    __syncthreads();
}

// Rows 0 .. 16 of a warp's own staged rows, rows 8 .. 16 `apart` rows behind rows 0 .. 8, as left operands.
static inline __device__ void own_rows(const half_word *rows, int apart, unsigned (&left)[STEPS][4]) {
    int lane = threadIdx.x % WARP, matrix = lane / 8;
    const half_word *at = rows + (lane % 8 + matrix % 2 * apart) * STRIDE + matrix / 2 * 8;
#pragma unroll
    for (int k = 0; k < STEPS; k++) load_matrices(at + 16 * k, left[k]);
}

// sums[n] += the product of own rows with the staged rows 8 n .. 8 n + 8, for N of these.
template <int N>
static inline __device__ void multiply_by_rows(const unsigned (&left)[STEPS][4], const half_word *rows, float (&sums)[N][4]) {
    int lane = threadIdx.x % WARP, matrix = lane / 8;
    const half_word *at = rows + (lane % 8 + matrix / 2 * 8) * STRIDE + matrix % 2 * 8;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            unsigned right[4];
            load_matrices(at + n * 8 * STRIDE + 16 * k, right);
            multiply_add(sums[n], left[k], right[0], right[1]);
            multiply_add(sums[n + 1], left[k], right[2], right[3]);
        }
    }
}

// sums += factors [16][8 N], rounded, times as many staged rows.
template <int N>
static inline __device__ void multiply_weighted(const float (&factors)[N][4], const half_word *rows, float (&sums)[2 * STEPS][4]) {
    int lane = threadIdx.x % WARP, matrix = lane / 8;
    const half_word *at = rows + (lane % 8 + matrix % 2 * 8) * STRIDE + matrix / 2 * 8;
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        unsigned left[4] = {pack(factors[k][0], factors[k][1]), pack(factors[k][2], factors[k][3]),
                            pack(factors[k + 1][0], factors[k + 1][1]), pack(factors[k + 1][2], factors[k + 1][3])};
#pragma unroll
        for (int n = 0; n < STEPS; n++) {
            unsigned right[4];
            load_transposed(at + k * 8 * STRIDE + 16 * n, right);
            multiply_add(sums[2 * n], left, right[0], right[1]);
            multiply_add(sums[2 * n + 1], left, right[2], right[3]);
        }
    }
}

// A warp's sums times a factor for each half of its rows, through its room of 16 rows, to rows of `to` in bf16: 0 .. 8 are rows
// first .. first + 8, the others those `apart` further; none from `end` on.
static inline __device__ void write_rows(const float (&sums)[2 * STEPS][4], float factor0, float factor1, half_word *room,
                                         half_word *to, int stride, int col, int first, int apart, int end, int dim) {
    int lane = threadIdx.x % WARP;
    half_word *own = room + lane / 4 * STRIDE + 2 * (lane % 4);
#pragma unroll
    for (int n = 0; n < 2 * STEPS; n++) {
        *(unsigned *)(own + 8 * n) = pack(sums[n][0] * factor0, sums[n][1] * factor0);
        *(unsigned *)(own + 8 * STRIDE + 8 * n) = pack(sums[n][2] * factor1, sums[n][3] * factor1);
    }
    __syncwarp();
    bool whole = ((size_t)(to + col) % 16 == 0) && stride % 8 == 0 && dim % 8 == 0;
    if (whole) {
        for (int i = lane; i < OWN * (WIDE / 8); i += WARP) {
            int r = i / (WIDE / 8), c = i % (WIDE / 8) * 8, row = first + r % 8 + r / 8 * apart;
            if (row < end && c < dim) *(uint4 *)(to + (size_t)row * stride + col + c) = *(const uint4 *)(room + r * STRIDE + c);
        }
    } else {
        for (int r = 0; r < OWN; r++) {
            int row = first + r % 8 + r / 8 * apart;
            for (int c = lane; row < end && c < dim; c += WARP) to[(size_t)row * stride + col + c] = room[r * STRIDE + c];
        }
    }
    __syncwarp();
}

// Zeros in the columns cols .. stride of a warp's rows, which are as above.
static inline __device__ void zeros_behind(half_word *to, int stride, int cols, int first, int apart, int end) {
    int lane = threadIdx.x % WARP;
    for (int c = cols + lane % 16; c < stride; c += 16) {
        for (int r = lane / 16; r < OWN; r += 2) {
            int row = first + r % 8 + r / 8 * apart;
            if (row < end) to[(size_t)row * stride + c] = 0;
        }
    }
}

// Whether all of 16 queries from the first on see all of `count` keys from the first on, which are all there.
static inline __device__ bool all_in_sight(int query, int key, int count, int causal, int window) {
    return (!causal || key + count - 1 <= query) && key + count - 1 - query <= window && query + OWN - 1 - key <= window;
}

// y, its rows y_stride apart, and the log-sum-exp [N, heads]; as attention_forward. Shared: 2 * ROOM. Grid: as there.
extern "C" __global__ __launch_bounds__(128) void
    attention_forward_bf16(const void *q, int q_stride, const void *kv, int kv_stride, int k_col, int v_col,
                           const unsigned *q_offsets, const unsigned *k_offsets, int causal, int window, float score_scale,
                           int dim, const unsigned long long *row_keys, unsigned site, unsigned threshold, float scale,
                           int pitch, unsigned short *y, int y_stride, float *log_sums) {
    extern __shared__ __align__(16) unsigned short shared[];
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int head = blockIdx.y, heads = gridDim.y;
    int q_start = q_offsets[blockIdx.z], q_end = q_offsets[blockIdx.z + 1];
    int k_start = k_offsets[blockIdx.z], k_end = k_offsets[blockIdx.z + 1];
    int tiles = (q_end - q_start + warps * OWN - 1) / (warps * OWN);
    if ((int)blockIdx.x >= tiles) return;
    // When causal, the last queries have most to do: they begin first.
    int block_first = q_start + (tiles - 1 - (int)blockIdx.x) * warps * OWN;
    int past = (k_end - k_start) - (q_end - q_start);
    // Two rooms for tiles of keys and values: one is multiplied while the next is staged.
    half_word *rooms = shared;
    stage_rows(q, BF16, q_stride, head * pitch, block_first, warps * OWN, q_end, pitch, rooms);
    staged();
    unsigned queries[STEPS][4];
    own_rows(rooms + warp * OWN * STRIDE, 8, queries);
    __syncthreads();

    int first = block_first + warp * OWN;
    float largest[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, sums[2] = {0.0f, 0.0f}, out[2 * STEPS][4];
    u64 drop_keys[2] = {0, 0};
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = first + lane / 4 + 8 * h;
        if (row_keys != 0 && row < q_end) drop_keys[h] = head_key(row_keys, row, site, head);
    }
#pragma unroll
    for (int n = 0; n < 2 * STEPS; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) out[n][i] = 0.0f;
    }
    float to_power = score_scale * LOG2_E;
    int count = k_end - k_start, from = past + block_first - q_start, own = past + first - q_start;
    int seen = min(count, from + warps * OWN + (causal ? 0 : window));
    int tile = max(0, from - window) / SEEN * SEEN;
    auto stage = [&](int tile, half_word *room) {
        stage_rows(kv, BF16, kv_stride, k_col + head * pitch, k_start + tile, SEEN, k_end, pitch, room);
        stage_rows(kv, BF16, kv_stride, v_col + head * pitch, k_start + tile, SEEN, k_end, pitch, room + SEEN * STRIDE);
    };
    stage(tile, rooms);
    for (int turn = 0; tile < seen; tile += SEEN, turn ^= 1) {
        staged();
        const half_word *keys = rooms + turn * ROOM, *values = keys + SEEN * STRIDE;
        if (tile + SEEN < seen) stage(tile + SEEN, rooms + (turn ^ 1) * ROOM);
        float scores[SEEN / 8][4];
#pragma unroll
        for (int n = 0; n < SEEN / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) scores[n][i] = 0.0f;
        }
        multiply_by_rows(queries, keys, scores);
        if (tile + SEEN > count || !all_in_sight(own, tile, SEEN, causal, window)) {
#pragma unroll
            for (int n = 0; n < SEEN / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int query = own + lane / 4 + i / 2 * 8, key = tile + 8 * n + 2 * (lane % 4) + i % 2;
                    if (key >= count || !in_sight(query, key, causal, window)) scores[n][i] = NEGATIVE_INFINITY;
                }
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float now = largest[h];
#pragma unroll
            for (int n = 0; n < SEEN / 8; n++) now = fmaxf(now, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
            now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 1));
            now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 2));
            // A window may hide a whole tile from a row.
            float base = now == NEGATIVE_INFINITY ? 0.0f : now * to_power;
            float correction = power_of_two(largest[h] * to_power - base);
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < SEEN / 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float e = power_of_two(scores[n][2 * h + i] * to_power - base);
                    sum += e;
                    scores[n][2 * h + i] = e;
                }
            }
            largest[h] = now;
            sums[h] = sums[h] * correction + sum;
#pragma unroll
            for (int n = 0; n < 2 * STEPS; n++) {
                out[n][2 * h] *= correction;
                out[n][2 * h + 1] *= correction;
            }
        }
        if (row_keys != 0) {
#pragma unroll
            for (int n = 0; n < SEEN / 8; n++) {
                if (n % 4 >= 2) continue;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    unsigned bits = dropout_bits(drop_keys[i / 2], tile + 8 * n + 2 * (lane % 4) + i % 2);
                    if ((bits & 0xffffu) < threshold) scores[n][i] = 0.0f;
                    if (bits >> 16 < threshold) scores[n + 2][i] = 0.0f;
                }
            }
        }
        multiply_weighted(scores, values, out);
    }
    float factors[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = sums[h];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        factors[h] = (row_keys != 0 ? scale : 1.0f) / sum;
        int row = first + lane / 4 + 8 * h;
        if (lane % 4 == 0 && row < q_end) log_sums[(size_t)row * heads + head] = largest[h] * score_scale + logf(sum);
    }
    __syncthreads();
    write_rows(out, factors[0], factors[1], rooms + warp * OWN * STRIDE, y, y_stride, head * dim, first, 8, q_end, dim);
    if (head == heads - 1) zeros_behind(y, y_stride, heads * dim, first, 8, q_end);
}

// The gradient of the queries, into their columns of `gradient`, whose rows are gradient_stride apart; as attention_backward_queries.
// Shared and grid as the forward's.
extern "C" __global__ __launch_bounds__(128) void
    attention_backward_queries_bf16(const void *qkv, const void *dy, int dy_dtype, int dy_stride, const unsigned *offsets, int causal,
                                    int window, float score_scale, int dim, const unsigned long long *row_keys, unsigned site,
                                    unsigned threshold, float scale, int pitch, const float *log_sums, const float *delta,
                                    unsigned short *gradient, int gradient_stride) {
    extern __shared__ __align__(16) unsigned short shared[];
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int head = blockIdx.y, heads = gridDim.y, width = heads * dim, from = heads * pitch;
    int start = offsets[blockIdx.z], end = offsets[blockIdx.z + 1];
    int tiles = (end - start + warps * OWN - 1) / (warps * OWN);
    if ((int)blockIdx.x >= tiles) return;
    int block_first = start + (tiles - 1 - (int)blockIdx.x) * warps * OWN;
    half_word *rooms = shared;
    stage_rows(qkv, BF16, 3 * from, head * pitch, block_first, warps * OWN, end, pitch, rooms);
    stage_rows(dy, dy_dtype, dy_stride, head * pitch, block_first, warps * OWN, end, pitch, rooms + SEEN * STRIDE);
    staged();
    unsigned queries[STEPS][4], d_out[STEPS][4];
    own_rows(rooms + warp * OWN * STRIDE, 8, queries);
    own_rows(rooms + (SEEN + warp * OWN) * STRIDE, 8, d_out);
    __syncthreads();

    int first = block_first + warp * OWN;
    float to_power = score_scale * LOG2_E, kept = row_keys != 0 ? scale : 1.0f;
    // A row that is not there has no probabilities.
    float log_sum[2] = {-NEGATIVE_INFINITY, -NEGATIVE_INFINITY}, row_delta[2] = {0.0f, 0.0f}, dq[2 * STEPS][4];
    u64 drop_keys[2] = {0, 0};
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = first + lane / 4 + 8 * h;
        if (row >= end) continue;
        log_sum[h] = log_sums[(size_t)row * heads + head] * LOG2_E;
        row_delta[h] = delta[(size_t)row * heads + head];
        if (row_keys != 0) drop_keys[h] = head_key(row_keys, row, site, head);
    }
#pragma unroll
    for (int n = 0; n < 2 * STEPS; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) dq[n][i] = 0.0f;
    }
    int count = end - start, own = first - start;
    int seen = min(count, block_first - start + warps * OWN + (causal ? 0 : window));
    int tile = max(0, block_first - start - window) / SEEN * SEEN;
    auto stage = [&](int tile, half_word *room) {
        stage_rows(qkv, BF16, 3 * from, from + head * pitch, start + tile, SEEN, end, pitch, room);
        stage_rows(qkv, BF16, 3 * from, 2 * from + head * pitch, start + tile, SEEN, end, pitch, room + SEEN * STRIDE);
    };
    stage(tile, rooms);
    // When causal, a warp has no use for keys behind its last query.
    int own_seen = causal ? min(seen, own + OWN) : seen;
    for (int turn = 0; tile < seen; tile += SEEN, turn ^= 1) {
        staged();
        const half_word *keys = rooms + turn * ROOM, *values = keys + SEEN * STRIDE;
        if (tile + SEEN < seen) stage(tile + SEEN, rooms + (turn ^ 1) * ROOM);
#pragma unroll 1
        for (int part = 0; part < SEEN && tile + part < own_seen; part += 32) {
            float scores[4][4], dp[4][4];
#pragma unroll
            for (int n = 0; n < 4; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) scores[n][i] = dp[n][i] = 0.0f;
            }
            multiply_by_rows(queries, keys + part * STRIDE, scores);
            multiply_by_rows(d_out, values + part * STRIDE, dp);
            if (tile + part + 32 > count || !all_in_sight(own, tile + part, 32, causal, window)) {
#pragma unroll
                for (int n = 0; n < 4; n++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        int query = own + lane / 4 + i / 2 * 8, key = tile + part + 8 * n + 2 * (lane % 4) + i % 2;
                        if (key >= count || !in_sight(query, key, causal, window)) scores[n][i] = NEGATIVE_INFINITY;
                    }
                }
            }
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float factor0 = kept, factor1 = kept;
                    if (row_keys != 0) {
                        unsigned bits = dropout_bits(drop_keys[i / 2], tile + part + 8 * n + 2 * (lane % 4) + i % 2);
                        if ((bits & 0xffffu) < threshold) factor0 = 0.0f;
                        if (bits >> 16 < threshold) factor1 = 0.0f;
                    }
                    float p0 = power_of_two(scores[n][i] * to_power - log_sum[i / 2]);
                    float p1 = power_of_two(scores[n + 2][i] * to_power - log_sum[i / 2]);
                    scores[n][i] = p0 * (dp[n][i] * factor0 - row_delta[i / 2]);
                    scores[n + 2][i] = p1 * (dp[n + 2][i] * factor1 - row_delta[i / 2]);
                }
            }
            multiply_weighted(scores, keys + part * STRIDE, dq);
        }
    }
    __syncthreads();
    write_rows(dq, score_scale, score_scale, rooms + warp * OWN * STRIDE, gradient, gradient_stride, head * dim, first, 8, end, dim);
}

// The gradients of keys and values, into their columns of `gradient`, zeros behind; as attention_backward_keys. A block has a whole number
// of 32 keys, 16 to a warp: 8 that follow each other, and the 8 that are 16 further, which share their random bits.
// Shared and grid as the forward's.
extern "C" __global__ __launch_bounds__(128, KEYS_BLOCKS) void
    attention_backward_keys_bf16(const void *qkv, const void *dy, int dy_dtype, int dy_stride, const unsigned *offsets, int causal, int window,
                                 float score_scale, int dim, const unsigned long long *row_keys, unsigned site,
                                 unsigned threshold, float scale, int pitch, const float *log_sums, const float *delta,
                                 unsigned short *gradient, int gradient_stride) {
    extern __shared__ __align__(16) unsigned short shared[];
    __shared__ u64 all_drop_keys[2][SEEN];
    __shared__ float log_sums_of[2][SEEN], deltas_of[2][SEEN];
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int head = blockIdx.y, heads = gridDim.y, width = heads * dim, from = heads * pitch;
    int start = offsets[blockIdx.z], end = offsets[blockIdx.z + 1];
    // When causal, the first keys have most to do: they begin first.
    int block_first = start + (int)blockIdx.x * warps * OWN;
    if (block_first >= end) return;
    half_word *rooms = shared;
    stage_rows(qkv, BF16, 3 * from, from + head * pitch, block_first, warps * OWN, end, pitch, rooms);
    stage_rows(qkv, BF16, 3 * from, 2 * from + head * pitch, block_first, warps * OWN, end, pitch, rooms + SEEN * STRIDE);
    staged();
    int of_block = warp / 2 * 32 + warp % 2 * 8;
    unsigned keys[STEPS][4], values[STEPS][4];
    own_rows(rooms + of_block * STRIDE, 16, keys);
    own_rows(rooms + (SEEN + of_block) * STRIDE, 16, values);
    __syncthreads();

    int first = block_first + of_block;
    float to_power = score_scale * LOG2_E, kept = row_keys != 0 ? scale : 1.0f;
    float dk[2 * STEPS][4], dv[2 * STEPS][4];
#pragma unroll
    for (int n = 0; n < 2 * STEPS; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) dk[n][i] = dv[n][i] = 0.0f;
    }
    int count = end - start;
    // When causal, earlier queries do not know these keys.
    int nearest = block_first - start - (causal ? 0 : window);
    int seeing = min(count, block_first - start + warps * OWN + window);
    int tile = max(0, nearest) / SEEN * SEEN;
    auto stage = [&](int tile, int turn) {
        half_word *room = rooms + turn * ROOM;
        stage_rows(qkv, BF16, 3 * from, head * pitch, start + tile, SEEN, end, pitch, room);
        stage_rows(dy, dy_dtype, dy_stride, head * pitch, start + tile, SEEN, end, pitch, room + SEEN * STRIDE);
        for (int i = threadIdx.x; i < SEEN; i += blockDim.x) {
            int row = start + tile + i;
            bool exists = row < end;
            // A query that is not there has no probabilities.
            log_sums_of[turn][i] = exists ? log_sums[(size_t)row * heads + head] * LOG2_E : -NEGATIVE_INFINITY;
            deltas_of[turn][i] = exists ? delta[(size_t)row * heads + head] : 0.0f;
            all_drop_keys[turn][i] = row_keys != 0 && exists ? head_key(row_keys, row, site, head) : 0;
        }
    };
    stage(tile, 0);
    for (int turn = 0; tile < seeing; tile += SEEN, turn ^= 1) {
        staged();
        const half_word *queries = rooms + turn * ROOM, *d_out = queries + SEEN * STRIDE;
        const float *log_sum = log_sums_of[turn], *row_delta = deltas_of[turn];
        const u64 *drop_keys = all_drop_keys[turn];
        if (tile + SEEN < seeing) stage(tile + SEEN, turn ^ 1);
#pragma unroll 1
        for (int part = 0; part < SEEN && tile + part < seeing; part += PART) {
            // When causal, a warp has no use for queries before its first key.
            if (causal && tile + part + PART <= first - start) continue;
            float scores[PARTS][4], dp[PARTS][4];
#pragma unroll
            for (int n = 0; n < PARTS; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) scores[n][i] = dp[n][i] = 0.0f;
            }
            multiply_by_rows(keys, queries + part * STRIDE, scores);
            multiply_by_rows(values, d_out + part * STRIDE, dp);
            // The warp's keys begin at first and end 24 further; all its queries, seen from each of them.
            bool whole = (!causal || first - start + 23 <= tile + part) && tile + part + PART - 1 - (first - start) <= window &&
                         first - start + 23 - (tile + part) <= window;
#pragma unroll
            for (int n = 0; n < PARTS; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    int at = part + 8 * n + 2 * (lane % 4) + i, query = tile + at, key = first - start + lane / 4;
                    float factor0 = kept, factor1 = kept;
                    if (row_keys != 0) {
                        unsigned bits = dropout_bits(drop_keys[at], key);
                        if ((bits & 0xffffu) < threshold) factor0 = 0.0f;
                        if (bits >> 16 < threshold) factor1 = 0.0f;
                    }
                    float p0 = power_of_two(scores[n][i] * to_power - log_sum[at]);
                    float p1 = power_of_two(scores[n][2 + i] * to_power - log_sum[at]);
                    if (!whole) {
                        if (!in_sight(query, key, causal, window)) p0 = 0.0f;
                        if (!in_sight(query, key + 16, causal, window)) p1 = 0.0f;
                    }
                    scores[n][i] = p0 * factor0;
                    scores[n][2 + i] = p1 * factor1;
                    dp[n][i] = p0 * (dp[n][i] * factor0 - row_delta[at]);
                    dp[n][2 + i] = p1 * (dp[n][2 + i] * factor1 - row_delta[at]);
                }
            }
            multiply_weighted(scores, d_out + part * STRIDE, dv);
            multiply_weighted(dp, queries + part * STRIDE, dk);
        }
    }
    __syncthreads();
    half_word *room = rooms + warp * OWN * STRIDE;
    write_rows(dk, score_scale, score_scale, room, gradient, gradient_stride, width + head * dim, first, 16, end, dim);
    write_rows(dv, 1.0f, 1.0f, room, gradient, gradient_stride, 2 * width + head * dim, first, 16, end, dim);
    if (head == heads - 1) zeros_behind(gradient, gradient_stride, 3 * width, first, 16, end);
}
