// How far a student's token relations are from its teacher's, without the matrices of relations. See ops/relation.rs.
//
// Two passes for a pair of columns a, b of the rows (q and k, say): over the rows, which have the terms, the log-sum-exps and the
// gradient of a, and over the columns of the relations, which have the gradient of b. Tiles are as in attention.cu. Shared memory is TILE *
// (PITCH(dim) + PITCH(t_dim)) floats for two staged tiles, then per warp ROWS * (dim + t_dim + TILE).

// The shared memory of a block: a staged tile of each side, then this warp's own rows and factors.
struct Room {
    float *staged, *t_staged, *own, *t_own, *factors;
};

static inline __device__ Room room_of(float *shared, int dim, int t_dim) {
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    Room room;
    room.staged = shared;
    room.t_staged = room.staged + TILE * PITCH(dim);
    room.own = room.t_staged + TILE * PITCH(t_dim);
    room.t_own = room.own + warps * ROWS * dim;
    room.factors = room.t_own + warps * ROWS * t_dim + warp * ROWS * TILE;
    return room;
}

// Adds a tile's scores, one to a lane, to a running sum of exponentials.
static inline __device__ void add_scores(float score, bool sees, float *largest, float *sum) {
    float now = fmaxf(*largest, warp_max(sees ? score : NEGATIVE_INFINITY));
    float correction = *largest == now ? 1.0f : expf(*largest - now);
    *sum = *sum * correction + warp_sum(sees ? expf(score - now) : 0.0f);
    *largest = now;
}

// The terms of the rows, into outcomes[first_outcome ..] in pairs with 0; both log-sum-exps [N, heads]; the gradient of a, into its columns of
// `gradient` [N, stride] unless that is null. Grid: tiles of the longest sequence's rows, heads, sequences.
extern "C" __global__ void relation_rows(const void *x, int x_dtype, int x_stride, int x_a, int x_b, int x_dim, float x_scale,
                                         const void *t, int t_dtype, int t_stride, int t_a, int t_b, int t_dim, float t_scale,
                                         const unsigned *offsets, int causal, float slope, float *outcomes, int first_outcome,
                                         float *log_sums, float *t_log_sums, float *gradient) {
    extern __shared__ float shared[];
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int head = blockIdx.y, heads = gridDim.y;
    int start = offsets[blockIdx.z], end = offsets[blockIdx.z + 1];
    int tiles = (end - start + warps * ROWS - 1) / (warps * ROWS);
    if ((int)blockIdx.x >= tiles) return;
    int block_first = start + (tiles - 1 - (int)blockIdx.x) * warps * ROWS;
    Room room = room_of(shared, x_dim, t_dim);
    stage(x, x_dtype, x_stride, x_a + head * x_dim, block_first, warps * ROWS, end, x_dim, room.own, x_dim);
    stage(t, t_dtype, t_stride, t_a + head * t_dim, block_first, warps * ROWS, end, t_dim, room.t_own, t_dim);
    const float *own = room.own + warp * ROWS * x_dim, *t_own = room.t_own + warp * ROWS * t_dim;

    int first = block_first + warp * ROWS;
    float largest[ROWS], sums[ROWS], t_largest[ROWS], t_sums[ROWS], terms[ROWS], da[ROWS][GROUPS];
    for (int r = 0; r < ROWS; r++) {
        largest[r] = t_largest[r] = NEGATIVE_INFINITY;
        sums[r] = t_sums[r] = terms[r] = 0.0f;
        for (int g = 0; g < GROUPS; g++) da[r][g] = 0.0f;
    }
    int seen = causal ? min(end, block_first + warps * ROWS) : end;
    for (int pass = 0; pass < 2; pass++) {
        for (int tile = start; tile < seen; tile += TILE) {
            __syncthreads();
            stage(x, x_dtype, x_stride, x_b + head * x_dim, tile, TILE, end, x_dim, room.staged, PITCH(x_dim));
            stage(t, t_dtype, t_stride, t_b + head * t_dim, tile, TILE, end, t_dim, room.t_staged, PITCH(t_dim));
            __syncthreads();
            float scores[ROWS], t_scores[ROWS];
            multiply_rows(own, room.staged, x_dim, scores);
            multiply_rows(t_own, room.t_staged, t_dim, t_scores);
            int j = tile + lane;
            for (int r = 0; r < ROWS; r++) {
                bool sees = j < end && first + r < end && (!causal || j <= first + r);
                float score = scores[r] * x_scale, t_score = t_scores[r] * t_scale;
                if (pass == 0) {
                    // A row that is none sees nothing, and nobody reads its sums.
                    if (first + r < end) {
                        add_scores(score, sees, &largest[r], &sums[r]);
                        add_scores(t_score, sees, &t_largest[r], &t_sums[r]);
                    }
                    continue;
                }
                float log_q = score - sums[r], log_p = t_score - t_sums[r];
                float p = sees ? expf(log_p) : 0.0f;
                if (sees) terms[r] += p * (log_p - log_q);
                room.factors[r * TILE + lane] = sees ? slope * (expf(log_q) - p) : 0.0f;
            }
            if (pass == 1 && gradient != 0) {
                __syncwarp();
                add_weighted(room.factors, room.staged, x_dim, da);
            }
        }
        // From here on the log-sum-exps.
        for (int r = 0; pass == 0 && r < ROWS; r++) {
            sums[r] = largest[r] + logf(sums[r]);
            t_sums[r] = t_largest[r] + logf(t_sums[r]);
        }
    }
    for (int r = 0; r < ROWS && first + r < end; r++) {
        size_t row = first + r, at = row * heads + head;
        float term = warp_sum(terms[r]);
        if (lane == 0) {
            log_sums[at] = sums[r];
            t_log_sums[at] = t_sums[r];
            outcomes[2 * (first_outcome + at)] = term;
            outcomes[2 * (first_outcome + at) + 1] = 0.0f;
        }
        for (int g = 0; gradient != 0 && g < GROUPS; g++) {
            int c = lane + g * WARP;
            if (c < x_dim) gradient[row * x_stride + x_a + head * x_dim + c] = da[r][g];
        }
    }
}

