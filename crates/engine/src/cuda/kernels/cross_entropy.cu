// Softmax cross-entropy over many classes, one block per row of logits. See ops/linear_cross_entropy.rs.

// A logit with its class's bias, where there are biases.
static inline __device__ float biased(float z, const float *bias, int c) { return bias != 0 ? z + bias[c] : z; }

// With z = logits[r] + bias (null: none):
// outcomes[r] = (-log softmax(z)[targets[r]], 1 if no class is larger than the target or else 0).
// gradient = scale * (softmax - onehot), unless it is null; it may be the logits' own buffer. A row whose target is NO_ROW
// has neither loss nor gradient.
extern "C" __global__ void cross_entropy(const float *logits, const float *bias, const unsigned *targets, float scale,
                                         void *gradient, int gradient_dtype, float *outcomes, int rows, int classes) {
    __shared__ float room[MAX_WARPS];
    int r = blockIdx.x;
    if (r >= rows) return;
    size_t at = (size_t)r * classes;
    const float *z = logits + at;
    if (targets[r] == NO_ROW) {
        if (threadIdx.x < 2) outcomes[2 * (size_t)r + threadIdx.x] = 0.0f;
        if (gradient == 0) return;
        for (int c = threadIdx.x; c < classes; c += blockDim.x) store(gradient, gradient_dtype, at + c, 0.0f);
        return;
    }
    int target = targets[r];
    float of_target = biased(z[target], bias, target);
    float largest = NEGATIVE_INFINITY;
    for (int c = threadIdx.x; c < classes; c += blockDim.x) largest = fmaxf(largest, biased(z[c], bias, c));
    largest = block_max(largest, room);
    float sum = 0.0f;
    for (int c = threadIdx.x; c < classes; c += blockDim.x) sum += expf(biased(z[c], bias, c) - largest);
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) {
        outcomes[2 * (size_t)r] = logf(sum) + largest - of_target;
        outcomes[2 * (size_t)r + 1] = of_target >= largest ? 1.0f : 0.0f;
    }
    if (gradient == 0) return;
    float factor = scale / sum;
    for (int c = threadIdx.x; c < classes; c += blockDim.x) {
        float g = expf(biased(z[c], bias, c) - largest) * factor;
        store(gradient, gradient_dtype, at + c, c == target ? g - scale : g);
    }
}

// to[rows[i]] += from[i]; rows are distinct, or NO_ROW. Grid: columns / blockDim.x, rows (in strides).
extern "C" __global__ void add_to_rows(const float *from, const unsigned *rows, int row_count, float *to, int cols) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int i = blockIdx.y; i < row_count; i += gridDim.y) {
        if (rows[i] != NO_ROW) to[(size_t)rows[i] * cols + c] += from[(size_t)i * cols + c];
    }
}
