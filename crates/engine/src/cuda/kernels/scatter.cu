// Rows added to other rows, each sum in a fixed order: the gradients of look-ups and selections.

// In `destinations`: the segment is part of a larger group, and the other bits are its row of `partial`.
#define IN_SEGMENTS 0x80000000u

// The sum of from[sources[i]] * dropout factor for i in starts[p] .. starts[p + 1], one after the other, for every segment p: added to
// a row of `to`, or, of a group in several, kept in `partial`. Rows of destinations are distinct.
// Grid: columns / blockDim.x, segments (in strides).
extern "C" __global__ void scatter_rows(const void *from, int from_dtype, const unsigned *destinations,
                                        const unsigned *starts, const unsigned *sources, int segment_count, float *to,
                                        float *partial, int cols, const unsigned long long *row_keys, unsigned site,
                                        unsigned threshold, float scale) {
    __shared__ u64 keys[ROWS_PER_BLOCK];
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    for (int p = blockIdx.y; p < segment_count; p += gridDim.y) {
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
        if (row & IN_SEGMENTS) {
            partial[(size_t)(row & ~IN_SEGMENTS) * cols + c] = sum;
        } else {
            to[(size_t)row * cols + c] += sum;
        }
    }
}

// to[targets[g]] += the sum of the rows starts[g] .. starts[g + 1] of partial, one after the other.
// Grid: columns / blockDim.x, groups (in strides).
extern "C" __global__ void add_partial_rows(const float *partial, const unsigned *targets, const unsigned *starts, int group_count,
                                     float *to, int cols) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int g = blockIdx.y; g < group_count; g += gridDim.y) {
        float sum = 0.0f;
        for (unsigned p = starts[g]; p < starts[g + 1]; p++) sum += partial[(size_t)p * cols + c];
        to[(size_t)targets[g] * cols + c] += sum;
    }
}
