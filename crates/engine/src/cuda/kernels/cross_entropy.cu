// Softmax cross-entropy over many classes, one block per row of logits. See ops/linear_cross_entropy.rs.

#define LOWEST -3.0e38f
#define LOG2_E 1.4426950408889634f

// e^(x - largest).
static inline __device__ float exponential(float largest, float x) { return exp2f((x - largest) * LOG2_E); }

// A logit with its class's bias, where there are biases.
static inline __device__ float biased(float z, const float *bias, int c) { return bias != 0 ? z + bias[c] : z; }

// Four logits of a row from class c on, biased, minus infinity behind the last class; in one access where `whole` says that they
// are all there and the address aligned.
static inline __device__ float4 four(const float *z, const float *bias, int c, int classes, bool whole) {
    if (whole) {
        float4 x = *(const float4 *)(z + c);
        return make_float4(biased(x.x, bias, c), biased(x.y, bias, c + 1), biased(x.z, bias, c + 2), biased(x.w, bias, c + 3));
    }
    float x[4];
    for (int k = 0; k < 4; k++) x[k] = c + k < classes ? biased(z[c + k], bias, c + k) : NEGATIVE_INFINITY;
    return make_float4(x[0], x[1], x[2], x[3]);
}

// With z = logits[r] + bias (null: none), rows of logits z_cols apart:
// outcomes[r] = (-log softmax(z)[targets[r]], 1 if no class is larger than the target or else 0).
// gradient = scale * (softmax - onehot), unless it is null; its rows are as far apart, with zeros behind the classes; it may be the
// logits' own buffer. A row whose target is NO_ROW has neither loss nor gradient. A thread has four neighbouring classes at a time.
extern "C" __global__ void cross_entropy(const float *logits, int z_cols, const float *bias, const unsigned *targets, float scale,
                                         void *gradient, int gradient_dtype, float *outcomes, int rows, int classes) {
    __shared__ float room[MAX_WARPS];
    int r = blockIdx.x;
    if (r >= rows) return;
    size_t at = (size_t)r * z_cols;
    const float *z = logits + at;
    bool aligned = z_cols % 4 == 0;
    if (targets[r] == NO_ROW) {
        if (threadIdx.x < 2) outcomes[2 * (size_t)r + threadIdx.x] = 0.0f;
        if (gradient == 0) return;
        for (int c = threadIdx.x; c < z_cols; c += blockDim.x) store(gradient, gradient_dtype, at + c, 0.0f);
        return;
    }
    int target = targets[r];
    float of_target = biased(z[target], bias, target);
    // The largest so far, and the sum of the exponentials relative to it. What it begins with is a number, so that no difference of
    // infinities hides or makes a NaN.
    float largest = LOWEST, sum = 0.0f;
    for (int c = 4 * threadIdx.x; c < classes; c += 4 * blockDim.x) {
        float4 x = four(z, bias, c, classes, aligned && c + 4 <= classes);
        float now = fmaxf(fmaxf(largest, fmaxf(x.x, x.y)), fmaxf(x.z, x.w));
        sum = sum * exponential(now, largest) +
              (exponential(now, x.x) + exponential(now, x.y) + exponential(now, x.z) + exponential(now, x.w));
        largest = now;
    }
    float of_all = block_max(largest, room);
    sum = block_sum(sum * exponential(of_all, largest), room);
    largest = of_all;
    if (threadIdx.x == 0) {
        outcomes[2 * (size_t)r] = logf(sum) + largest - of_target;
        outcomes[2 * (size_t)r + 1] = of_target >= largest ? 1.0f : 0.0f;
    }
    if (gradient == 0) return;
    float factor = scale / sum;
    for (int c = 4 * threadIdx.x; c < z_cols; c += 4 * blockDim.x) {
        float4 x = four(z, bias, c, classes, aligned && c + 4 <= classes);
        float g[4] = {exponential(largest, x.x) * factor, exponential(largest, x.y) * factor,
                      exponential(largest, x.z) * factor, exponential(largest, x.w) * factor};
        if (target >= c && target < c + 4) g[target - c] -= scale;
        if (aligned && gradient_dtype == BF16) {
            *(uint2 *)((half_word *)gradient + at + c) = make_uint2(pack(g[0], g[1]), pack(g[2], g[3]));
            continue;
        }
        store_pair(gradient, gradient_dtype, at + c, aligned, c + 1 < z_cols, {g[0], g[1]});
        if (c + 2 < z_cols) store_pair(gradient, gradient_dtype, at + c + 2, aligned, c + 3 < z_cols, {g[2], g[3]});
    }
}

// to[rows[i]] += from[i]; rows are distinct, or NO_ROW; those of `from` are from_cols apart. Grid: columns / blockDim.x, rows (in strides).
extern "C" __global__ void add_to_rows(const float *from, int from_cols, const unsigned *rows, int row_count, float *to, int cols) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int i = blockIdx.y; i < row_count; i += gridDim.y) {
        if (rows[i] != NO_ROW) to[(size_t)rows[i] * cols + c] += from[(size_t)i * from_cols + c];
    }
}
