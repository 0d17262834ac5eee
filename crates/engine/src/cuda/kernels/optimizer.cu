// The optimizer's kernels: the sum of squares of the gradients, Adam's step, bf16 copies of the weights.

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

// One step over a run of parameters that share rate and decay; leaves the gradients zero. As ops/adam.rs has it.
extern "C" __global__ void adam_step(float *w, float *g, float *m, float *v, unsigned long long n, float clip, float beta1,
                                     float beta2, float eps, float step_size, float root, float coupled,
                                     float shrink) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) {
        return;
    }
    float gradient = g[i] * clip + coupled * w[i];
    float first = beta1 * m[i] + (1.0f - beta1) * gradient;
    float second = beta2 * v[i] + (1.0f - beta2) * gradient * gradient;
    m[i] = first;
    v[i] = second;
    w[i] = w[i] * shrink - step_size * first / (sqrtf(second) * root + eps);
    g[i] = 0.0f;
}

// y = x in bf16, rounded to nearest even.
extern "C" __global__ void weights_to_bf16(const float *x, unsigned short *y, unsigned long long n) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        y[i] = narrow(x[i]);
    }
}
