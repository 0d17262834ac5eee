// Divergence from the probabilities of another model's logits, one warp per row. See ops/soft_labels.rs.
extern "C" __global__ void soft_labels(const float *logits, const float *targets, float temperature, float scale,
                                       float *gradient, float *outcomes, int rows, int classes) {
    int r = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (r >= rows) return;
    const float *z = logits + (size_t)r * classes;
    const float *t = targets + (size_t)r * classes;
    float *d = gradient + (size_t)r * classes;
    float z_largest = NEGATIVE_INFINITY, t_largest = NEGATIVE_INFINITY;
    for (int c = lane; c < classes; c += WARP) {
        z_largest = fmaxf(z_largest, z[c]);
        t_largest = fmaxf(t_largest, t[c]);
    }
    z_largest = warp_max(z_largest);
    t_largest = warp_max(t_largest);
    // The first class that is as large as the largest.
    float z_first = -(float)classes, t_first = -(float)classes;
    float z_sum = 0.0f, t_sum = 0.0f;
    for (int c = lane; c < classes; c += WARP) {
        if (z[c] == z_largest) z_first = fmaxf(z_first, -(float)c);
        if (t[c] == t_largest) t_first = fmaxf(t_first, -(float)c);
        z_sum += expf((z[c] - z_largest) / temperature);
        t_sum += expf((t[c] - t_largest) / temperature);
    }
    z_first = warp_max(z_first);
    t_first = warp_max(t_first);
    float z_all = logf(warp_sum(z_sum)) + z_largest / temperature;
    float t_all = logf(warp_sum(t_sum)) + t_largest / temperature;
    float term = 0.0f;
    for (int c = lane; c < classes; c += WARP) {
        float log_q = z[c] / temperature - z_all, log_p = t[c] / temperature - t_all;
        float p = expf(log_p);
        d[c] = scale * temperature * (expf(log_q) - p);
        term += p * (log_p - log_q);
    }
    term = warp_sum(term);
    if (lane == 0) {
        outcomes[2 * (size_t)r] = temperature * temperature * term;
        outcomes[2 * (size_t)r + 1] = z_first == t_first ? 1.0f : 0.0f;
    }
}
