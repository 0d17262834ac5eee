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

// In `destinations`: the piece is part of a larger group, and the other bits are its row of `partial`.
#define IN_PARTS 0x80000000u

// The sum of from[sources[i]] * dropout factor for i in starts[p] .. starts[p + 1], one after the other, for every piece p: added to
// a row of `to`, or, of a group in parts, kept in `partial`. Rows of destinations are distinct.
// Grid: columns / blockDim.x, pieces (in strides).
extern "C" __global__ void scatter_rows(const void *from, int from_dtype, const unsigned *destinations,
                                        const unsigned *starts, const unsigned *sources, int piece_count, float *to,
                                        float *partial, int cols, const unsigned long long *row_keys, unsigned site,
                                        unsigned threshold, float scale) {
    __shared__ u64 keys[ROWS_PER_BLOCK];
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    for (int p = blockIdx.y; p < piece_count; p += gridDim.y) {
        float sum = 0.0f;
        unsigned end = starts[p + 1];
        for (unsigned first = starts[p]; first < end; first += ROWS_PER_BLOCK) {
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
        if (c >= cols) continue;
        unsigned row = destinations[p];
        if (row & IN_PARTS) {
            partial[(size_t)(row & ~IN_PARTS) * cols + c] = sum;
        } else {
            to[(size_t)row * cols + c] += sum;
        }
    }
}

// to[targets[g]] += the sum of the rows starts[g] .. starts[g + 1] of partial, one after the other.
// Grid: columns / blockDim.x, groups (in strides).
extern "C" __global__ void add_parts(const float *partial, const unsigned *targets, const unsigned *starts, int group_count,
                                     float *to, int cols) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int g = blockIdx.y; g < group_count; g += gridDim.y) {
        float sum = 0.0f;
        for (unsigned p = starts[g]; p < starts[g + 1]; p++) sum += partial[(size_t)p * cols + c];
        to[(size_t)targets[g] * cols + c] += sum;
    }
}
