// What a kernel source finds when the emulated NVRTC compiles it with an ordinary C++ compiler.
//
// Only what the real NVRTC knows without any header, and of that only what is used. No atomics on floats: their order
// is not fixed, so the engine does not use them.
//
// Owns: the language of kernels. Never: includes a standard header, which would hide that one is missing.

#pragma once

#include "abi_device.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// `extern __shared__` is rewritten before this is seen.
#define __shared__ static __attribute__((section("emulator_shared")))
#define __CUDA_ARCH__ 900
#define warpSize 32

#define threadIdx (emulator::current->thread_index)
#define blockIdx (emulator::current->block_index)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)

struct dim3 {
    unsigned x, y, z;
};
#define EMULATOR_VECTOR(T, name)                                                  \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                            \
    struct name##3 { T x, y, z; };                                                \
    struct alignas(sizeof(T) * 4 > 16 ? 16 : sizeof(T) * 4) name##4 { T x, y, z, w; }; \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }             \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }     \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTOR(int, int)
EMULATOR_VECTOR(unsigned, uint)
EMULATOR_VECTOR(unsigned short, ushort)
EMULATOR_VECTOR(float, float)

// Barriers and warp operations, each with the line it stands in: that is how the emulator tells them apart.
namespace emulator {
enum Kind { SHUFFLE, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR, BALLOT, SYNC };
inline int vote(int line, int kind, int predicate) {
    int result = 0;
    calls.sync_block(line, kind, predicate, &result);
    return result;
}
template <class T>
inline T shuffle(int line, int kind, unsigned mask, T value, unsigned argument, unsigned width = 32) {
    static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = calls.exchange(line, kind, mask, bits, argument, width);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}
inline unsigned ballot(int line, unsigned mask, bool predicate) {
    return (unsigned)calls.exchange(line, BALLOT, mask, predicate, 0, 32);
}
}  // namespace emulator
#define __syncthreads() emulator::calls.sync_block(__LINE__, 0, 0, 0)
#define __syncthreads_or(p) emulator::vote(__LINE__, 1, (p) != 0)
#define __syncthreads_and(p) emulator::vote(__LINE__, 2, (p) != 0)
#define __syncthreads_count(p) emulator::vote(__LINE__, 3, (p) != 0)
#define __syncwarp(...) ((void)emulator::calls.exchange(__LINE__, emulator::SYNC, emulator::mask_or_all(__VA_ARGS__), 0, 0, 32))
#define __shfl_sync(mask, ...) emulator::shuffle(__LINE__, emulator::SHUFFLE, mask, __VA_ARGS__)
#define __shfl_up_sync(mask, ...) emulator::shuffle(__LINE__, emulator::SHUFFLE_UP, mask, __VA_ARGS__)
#define __shfl_down_sync(mask, ...) emulator::shuffle(__LINE__, emulator::SHUFFLE_DOWN, mask, __VA_ARGS__)
#define __shfl_xor_sync(mask, ...) emulator::shuffle(__LINE__, emulator::SHUFFLE_XOR, mask, __VA_ARGS__)
#define __ballot_sync(mask, p) emulator::ballot(__LINE__, mask, (p) != 0)
#define __any_sync(mask, p) (__ballot_sync(mask, p) != 0)
#define __all_sync(mask, p) (__ballot_sync(mask, !(p)) == 0)
namespace emulator {
inline unsigned mask_or_all(unsigned mask = 0xffffffffu) { return mask; }
}  // namespace emulator
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __threadfence(); }

