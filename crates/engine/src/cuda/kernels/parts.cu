// Sums whose parts are added in the order of a fixed tree, whichever rank has them. The CPU's: collective/tree.rs.

// Element i of part p: the rank's own part, or one of the others, which lie in their order, without it, `stride` elements apart.
static inline __device__ float part(const float *own, int own_index, const float *others, u64 stride, int p, u64 i) {
    return p == own_index ? own[i] : others[(u64)(p < own_index ? p : p - 1) * stride + i];
}

// The parts first .. first + N of one element, neighbours added first, then neighbours of those.
template <int N>
static inline __device__ float subtree(const float *own, int own_index, const float *others, u64 stride, int first, u64 i) {
    if constexpr (N == 1) {
        return part(own, own_index, others, stride, first, i);
    } else {
        float left = subtree<N / 2>(own, own_index, others, stride, first, i);
        float right = subtree<N / 2>(own, own_index, others, stride, first + N / 2, i);
        return left + right;
    }
}

// to[i] = the sum of all parts' i-th elements, for i < count; `to` may be `own`. `parts` is a power of two up to 64.
// Grid: count / blockDim.x.
extern "C" __global__ void fold_parts(const float *own, int own_index, const float *others, unsigned long long stride,
                                      int parts, float *to, unsigned long long count) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float sum;
    switch (parts) {
        case 1: sum = subtree<1>(own, own_index, others, stride, 0, i); break;
        case 2: sum = subtree<2>(own, own_index, others, stride, 0, i); break;
        case 4: sum = subtree<4>(own, own_index, others, stride, 0, i); break;
        case 8: sum = subtree<8>(own, own_index, others, stride, 0, i); break;
        case 16: sum = subtree<16>(own, own_index, others, stride, 0, i); break;
        case 32: sum = subtree<32>(own, own_index, others, stride, 0, i); break;
        default: sum = subtree<64>(own, own_index, others, stride, 0, i);
    }
    to[i] = sum;
}
