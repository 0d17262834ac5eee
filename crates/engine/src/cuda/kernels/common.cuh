// What every kernel file starts with: element types, loads and stores by run-time type, sums over a warp and a block
// in a fixed order, and the dropout masks. Never: a kernel.
//
// The text stands alone (no headers): it is compiled by NVRTC at first use, and by a plain C++ compiler in tests.
// A matrix is row-major and dense. An operand that may be f32 or bf16 comes as `void *` with its type beside it; the
// branch on the type is the same for all threads.

#define F32 0
#define BF16 1

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

// The factor (0 or `scale`) of one column under a row's key at its site.
static inline __device__ float dropout_factor(u64 key, unsigned column, unsigned threshold, float scale) {
    unsigned within = column % 32;
    unsigned x = (column / 32 * 16 + within % 16) * 0x9e3779b9u ^ (unsigned)key;
    x = (x ^ (x >> 16)) * 0x21f0aaadu;
    x ^= (unsigned)(key >> 32);
    x = (x ^ (x >> 15)) * 0x735a2d97u;
    x ^= x >> 15;
    unsigned lane = within < 16 ? x & 0xffffu : x >> 16;
    return lane < threshold ? 0.0f : scale;
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
