// What every kernel file starts with: element types, loads and stores by run-time type, sums over a warp and a block
// in a fixed order, and the dropout masks. Never: a kernel.
//
// The text stands alone (no headers): it is compiled by NVRTC at first use, and by a plain C++ compiler in tests.
// A matrix is row-major and dense. An operand that may be f32 or bf16 comes as `void *` with its type beside it; the
// branch on the type is the same for all threads.

#define F32 0
#define BF16 1

// In templates, where the compiler does not know a type or an activation.
#define ANY (-1)

#define WARP 32
#define ALL_LANES 0xffffffffu
#define NEGATIVE_INFINITY __uint_as_float(0xff800000u)
// Rows that a block of an element-wise pass handles, one column per thread. Fixed, so partial sums are too.
#define ROWS_PER_BLOCK 32
// Largest number of warps in a block.
#define MAX_WARPS 32
// What stands for no row where rows are listed.
#define NO_ROW 0xffffffffu

typedef unsigned long long u64;
// A bf16's bits.
typedef unsigned short half_word;

// bf16 is the upper half of an f32.
static inline __device__ float widen(unsigned short x) { return __uint_as_float((unsigned)x << 16); }

// Round to nearest even; NaN stays NaN.
static inline __device__ unsigned short narrow(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (unsigned short)((bits >> 16) | 0x40u);
    return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline __device__ float load(const void *p, int dtype, size_t i) {
    return dtype == F32 ? ((const float *)p)[i] : widen(((const unsigned short *)p)[i]);
}

static inline __device__ void store(void *p, int dtype, size_t i, float x) {
    if (dtype == F32) {
        ((float *)p)[i] = x;
    } else {
        ((unsigned short *)p)[i] = narrow(x);
    }
}

#ifdef __CUDACC_RTC__
// Both rounded to bf16, the first in the lower half.
static inline __device__ unsigned pack(float lower, float upper) {
    unsigned packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(upper), "f"(lower));
    return packed;
}
#endif

// Two neighbouring elements.
struct Pair {
    float a, b;
};

// The elements i and i + 1, the second 0 unless `both`; in one access where `even` says that i is even and the address aligned.
static inline __device__ Pair load_pair(const void *p, int dtype, size_t i, bool even, bool both) {
    if (!even || !both) return {load(p, dtype, i), both ? load(p, dtype, i + 1) : 0.0f};
    if (dtype == F32) {
        float2 x = *(const float2 *)((const float *)p + i);
        return {x.x, x.y};
    }
    unsigned x = *(const unsigned *)((const half_word *)p + i);
    return {__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u)};
}

static inline __device__ void store_pair(void *p, int dtype, size_t i, bool even, bool both, Pair x) {
    if (!even || !both) {
        store(p, dtype, i, x.a);
        if (both) store(p, dtype, i + 1, x.b);
    } else if (dtype == F32) {
        *(float2 *)((float *)p + i) = make_float2(x.a, x.b);
    } else {
        *(unsigned *)((half_word *)p + i) = pack(x.a, x.b);
    }
}

