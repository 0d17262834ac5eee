// The cosine of the rows 2 p and 2 p + 1 of each pair p. See ops/cosine.rs. One warp per pair.

#define SHORTEST 1e-8f

extern "C" __global__ void cosine_forward(const void *x, int x_dtype, float *y, int pairs, int cols) {
    int p = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (p >= pairs) return;
    size_t first = 2 * (size_t)p * cols, second = first + cols;
    float aa = 0.0f, bb = 0.0f, ab = 0.0f;
    for (int c = lane; c < cols; c += WARP) {
        float a = load(x, x_dtype, first + c), b = load(x, x_dtype, second + c);
        aa += a * a;
        bb += b * b;
        ab += a * b;
    }
    aa = fmaxf(sqrtf(warp_sum(aa)), SHORTEST);
    bb = fmaxf(sqrtf(warp_sum(bb)), SHORTEST);
    ab = warp_sum(ab);
    if (lane == 0) y[p] = ab / (aa * bb);
}

// dx of both rows.
extern "C" __global__ void cosine_backward(const void *x, int x_dtype, const void *dy, int dy_dtype, float *dx, int pairs,
                                           int cols) {
    int p = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (p >= pairs) return;
    size_t first = 2 * (size_t)p * cols, second = first + cols;
    float aa = 0.0f, bb = 0.0f, ab = 0.0f;
    for (int c = lane; c < cols; c += WARP) {
        float a = load(x, x_dtype, first + c), b = load(x, x_dtype, second + c);
        aa += a * a;
        bb += b * b;
        ab += a * b;
    }
    aa = sqrtf(warp_sum(aa));
    bb = sqrtf(warp_sum(bb));
    ab = warp_sum(ab);
    float of_a = fmaxf(aa, SHORTEST), of_b = fmaxf(bb, SHORTEST);
    float across = load(dy, dy_dtype, p) / (of_a * of_b);
    float along_a = aa > SHORTEST ? across * ab / (of_a * of_a) : 0.0f;
    float along_b = bb > SHORTEST ? across * ab / (of_b * of_b) : 0.0f;
    for (int c = lane; c < cols; c += WARP) {
        float a = load(x, x_dtype, first + c), b = load(x, x_dtype, second + c);
        dx[first + c] = across * b - along_a * a;
        dx[second + c] = across * a - along_b * b;
    }
}
