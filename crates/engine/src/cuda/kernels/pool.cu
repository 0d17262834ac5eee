// Pooling over the rows offsets[s] .. offsets[s + 1] of each sequence. See ops/pool.rs.
// Grid of both kernels: columns / blockDim.x, sequences (in strides).

#define POOL_MEAN 0
#define POOL_MAX 1

extern "C" __global__ void pool_forward(const void *x, int x_dtype, const unsigned *offsets, int sequences, int pooling,
                                        float *y, int cols) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int s = blockIdx.y; s < sequences; s += gridDim.y) {
        unsigned first = offsets[s], end = offsets[s + 1];
        float sum = load(x, x_dtype, (size_t)first * cols + c);
        for (unsigned r = first + 1; r < end; r++) {
            float v = load(x, x_dtype, (size_t)r * cols + c);
            sum = pooling == POOL_MEAN ? sum + v : fmaxf(sum, v);
        }
        y[(size_t)s * cols + c] = pooling == POOL_MEAN ? sum / (float)(end - first) : sum;
    }
}

// dx: the mean's gradient is spread evenly; the largest value's goes to the first row that has it.
extern "C" __global__ void pool_backward(const void *x, int x_dtype, const void *dy, int dy_dtype,
                                         const unsigned *offsets, int sequences, int pooling, float *dx, int cols) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int s = blockIdx.y; s < sequences; s += gridDim.y) {
        unsigned first = offsets[s], end = offsets[s + 1];
        float d = load(dy, dy_dtype, (size_t)s * cols + c);
        float share = 1.0f / (float)(end - first);
        unsigned winner = first;
        if (pooling == POOL_MAX) {
            float best = load(x, x_dtype, (size_t)first * cols + c);
            for (unsigned r = first + 1; r < end; r++) {
                float v = load(x, x_dtype, (size_t)r * cols + c);
                if (v > best) {
                    best = v;
                    winner = r;
                }
            }
        }
        for (unsigned r = first; r < end; r++) {
            dx[(size_t)r * cols + c] = pooling == POOL_MEAN ? d * share : (r == winner ? d : 0.0f);
        }
    }
}
