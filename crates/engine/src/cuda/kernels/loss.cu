// Losses on small logits. See ops/loss.rs. Each kernel writes the gradient, and for each term of the loss (term, 1 if the
// target is right or else 0) into `outcomes`, which sum_outcomes sums.

// Softmax cross-entropy, one warp per row. `class_weights` may be null.
extern "C" __global__ void loss_classes(const float *logits, const unsigned *targets, const float *class_weights,
                                        float scale, float *gradient, float *outcomes, int rows,
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
        outcomes[2 * (size_t)r] = weight * (logf(sum) + largest - z[target]);
        outcomes[2 * (size_t)r + 1] = beaten ? 0.0f : 1.0f;
    }
}

// Softmax cross-entropy whose target has `share` of its weight spread over all classes, one warp per row.
extern "C" __global__ void loss_smoothed(const float *logits, const unsigned *targets, const float *class_weights,
                                         float share, float scale, float *gradient, float *outcomes, int rows,
                                         int classes) {
    int r = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (r >= rows) return;
    const float *z = logits + (size_t)r * classes;
    float *d = gradient + (size_t)r * classes;
    int target = targets[r];
    float largest = NEGATIVE_INFINITY;
    for (int c = lane; c < classes; c += WARP) largest = fmaxf(largest, z[c]);
    largest = warp_max(largest);
    float each = share / (float)classes;
    float sum = 0.0f, all = 0.0f;
    int beaten = 0;
    for (int c = lane; c < classes; c += WARP) {
        float weight = class_weights != 0 ? class_weights[c] : 1.0f;
        sum += expf(z[c] - largest);
        all += each * weight + (c == target ? (1.0f - share) * weight : 0.0f);
        if (c < target ? z[c] >= z[target] : z[c] > z[target]) beaten = 1;
    }
    sum = warp_sum(sum);
    all = warp_sum(all);
    beaten = warp_max((float)beaten) > 0.0f;
    float log_sum = logf(sum) + largest;
    float term = 0.0f;
    for (int c = lane; c < classes; c += WARP) {
        float weight = class_weights != 0 ? class_weights[c] : 1.0f;
        float wanted = each * weight + (c == target ? (1.0f - share) * weight : 0.0f);
        d[c] = scale * (all * expf(z[c] - largest) / sum - wanted);
        term += wanted * (log_sum - z[c]);
    }
    term = warp_sum(term);
    if (lane == 0) {
        outcomes[2 * (size_t)r] = term;
        outcomes[2 * (size_t)r + 1] = beaten ? 0.0f : 1.0f;
    }
}

// Focal loss over a softmax, one warp per row.
extern "C" __global__ void loss_focal(const float *logits, const unsigned *targets, const float *class_weights,
                                      float gamma, float scale, float *gradient, float *outcomes, int rows,
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
    float sum = 0.0f, others = 0.0f;
    int beaten = 0;
    for (int c = lane; c < classes; c += WARP) {
        float e = expf(z[c] - largest);
        sum += e;
        others += c == target ? 0.0f : e;
        if (c < target ? z[c] >= z[target] : z[c] > z[target]) beaten = 1;
    }
    sum = warp_sum(sum);
    others = warp_sum(others);
    beaten = warp_max((float)beaten) > 0.0f;
    float lacking = others / sum;
    float log_p = z[target] - largest - logf(sum);
    float power = lacking > 0.0f ? powf(lacking, gamma) : (gamma > 0.0f ? 0.0f : 1.0f);
    float p = expf(z[target] - largest) / sum;
    float slope = lacking > 1e-30f ? power - gamma * p * (power / lacking) * log_p : 0.0f;
    for (int c = lane; c < classes; c += WARP) {
        d[c] = c == target ? -scale * weight * slope * lacking
                           : scale * weight * slope * (expf(z[c] - largest) / sum);
    }
    if (lane == 0) {
        outcomes[2 * (size_t)r] = -weight * power * log_p;
        outcomes[2 * (size_t)r + 1] = beaten ? 0.0f : 1.0f;
    }
}

