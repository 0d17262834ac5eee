// Embedding: look-up, and the scatter of its gradient in a fixed order. See ops/embedding.rs.

// h[r] = drop(tokens[ids[r]] + positions[at[r]] (+ offset where ids[r] == offset_id)).
// Grid: columns / blockDim.x, rows / ROWS_PER_BLOCK. `offset` and `row_keys` may be null.
extern "C" __global__ void embedding_forward(const unsigned *ids, const unsigned *at, const float *tokens,
                                             const float *positions, const float *offset, unsigned offset_id, float *h,
                                             int rows, int cols, const unsigned long long *row_keys, unsigned site,
                                             unsigned threshold, float scale) {
    __shared__ u64 keys[ROWS_PER_BLOCK];
    int first = blockIdx.y * ROWS_PER_BLOCK;
    load_keys(row_keys, site, first, rows, keys);
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int r = first; r < rows && r < first + ROWS_PER_BLOCK; r++) {
        float x = tokens[(size_t)ids[r] * cols + c] + positions[(size_t)at[r] * cols + c];
        if (offset != 0 && ids[r] == offset_id) x += offset[c];
        if (row_keys != 0) x *= dropout_factor(keys[r - first], c, threshold, scale);
        h[(size_t)r * cols + c] = x;
    }
}

// to[targets[t]] += the sum of from[sources[i]] * dropout factor for i in starts[t] .. starts[t + 1], one after the
// other. Targets are distinct. Grid: columns / blockDim.x, targets (in strides).
extern "C" __global__ void scatter_rows(const void *from, int from_dtype, const unsigned *targets,
                                        const unsigned *starts, const unsigned *sources, int target_count, float *to,
                                        int cols, const unsigned long long *row_keys, unsigned site,
                                        unsigned threshold, float scale) {
    __shared__ u64 keys[ROWS_PER_BLOCK];
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    for (int t = blockIdx.y; t < target_count; t += gridDim.y) {
        size_t sum_at = (size_t)targets[t] * cols + c;
        float sum = c < cols ? to[sum_at] : 0.0f;
        unsigned end = starts[t + 1];
        for (unsigned first = starts[t]; first < end; first += ROWS_PER_BLOCK) {
            if (row_keys != 0) {
                __syncthreads();
                for (unsigned i = threadIdx.x; i < ROWS_PER_BLOCK && first + i < end; i += blockDim.x) {
                    keys[i] = derive(row_keys[sources[first + i]], site);
                }
                __syncthreads();
            }
            for (unsigned i = first; c < cols && i < end && i < first + ROWS_PER_BLOCK; i++) {
                float x = load(from, from_dtype, (size_t)sources[i] * cols + c);
                if (row_keys != 0) x *= dropout_factor(keys[i - first], c, threshold, scale);
                sum += x;
            }
        }
        if (c < cols) to[sum_at] = sum;
    }
}
