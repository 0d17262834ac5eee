// Losses on small logits. See ops/loss.rs. Each kernel writes the gradient, the terms and which of them are right;
// add_loss sums terms into the running total.

// Softmax cross-entropy, one warp per row. `class_weights` may be null.
extern "C" __global__ void loss_classes(const float *logits, const unsigned *targets, const float *class_weights,
                                        float scale, float *gradient, float *terms, unsigned *correct, int rows,
                                        int classes) {
    int r = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (r >= rows) return;
    const float *z = logits + (size_t)r * classes;
    float *d = gradient + (size_t)r * classes;
    int target = targets[r];
    float weight = class_weights != 0 ? class_weights[target] : 1.0f;
    float largest = NEGATIVE_INFINITY;
    for (int c = lane; c < classes; c += WARP) largest = fmaxf(largest, z[c]);
    largest = warp_max(largest);
    float sum = 0.0f;
    // The target is best if no earlier class is as large and no later one larger.
    int beaten = 0;
    for (int c = lane; c < classes; c += WARP) {
        sum += expf(z[c] - largest);
        if (c < target ? z[c] >= z[target] : z[c] > z[target]) beaten = 1;
    }
    sum = warp_sum(sum);
    beaten = warp_max((float)beaten) > 0.0f;
    for (int c = lane; c < classes; c += WARP) {
        float g = scale * weight * expf(z[c] - largest) / sum;
        d[c] = c == target ? g - scale * weight : g;
    }
    if (lane == 0) {
        terms[r] = weight * (logf(sum) + largest - z[target]);
        correct[r] = !beaten;
    }
}

// Binary cross-entropy per element.
extern "C" __global__ void loss_multi_label(const float *logits, const float *targets, float scale, float *gradient,
                                            float *terms, unsigned *correct, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float z = logits[i], t = targets[i];
    gradient[i] = scale * (1.0f / (1.0f + expf(-z)) - t);
    terms[i] = fmaxf(z, 0.0f) - z * t + log1pf(expf(-fabsf(z)));
    correct[i] = (z > 0.0f) == (t > 0.5f);
}

// Squared error per element.
extern "C" __global__ void loss_regression(const float *logits, const float *targets, float scale, float *gradient,
                                           float *terms, unsigned *correct, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float d = logits[i] - targets[i];
    gradient[i] = scale * 2.0f * d;
    terms[i] = d * d;
    correct[i] = 0;
}

#define LOSS_THREADS 256

// sum[0] += the terms, in f64: thread t adds terms t, t + 256, ..., then the threads' sums are added in a fixed tree.
// correct_sum[0] += the number of rows that are right. One block of LOSS_THREADS.
extern "C" __global__ void add_loss(const float *terms, const unsigned *correct, int count, double *sum,
                                    unsigned long long *correct_sum) {
    __shared__ double sums[LOSS_THREADS];
    __shared__ unsigned counts[LOSS_THREADS];
    int t = threadIdx.x;
    double mine = 0.0;
    unsigned right = 0;
    for (int i = t; i < count; i += LOSS_THREADS) {
        mine += (double)terms[i];
        right += correct[i];
    }
    sums[t] = mine;
    counts[t] = right;
    for (int half = LOSS_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half) {
            sums[t] += sums[t + half];
            counts[t] += counts[t + half];
        }
    }
    if (t == 0) {
        sum[0] += sums[0];
        correct_sum[0] += counts[0];
    }
}
