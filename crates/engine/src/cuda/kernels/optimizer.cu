// The optimizer's kernels: the sum of squares of the gradients, Adam's step, values that move towards others.

// partial[b] = sum of x[i]^2 over part b of `per_block` elements, in f64, in an order that only n decides.
extern "C" __global__ void sum_of_squares(const float *x, double *partial, unsigned long long n, int per_block) {
    __shared__ double sums[256];
    u64 first = (u64)blockIdx.x * (u64)per_block;
    u64 end = first + (u64)per_block < n ? first + (u64)per_block : n;
    double sum = 0.0;
    for (u64 i = first + threadIdx.x; i < end; i += 256) {
        double value = (double)x[i];
        sum += value * value;
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) {
            sums[threadIdx.x] += sums[threadIdx.x + half];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sums[0];
    }
}

// x += rate (y - x), as ops/blend.rs has it.
extern "C" __global__ void blend(float *x, const float *y, unsigned long long n, float rate) {
    u64 threads = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += threads) {
        x[i] += rate * (y[i] - x[i]);
    }
}

// A run of parameters that share rate and decay; laid out as `DeviceRange` in cuda/ops/adam.rs.
struct Range {
    u64 start;       // its first element in the weights
    u64 grad;        // its first element in the gradients
    u64 moment;      // its first element in the moments
    u64 len;         // its elements
    u64 first_block; // the block that takes its first elements
    float step_size, root, coupled, shrink; // `Rates` in ops/adam.rs
};

// One step over all ranges; leaves the gradients zero. As ops/adam.rs has it. Block b takes at most `per_block`
// elements of range range_of_block[b]. `rounded`, if not null, holds all weights in bf16; the new ones are
// rounded into it.
extern "C" __global__ void adam_step(float *w, unsigned short *rounded, float *g, float *m, float *v,
                                     const Range *ranges, const unsigned *range_of_block, int per_block, float clip,
                                     float beta1, float beta2, float eps) {
    Range range = ranges[range_of_block[blockIdx.x]];
    u64 first = (blockIdx.x - range.first_block) * (u64)per_block;
    u64 end = first + (u64)per_block < range.len ? first + (u64)per_block : range.len;
    w += range.start;
    g += range.grad;
    m += range.moment;
    v += range.moment;
    for (u64 i = first + threadIdx.x; i < end; i += blockDim.x) {
        float gradient = g[i] * clip + range.coupled * w[i];
        float first_moment = beta1 * m[i] + (1.0f - beta1) * gradient;
        float second_moment = beta2 * v[i] + (1.0f - beta2) * gradient * gradient;
        float weight = w[i] * range.shrink - range.step_size * first_moment / (sqrtf(second_moment) * range.root + eps);
        m[i] = first_moment;
        v[i] = second_moment;
        w[i] = weight;
        g[i] = 0.0f;
        if (rounded != 0) {
            rounded[range.start + i] = narrow(weight);
        }
    }
}
