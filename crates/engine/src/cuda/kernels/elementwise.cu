// Element by element over whole tensors: sums of gradients, conversion between types.

// a += b, a in f32.
extern "C" __global__ void add(float *a, const void *b, int b_dtype, unsigned long long count) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) a[i] += load(b, b_dtype, i);
}

// to = from, in the type of `to`.
extern "C" __global__ void convert(const void *from, int from_dtype, void *to, int to_dtype, unsigned long long count) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) store(to, to_dtype, i, load(from, from_dtype, i));
}