// The gradient of b, into its columns of `gradient`, or added to what is there. A warp owns rows of b. Grid as above.
extern "C" __global__ void relation_columns(const void *x, int x_dtype, int x_stride, int x_a, int x_b, int x_dim,
                                            float x_scale, const void *t, int t_dtype, int t_stride, int t_a, int t_b,
                                            int t_dim, float t_scale, const unsigned *offsets, int causal, float slope,
                                            const float *log_sums, const float *t_log_sums, int adds, float *gradient) {
    extern __shared__ float shared[];
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int head = blockIdx.y, heads = gridDim.y;
    int start = offsets[blockIdx.z], end = offsets[blockIdx.z + 1];
    int block_first = start + (int)blockIdx.x * warps * ROWS;
    if (block_first >= end) return;
    Room room = room_of(shared, x_dim, t_dim);
    stage(x, x_dtype, x_stride, x_b + head * x_dim, block_first, warps * ROWS, end, x_dim, room.own, x_dim);
    stage(t, t_dtype, t_stride, t_b + head * t_dim, block_first, warps * ROWS, end, t_dim, room.t_own, t_dim);
    const float *own = room.own + warp * ROWS * x_dim, *t_own = room.t_own + warp * ROWS * t_dim;

    int first = block_first + warp * ROWS;
    float db[ROWS][GROUPS];
    for (int r = 0; r < ROWS; r++) {
        for (int g = 0; g < GROUPS; g++) db[r][g] = 0.0f;
    }
    for (int tile = causal ? block_first : start; tile < end; tile += TILE) {
        __syncthreads();
        stage(x, x_dtype, x_stride, x_a + head * x_dim, tile, TILE, end, x_dim, room.staged, PITCH(x_dim));
        stage(t, t_dtype, t_stride, t_a + head * t_dim, tile, TILE, end, t_dim, room.t_staged, PITCH(t_dim));
        __syncthreads();
        float scores[ROWS], t_scores[ROWS];
        multiply_rows(own, room.staged, x_dim, scores);
        multiply_rows(t_own, room.t_staged, t_dim, t_scores);
        int i = tile + lane;
        float log_sum = i < end ? log_sums[(size_t)i * heads + head] : 0.0f;
        float t_log_sum = i < end ? t_log_sums[(size_t)i * heads + head] : 0.0f;
        for (int r = 0; r < ROWS; r++) {
            bool sees = i < end && first + r < end && (!causal || first + r <= i);
            float q = expf(scores[r] * x_scale - log_sum), p = expf(t_scores[r] * t_scale - t_log_sum);
            room.factors[r * TILE + lane] = sees ? slope * (q - p) : 0.0f;
        }
        __syncwarp();
        add_weighted(room.factors, room.staged, x_dim, db);
    }
    for (int r = 0; r < ROWS && first + r < end; r++) {
        for (int g = 0; g < GROUPS; g++) {
            int c = lane + g * WARP;
            size_t at = (size_t)(first + r) * x_stride + x_b + head * x_dim + c;
            if (c < x_dim) gradient[at] = adds ? gradient[at] + db[r][g] : db[r][g];
        }
    }
}