// Atomics on integers.
#define EMULATOR_ATOMICS(T)                                                                               \
    inline T atomicAdd(T *p, T x) { return __atomic_fetch_add(p, x, __ATOMIC_RELAXED); }                  \
    inline T atomicExch(T *p, T x) { return __atomic_exchange_n(p, x, __ATOMIC_RELAXED); }                \
    inline T atomicCAS(T *p, T expected, T x) {                                                           \
        __atomic_compare_exchange_n(p, &expected, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);          \
        return expected;                                                                                  \
    }                                                                                                     \
    inline T atomicMax(T *p, T x) {                                                                       \
        T old = *p;                                                                                       \
        while (old < x && !__atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {} \
        return old;                                                                                       \
    }                                                                                                     \
    inline T atomicMin(T *p, T x) {                                                                       \
        T old = *p;                                                                                       \
        while (x < old && !__atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {} \
        return old;                                                                                       \
    }                                                                                                     \
    inline T atomicOr(T *p, T x) { return __atomic_fetch_or(p, x, __ATOMIC_RELAXED); }                    \
    inline T atomicAnd(T *p, T x) { return __atomic_fetch_and(p, x, __ATOMIC_RELAXED); }
EMULATOR_ATOMICS(int)
EMULATOR_ATOMICS(unsigned)
EMULATOR_ATOMICS(unsigned long long)

// Mathematics: the compiler's own, under the names that kernels use. What a GPU does not
// compute exactly is up to 2 units in the last place off, about the largest errors that NVIDIA's guide states; always the
// same for the same result.
namespace emulator {
inline float nearly(float x) {
    unsigned bits;
    __builtin_memcpy(&bits, &x, 4);
    // What is 0, infinite, 1 or hardly a number stays so.
    bool kept = (bits & 0x7fffffffu) < 0x01000000u || (bits & 0x7f800000u) == 0x7f800000u || x == 1.0f || x == -1.0f;
    if (!kept) bits += (bits * 2654435761u >> 16) % 5 - 2;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
}  // namespace emulator
#define EMULATOR_NEARLY(name) inline float name(float x) { return emulator::nearly(__builtin_##name(x)); }
#define EMULATOR_MATH(name) inline float name(float x) { return __builtin_##name(x); }
EMULATOR_NEARLY(expf) EMULATOR_NEARLY(exp2f) EMULATOR_NEARLY(expm1f) EMULATOR_NEARLY(logf) EMULATOR_NEARLY(log2f)
EMULATOR_NEARLY(log1pf) EMULATOR_MATH(sqrtf) EMULATOR_NEARLY(tanhf) EMULATOR_NEARLY(erff) EMULATOR_NEARLY(erfcf)
EMULATOR_MATH(fabsf) EMULATOR_MATH(floorf) EMULATOR_MATH(ceilf) EMULATOR_MATH(rintf) EMULATOR_MATH(roundf)
EMULATOR_MATH(truncf) EMULATOR_NEARLY(sinf) EMULATOR_NEARLY(cosf)
#define EMULATOR_MATH2(name) inline float name(float x, float y) { return __builtin_##name(x, y); }
EMULATOR_MATH2(fmaxf) EMULATOR_MATH2(fminf) EMULATOR_MATH2(powf) EMULATOR_MATH2(fmodf) EMULATOR_MATH2(copysignf)
inline float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __powf(float x, float y) { return __builtin_powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
#define EMULATOR_WIDE(name) inline double name(double x) { return __builtin_##name(x); }
EMULATOR_WIDE(exp) EMULATOR_WIDE(log) EMULATOR_WIDE(sqrt) EMULATOR_WIDE(tanh) EMULATOR_WIDE(fabs)
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isnan(double x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isinf(double x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }
// Rounded once each, and never fused into a multiply-add.
inline float __fadd_rn(float x, float y) { volatile float r = x + y; return r; }
inline float __fsub_rn(float x, float y) { volatile float r = x - y; return r; }
inline float __fmul_rn(float x, float y) { volatile float r = x * y; return r; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }

#define EMULATOR_ORDER(T)                                   \
    inline T min(T a, T b) { return b < a ? b : a; }        \
    inline T max(T a, T b) { return a < b ? b : a; }
EMULATOR_ORDER(int) EMULATOR_ORDER(unsigned) EMULATOR_ORDER(long) EMULATOR_ORDER(unsigned long)
EMULATOR_ORDER(long long) EMULATOR_ORDER(unsigned long long)
inline float min(float a, float b) { return __builtin_fminf(a, b); }
inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
inline int abs(int x) { return x < 0 ? -x : x; }

// Bits.
#define EMULATOR_CAST(name, To, From)                                 \
    inline To name(From x) {                                          \
        To y;                                                         \
        __builtin_memcpy(&y, &x, sizeof y);                           \
        return y;                                                     \
    }
EMULATOR_CAST(__float_as_uint, unsigned, float)
EMULATOR_CAST(__float_as_int, int, float)
EMULATOR_CAST(__uint_as_float, float, unsigned)
EMULATOR_CAST(__int_as_float, float, int)
EMULATOR_CAST(__double_as_longlong, long long, double)
EMULATOR_CAST(__longlong_as_double, double, long long)
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((unsigned long long)x * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}
// The upper word behind the lower one, shifted right.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)((((unsigned long long)high << 32) | low) >> (shift % 32));
}
template <class T> inline T __ldg(const T *p) { return *p; }

// What kernels write as PTX, under the names that they give it (kernels/attention_bf16.cu): multiplication of 16 x 16 by 16 x 8,
// loading of matrices of 8 x 8, rounding in pairs. Lanes show each other what they hold; blocks are whole warps of one dimension.
namespace emulator {
struct Operands { unsigned left[4], right[2]; };
static Operands operands[32][32];
inline float of_pair(unsigned pair, int upper) {
    unsigned bits = upper ? pair & 0xffff0000u : pair << 16;
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
inline unsigned rounded(float x) {
    unsigned bits;
    __builtin_memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}
}  // namespace emulator
inline void multiply_add(float (&sums)[4], const unsigned (&left)[4], unsigned right0, unsigned right1) {
    emulator::Operands *warp = emulator::operands[threadIdx.x / 32];
    int lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2;
    warp[lane] = {{left[0], left[1], left[2], left[3]}, {right0, right1}};
    __syncwarp();
    for (int i = 0; i < 4; i++) {
        const emulator::Operands *across = warp + row * 4, *down = warp + (column + i % 2) * 4;
        for (int k = 0; k < 16; k++) {
            float a = emulator::of_pair(across[k % 8 / 2].left[k / 8 * 2 + i / 2], k % 2);
            float b = emulator::of_pair(down[k % 8 / 2].right[k / 8], k % 2);
            sums[i] += a * b;
        }
    }
    __syncwarp();
}
inline void load_matrices(const unsigned short *row, unsigned (&to)[4]) {
    int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) {
        const unsigned short *from = __shfl_sync(0xffffffffu, row, i * 8 + lane / 4);
        // The rows of matrices begin at whole 16 bytes; what does not faults, as on a GPU.
        if ((size_t)from % 16) __builtin_trap();
        to[i] = from[lane % 4 * 2] | (unsigned)from[lane % 4 * 2 + 1] << 16;
    }
}
inline void load_transposed(const unsigned short *row, unsigned (&to)[4]) {
    int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) {
        const unsigned short *lower = __shfl_sync(0xffffffffu, row, i * 8 + lane % 4 * 2);
        const unsigned short *upper = __shfl_sync(0xffffffffu, row, i * 8 + lane % 4 * 2 + 1);
        if ((size_t)lower % 16 || (size_t)upper % 16) __builtin_trap();
        to[i] = lower[lane / 4] | (unsigned)upper[lane / 4] << 16;
    }
}
// Copies to shared memory that run beside the thread: here they are made when they are waited for, so that a missing wait shows.
namespace emulator {
struct Copy { unsigned short *to; const unsigned short *from; bool there; };
struct Copies { Copy all[64]; unsigned count; };
static Copies copies[1024];
}  // namespace emulator
inline void copy_async(unsigned short *to, const unsigned short *from, bool there) {
    if ((size_t)to % 16 || (size_t)from % 16) __builtin_trap();
    emulator::Copies &mine = emulator::copies[threadIdx.x];
    mine.all[mine.count++ % 64] = {to, from, there};
}
inline void wait_for_copies() {
    emulator::Copies &mine = emulator::copies[threadIdx.x];
    for (unsigned i = 0; i < mine.count; i++) {
        const emulator::Copy &copy = mine.all[i];
        for (int k = 0; k < 8; k++) copy.to[k] = copy.there ? copy.from[k] : 0;
    }
    mine.count = 0;
}
inline unsigned pack(float lower, float upper) { return emulator::rounded(lower) | emulator::rounded(upper) << 16; }
inline float power_of_two(float x) { return exp2f(x); }