// How far two passes over the same sequences are from each other, one warp per pair of rows r and pairs + r. See ops/agreement.rs.
extern "C" __global__ void loss_agreement(const float *logits, float weight, float scale, float *gradient,
                                          float *outcomes, int pairs, int classes) {
    int r = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (r >= pairs) return;
    const float *a = logits + (size_t)r * classes, *b = logits + (size_t)(pairs + r) * classes;
    float *da = gradient + (size_t)r * classes, *db = gradient + (size_t)(pairs + r) * classes;
    float largest_a = NEGATIVE_INFINITY, largest_b = NEGATIVE_INFINITY;
    for (int c = lane; c < classes; c += WARP) {
        largest_a = fmaxf(largest_a, a[c]);
        largest_b = fmaxf(largest_b, b[c]);
    }
    largest_a = warp_max(largest_a);
    largest_b = warp_max(largest_b);
    float sum_a = 0.0f, sum_b = 0.0f;
    for (int c = lane; c < classes; c += WARP) {
        sum_a += expf(a[c] - largest_a);
        sum_b += expf(b[c] - largest_b);
    }
    float log_a = logf(warp_sum(sum_a)) + largest_a, log_b = logf(warp_sum(sum_b)) + largest_b;
    float forward = 0.0f, back = 0.0f;
    for (int c = lane; c < classes; c += WARP) {
        float p = a[c] - log_a, q = b[c] - log_b;
        forward += expf(p) * (p - q);
        back += expf(q) * (q - p);
    }
    forward = warp_sum(forward);
    back = warp_sum(back);
    float half_scale = 0.5f * scale * weight;
    for (int c = lane; c < classes; c += WARP) {
        float p = a[c] - log_a, q = b[c] - log_b;
        float d = p - q, ep = expf(p), eq = expf(q);
        da[c] = half_scale * (ep * (d - forward) + ep - eq);
        db[c] = half_scale * (eq * (-d - back) + eq - ep);
    }
    if (lane == 0) {
        outcomes[2 * (size_t)r] = 0.5f * weight * (forward + back);
        outcomes[2 * (size_t)r + 1] = 0.0f;
    }
}

// Binary cross-entropy per element.
extern "C" __global__ void loss_multi_label(const float *logits, const float *targets, float scale, float *gradient,
                                            float *outcomes, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float z = logits[i], t = targets[i];
    gradient[i] = scale * (1.0f / (1.0f + expf(-z)) - t);
    outcomes[2 * (size_t)i] = fmaxf(z, 0.0f) - z * t + log1pf(expf(-fabsf(z)));
    outcomes[2 * (size_t)i + 1] = (z > 0.0f) == (t > 0.5f) ? 1.0f : 0.0f;
}

// Squared error per element.
extern "C" __global__ void loss_regression(const float *logits, const float *targets, float scale, float *gradient,
                                           float *outcomes, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float d = logits[i] - targets[i];
    gradient[i] = scale * 2.0f * d;
    outcomes[2 * (size_t)i] = d * d;
    outcomes[2 * (size_t)i + 1] = 0.0f;
}

// sums = the sums of the terms and of the right ones, in f64 and in an order that only `count` decides. One block.
extern "C" __global__ void sum_outcomes(const float *outcomes, int count, double *sums) {
    __shared__ double parts[256][2];
    double term = 0.0, right = 0.0;
    for (int i = threadIdx.x; i < count; i += 256) {
        term += outcomes[2 * (size_t)i];
        right += outcomes[2 * (size_t)i + 1];
    }
    parts[threadIdx.x][0] = term;
    parts[threadIdx.x][1] = right;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) {
            parts[threadIdx.x][0] += parts[threadIdx.x + half][0];
            parts[threadIdx.x][1] += parts[threadIdx.x + half][1];
        }
        __syncthreads();
    }
    if (threadIdx.x < 2) sums[threadIdx.x] = parts[0][threadIdx.x];
}
