// Squared distance to rows that are scaled to a root mean square of 1, one warp per row. See ops/distance.rs.
extern "C" __global__ void distance(const float *x, const void *targets, int targets_dtype, float scale, float *gradient,
                                    float *outcomes, int rows, int cols) {
    int r = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (r >= rows) return;
    size_t first = (size_t)r * cols;
    float squares = 0.0f;
    for (int c = lane; c < cols; c += WARP) {
        float t = load(targets, targets_dtype, first + c);
        squares += t * t;
    }
    squares = warp_sum(squares);
    float shrink = squares > 0.0f ? sqrtf((float)cols / squares) : 0.0f;
    float term = 0.0f;
    for (int c = lane; c < cols; c += WARP) {
        float apart = x[first + c] - load(targets, targets_dtype, first + c) * shrink;
        gradient[first + c] = scale * 2.0f * apart;
        term += apart * apart;
    }
    term = warp_sum(term);
    if (lane == 0) {
        outcomes[2 * (size_t)r] = term;
        outcomes[2 * (size_t)r + 1] = 0.0f;
    }
}