// The columns c .. c + 8 of a row that begins at `row`, zeros from `dim` on. The row may begin anywhere.
static inline __device__ uint4 eight(const half_word *row, int c, int dim) {
    size_t address = (size_t)(row + c);
    int there = dim - c;
    if (address % 16 == 0 && there >= 8) return *(const uint4 *)(row + c);
    // The words that hold them; none that holds no column of the row.
    const unsigned *words = (const unsigned *)(address / 4 * 4);
    int odd = (int)(address / 2 % 2);
    unsigned word[5], out[4];
#pragma unroll
    for (int i = 0; i < 5; i++) word[i] = 2 * i - odd < there && (i < 4 || odd) ? words[i] : 0u;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[i] = __funnelshift_r(word[i], word[i + 1], odd * 16);
        if (2 * i >= there - 1) out[i] &= 2 * i < there ? 0xffffu : 0u;
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

static inline __device__ float warp_sum(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

static inline __device__ float warp_max(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// The sum over a block, in all its threads. `room` is shared, MAX_WARPS long. The block is whole warps.
static inline __device__ float block_sum(float x, float *room) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0.0f;
    for (unsigned w = 0; w < blockDim.x / WARP; w++) sum += room[w];
    return sum;
}

static inline __device__ float block_max(float x, float *room) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    float largest = room[0];
    for (unsigned w = 1; w < blockDim.x / WARP; w++) largest = fmaxf(largest, room[w]);
    return largest;
}

// Dropout: the functions of rng.rs, word for word.

static inline __device__ u64 mix64(u64 x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static inline __device__ u64 derive(u64 key, u64 value) {
    const u64 golden = 0x9e3779b97f4a7c15ull;
    return mix64((key + golden) ^ mix64(value + golden));
}

// The random bits of a column and of the one 16 further, which share them: its own are the lower half where column % 32 < 16.
static inline __device__ unsigned dropout_bits(u64 key, unsigned column) {
    unsigned x = (column / 32 * 16 + column % 16) * 0x9e3779b9u ^ (unsigned)key;
    x = (x ^ (x >> 16)) * 0x21f0aaadu;
    x ^= (unsigned)(key >> 32);
    x = (x ^ (x >> 15)) * 0x735a2d97u;
    return x ^ (x >> 15);
}

// The factor (0 or `scale`) of one column under a row's key at its site.
static inline __device__ float dropout_factor(u64 key, unsigned column, unsigned threshold, float scale) {
    unsigned bits = dropout_bits(key, column);
    return (column % 32 < 16 ? bits & 0xffffu : bits >> 16) < threshold ? 0.0f : scale;
}

// The key of a row's probabilities in a head.
static inline __device__ u64 head_key(const u64 *row_keys, int row, unsigned site, int head) {
    return derive(derive(row_keys[row], site), head);
}

// The keys at `site` of the rows first .. first + ROWS_PER_BLOCK, into shared memory; nothing where nothing is dropped
// (`row_keys` is null). The whole block calls it; block_keys are ready afterwards.
static inline __device__ void load_keys(const u64 *row_keys, unsigned site, int first, int rows, u64 *block_keys) {
    if (row_keys == 0) return;
    for (int i = threadIdx.x; i < ROWS_PER_BLOCK && first + i < rows; i += blockDim.x) {
        block_keys[i] = derive(row_keys[first + i], site);
    }
    __syncthreads();
}

// Activation functions; their numbers are those of `Activation` in activation.rs.
#define IDENTITY 0
#define RELU 1
#define GELU 2
#define GELU_EXACT 3
#define SILU 4
#define TANH 5

#define GELU_SCALE 0.7978845608f  // sqrt(2 / pi)
#define GELU_CUBIC 0.044715f

// The standard normal distribution function; *e = exp(-x^2 / 2). See cpu/math.rs.
static inline __device__ float normal_cdf(float x, float *e) {
    float a = fabsf(x) * 0.70710678f;
    *e = expf(-a * a);
    float t = 1.0f / (1.0f + 0.3275911f * a);
    float p = t * (1.4214137f + t * (-1.453152f + t * 1.0614054f));
    float tail = 0.5f * *e * t * (0.2548296f + t * (-0.28449675f + p));
    return x < 0.0f ? tail : 1.0f - tail;
}

static inline __device__ float sigmoid(float x) {
    float e = expf(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

static inline __device__ float activate(int activation, float z) {
    if (activation == RELU) return z > 0.0f ? z : 0.0f;
    if (activation == GELU) return 0.5f * z * (1.0f + tanhf(GELU_SCALE * (z + GELU_CUBIC * z * z * z)));
    if (activation == GELU_EXACT) {
        float e;
        return z * normal_cdf(z, &e);
    }
    if (activation == SILU) return z * sigmoid(z);
    if (activation == TANH) return tanhf(z);
    return z;
}

// d * act'(saved): saved is the output for ReLU, the input for all others.
static inline __device__ float derive_activation(int activation, float d, float saved) {
    if (activation == RELU) return saved > 0.0f ? d : 0.0f;
    if (activation == GELU) {
        // With t = tanh(u): (1 + t) / 2 and 1 - t^2 from one exponential, since few digits of a t near 1 would be left.
        float u = GELU_SCALE * (saved + GELU_CUBIC * saved * saved * saved);
        float e = expf(-2.0f * fabsf(u)), share = 1.0f / (1.0f + e);
        float inner = GELU_SCALE * (1.0f + 3.0f * GELU_CUBIC * saved * saved);
        return d * ((u < 0.0f ? e * share : share) + 2.0f * saved * e * share * share * inner);
    }
    if (activation == GELU_EXACT) {
        float e, cdf = normal_cdf(saved, &e);
        return d * (cdf + saved * e * 0.3989423f);
    }
    if (activation == SILU) {
        float s = sigmoid(saved);
        return d * s * (1.0f + saved * (1.0f - s));
    }
    if (activation == TANH) {
        float t = tanhf(saved);
        return d * (1.0f - t * t);
    }
    return d;
}

// Whether a query sees a key, both counted from the same place.
static inline __device__ bool in_sight(int query, int key, int causal, int window) {
    return (!causal || key <= query) && key - query <= window && query - key <= window;
}

// Products of two sets of packed rows: a warp owns ROWS rows of one and walks over the other in tiles, a row to a lane.

#define TILE WARP
#define ROWS 4
// Columns of a head that one lane sums: heads of up to 4 * 32 = 128.
#define GROUPS 4
// From one staged row to the next; odd, so that the lanes, each in its own row, read from different banks.
#define PITCH(dim) ((dim) | 1)

// Rows first .. first + count (those below `end`; zeros beyond) of columns col .. col + dim, into shared memory.
static inline __device__ void stage(const void *x, int dtype, int x_stride, int col, int first, int count, int end, int dim,
                             float *to, int to_stride) {
    for (int r = threadIdx.x / WARP; r < count; r += blockDim.x / WARP) {
        size_t at = (size_t)(first + r) * x_stride + col;
        for (int c = threadIdx.x % WARP; c < dim; c += WARP) {
            to[r * to_stride + c] = first + r < end ? load(x, dtype, at + c) : 0.0f;
        }
    }
}

// sums[r] = the product of own row r with the staged row of this lane.
static inline __device__ void multiply_rows(const float *own, const float *staged, int dim, float *sums) {
    const float *other = staged + (threadIdx.x % WARP) * PITCH(dim);
    for (int r = 0; r < ROWS; r++) sums[r] = 0.0f;
    for (int d = 0; d < dim; d++) {
        float x = other[d];
#pragma unroll
        for (int r = 0; r < ROWS; r++) sums[r] += own[r * dim + d] * x;
    }
}

// sums[r][g] += the sum over the tile of factors[r][j] * staged[j], this lane's columns.
static inline __device__ void add_weighted(const float *factors, const float *staged, int dim, float (*sums)[GROUPS]) {
    int lane = threadIdx.x % WARP;
    for (int j = 0; j < TILE; j++) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            int c = lane + g * WARP;
            if (c < dim) {
                float x = staged[j * PITCH(dim) + c];
#pragma unroll
                for (int r = 0; r < ROWS; r++) sums[r][g] += factors[r * TILE + j] * x;
            }
        }
    }
}
