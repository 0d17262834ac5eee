// What surrounds a linear's matmul: the epilogue and its backward. See ops/linear.rs.
//
// A thread has two neighbouring columns of ROWS_PER_BLOCK rows. It reads those of some rows before it writes any: outputs may
// be inputs, so the compiler cannot. Types, activations and whether rows are even are known to the compiler where large models
// have them: a branch before each access would hold up the ones behind it.
#define AT_ONCE 4

// What linear_epilogue is given.
struct Forward {
    const float *z;
    int z_cols;
    const float *bias;
    int bias_cols, activation;
    void *saved;
    int saved_dtype;
    float act_scale;
    bool drops;
    unsigned threshold;
    float scale;
    const void *residual1, *residual2;
    int residual1_dtype, residual2_dtype;
    void *y;
    int y_dtype, rows, cols;
};

// EVEN: rows are, in all matrices. Y and REST: the types of y, and of residual and saved, unless ANY. RESIDUALS: how many there are, or ANY.
template <bool EVEN, int Y, int REST, int RESIDUALS, int ACTIVATION>
static inline __device__ void forward_rows(const Forward &f, const u64 *keys, int first, int c) {
    int cols = f.cols, end = min(f.rows, first + ROWS_PER_BLOCK);
    bool both = EVEN || c + 1 < cols, even = EVEN || cols % 2 == 0, z_even = EVEN || f.z_cols % 2 == 0;
    int y_dtype = Y == ANY ? f.y_dtype : Y, activation = ACTIVATION == ANY ? f.activation : ACTIVATION;
    int saved_dtype = REST == ANY ? f.saved_dtype : REST, dtype1 = REST == ANY ? f.residual1_dtype : REST;
    bool one = RESIDUALS == ANY ? f.residual1 != 0 : RESIDUALS > 0, two = RESIDUALS == ANY && f.residual2 != 0;
    Pair shift = {0.0f, 0.0f};
    if (f.bias != 0) shift = {c < f.bias_cols ? f.bias[c] : 0.0f, c + 1 < f.bias_cols ? f.bias[c + 1] : 0.0f};
    for (; first < end; first += AT_ONCE) {
        Pair x[AT_ONCE], more1[AT_ONCE], more2[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            int r = min(first + k, end - 1);
            size_t i = (size_t)r * cols + c;
            x[k] = load_pair(f.z, F32, (size_t)r * f.z_cols + c, z_even, both);
            if (one) more1[k] = load_pair(f.residual1, dtype1, i, even, both);
            if (two) more2[k] = load_pair(f.residual2, f.residual2_dtype, i, even, both);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            int r = first + k;
            if (r >= end) break;
            size_t i = (size_t)r * cols + c;
            Pair now = {x[k].a + shift.a, x[k].b + shift.b};
            if (f.saved != 0) store_pair(f.saved, saved_dtype, i, even, both, now);
            now = {activate(activation, now.a) * f.act_scale, activate(activation, now.b) * f.act_scale};
            if (f.drops) {
                u64 key = keys[r % ROWS_PER_BLOCK];
                now.a *= dropout_factor(key, c, f.threshold, f.scale);
                now.b *= dropout_factor(key, c + 1, f.threshold, f.scale);
            }
            if (one) now = {now.a + more1[k].a, now.b + more1[k].b};
            if (two) now = {now.a + more2[k].a, now.b + more2[k].b};
            store_pair(f.y, y_dtype, i, even, both, now);
        }
    }
}

// y = drop(act_scale * act(z + bias)) + residual1 + residual2; the pre-activation is kept in `saved`. z and y may be one buffer.
// Rows of z are z_cols apart; columns from bias_cols on have no bias. Null where absent: bias, saved, row_keys, residuals.
// Grid: pairs of columns / blockDim.x, rows / ROWS_PER_BLOCK.
extern "C" __global__ void linear_epilogue(const float *z, int z_cols, const float *bias, int bias_cols, int activation,
                                           void *saved, int saved_dtype, float act_scale,
                                           const unsigned long long *row_keys, unsigned site, unsigned threshold, float scale,
                                           const void *residual1, int residual1_dtype, const void *residual2,
                                           int residual2_dtype, void *y, int y_dtype, int rows, int cols) {
    __shared__ u64 keys[ROWS_PER_BLOCK];
    int first = blockIdx.y * ROWS_PER_BLOCK;
    load_keys(row_keys, site, first, rows, keys);
    int c = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= cols) return;
    Forward f = {z, z_cols, bias, bias_cols, activation, saved, saved_dtype, act_scale, row_keys != 0, threshold, scale,
                 residual1, residual2, residual1_dtype, residual2_dtype, y, y_dtype, rows, cols};
    bool even = cols % 2 == 0 && z_cols % 2 == 0;
    if (even && y_dtype == BF16 && residual1 == 0 && (saved == 0 || saved_dtype == BF16)) {
        if (activation == IDENTITY) return forward_rows<true, BF16, BF16, 0, IDENTITY>(f, keys, first, c);
        if (activation == RELU) return forward_rows<true, BF16, BF16, 0, RELU>(f, keys, first, c);
        return forward_rows<true, BF16, BF16, 0, ANY>(f, keys, first, c);
    }
    if (even && y_dtype == F32 && activation == IDENTITY && saved == 0 && residual1 != 0 && residual1_dtype == F32 && residual2 == 0) {
        return forward_rows<true, F32, F32, 1, IDENTITY>(f, keys, first, c);
    }
    forward_rows<false, ANY, ANY, ANY, ANY>(f, keys, first, c);
}

// What linear_epilogue_backward is given.
struct BackwardRows {
    const void *dy;
    int dy_dtype, activation;
    const void *saved;
    int saved_dtype;
    float act_scale;
    bool drops;
    unsigned threshold;
    float scale;
    void *dz;
    int dz_dtype, dz_cols;
    float *partial;
    int rows, cols;
};

// Pairs from element i on: one as load_pair has it, or two that are there, in one access, i being a multiple of 4.
template <int PAIRS>
static inline __device__ void load_pairs(const void *p, int dtype, size_t i, bool even, bool both, Pair (&to)[PAIRS]) {
    if (PAIRS == 1) {
        to[0] = load_pair(p, dtype, i, even, both);
    } else if (dtype == F32) {
        float4 x = *(const float4 *)((const float *)p + i);
        to[0] = {x.x, x.y};
        to[PAIRS - 1] = {x.z, x.w};
    } else {
        uint2 x = *(const uint2 *)((const half_word *)p + i);
        to[0] = {__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000u)};
        to[PAIRS - 1] = {__uint_as_float(x.y << 16), __uint_as_float(x.y & 0xffff0000u)};
    }
}

template <int PAIRS>
static inline __device__ void store_pairs(void *p, int dtype, size_t i, bool even, bool both, const Pair (&x)[PAIRS]) {
    if (PAIRS == 1) {
        store_pair(p, dtype, i, even, both, x[0]);
    } else if (dtype == F32) {
        *(float4 *)((float *)p + i) = make_float4(x[0].a, x[0].b, x[PAIRS - 1].a, x[PAIRS - 1].b);
    } else {
        *(uint2 *)((half_word *)p + i) = make_uint2(pack(x[0].a, x[0].b), pack(x[PAIRS - 1].a, x[PAIRS - 1].b));
    }
}

// PAIRS: of columns, for a thread; two only of rows whose columns are a multiple of 4. EVEN: rows are, in all matrices. DY and REST:
// the types of dy, and of saved and dz, unless ANY.
template <int PAIRS, bool EVEN, int DY, int REST, int ACTIVATION>
static inline __device__ void backward_rows(const BackwardRows &f, const u64 *keys, int first, int c) {
    int cols = f.cols, dz_cols = f.dz_cols, end = min(f.rows, first + ROWS_PER_BLOCK);
    bool both = EVEN || c + 1 < cols, even = EVEN || cols % 2 == 0;
    bool dz_both = EVEN || c + 1 < dz_cols, dz_even = EVEN || dz_cols % 2 == 0;
    int dy_dtype = DY == ANY ? f.dy_dtype : DY, activation = ACTIVATION == ANY ? f.activation : ACTIVATION;
    int saved_dtype = REST == ANY ? f.saved_dtype : REST, dz_dtype = REST == ANY ? f.dz_dtype : REST;
    bool derives = ACTIVATION != IDENTITY && f.saved != 0;
    Pair sum[PAIRS];
#pragma unroll
    for (int p = 0; p < PAIRS; p++) sum[p] = {0.0f, 0.0f};
    for (; first < end; first += AT_ONCE) {
        Pair x[AT_ONCE][PAIRS], of[AT_ONCE][PAIRS];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            size_t i = (size_t)min(first + k, end - 1) * cols + c;
            load_pairs(f.dy, dy_dtype, i, even, both, x[k]);
            if (derives) load_pairs(f.saved, saved_dtype, i, even, both, of[k]);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            int r = first + k;
            if (r >= end) break;
#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                Pair d = x[k][p];
                if (f.drops) {
                    u64 key = keys[r % ROWS_PER_BLOCK];
                    d.a *= dropout_factor(key, c + 2 * p, f.threshold, f.scale);
                    d.b *= dropout_factor(key, c + 2 * p + 1, f.threshold, f.scale);
                }
                d = {d.a * f.act_scale, d.b * f.act_scale};
                if (derives) {
                    d = {derive_activation(activation, d.a, of[k][p].a), derive_activation(activation, d.b, of[k][p].b)};
                }
                // Of a last column alone the second is nothing, whatever was made of it.
                if (!both) d.b = 0.0f;
                sum[p] = {sum[p].a + d.a, sum[p].b + d.b};
                x[k][p] = d;
            }
            if (f.dz != 0) store_pairs(f.dz, dz_dtype, (size_t)r * dz_cols + c, dz_even, dz_both, x[k]);
        }
    }
    if (f.partial == 0) return;
    size_t at = (size_t)blockIdx.y * cols + c;
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
        f.partial[at + 2 * p] = sum[p].a;
        if (both) f.partial[at + 2 * p + 1] = sum[p].b;
    }
}

// dz = dy * dropout factor * act_scale * act'(saved), its rows dz_cols apart, zeros behind the columns of dy; and partial[b] = its
// column sums over the rows of block b, before rounding.
// Null where absent: saved, row_keys, dz, partial. A thread has `of_thread` neighbouring columns: two, or four where those of dy and of
// dz are multiples of 4, dz and saved are bf16 or absent, and where something is saved dy is bf16, the activation ReLU or a GELU.
// Grid: dz's columns / (blockDim.x * of_thread), rows / ROWS_PER_BLOCK.
extern "C" __global__ void linear_epilogue_backward(const void *dy, int dy_dtype, int activation, const void *saved,
                                                    int saved_dtype, float act_scale,
                                                    const unsigned long long *row_keys, unsigned site,
                                                    unsigned threshold, float scale, void *dz, int dz_dtype,
                                                    int dz_cols, float *partial, int rows, int cols, int of_thread) {
    __shared__ u64 keys[ROWS_PER_BLOCK];
    int first = blockIdx.y * ROWS_PER_BLOCK;
    load_keys(row_keys, site, first, rows, keys);
    int c = of_thread * (blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= dz_cols) return;
    if (c >= cols) {
        for (int r = first; dz != 0 && r < rows && r < first + ROWS_PER_BLOCK; r++) {
            for (int k = 0; k < of_thread; k += 2) {
                store_pair(dz, dz_dtype, (size_t)r * dz_cols + c + k, dz_cols % 2 == 0, c + k + 1 < dz_cols, {0.0f, 0.0f});
            }
        }
        return;
    }
    BackwardRows f = {dy, dy_dtype, activation, saved, saved_dtype, act_scale, row_keys != 0, threshold, scale, dz, dz_dtype,
                      dz_cols, partial, rows, cols};
    if (of_thread == 4) {
        if (saved == 0 && dy_dtype == F32) return backward_rows<2, true, F32, BF16, IDENTITY>(f, keys, first, c);
        if (saved == 0) return backward_rows<2, true, BF16, BF16, IDENTITY>(f, keys, first, c);
        if (activation == RELU) return backward_rows<2, true, BF16, BF16, RELU>(f, keys, first, c);
        if (activation == GELU) return backward_rows<2, true, BF16, BF16, GELU>(f, keys, first, c);
        return backward_rows<2, true, BF16, BF16, GELU_EXACT>(f, keys, first, c);
    }
    if ((cols | dz_cols) % 2 == 0 && (dz == 0 || dz_dtype == BF16) && saved == 0) {
        if (dy_dtype == F32) return backward_rows<1, true, F32, BF16, IDENTITY>(f, keys, first, c);
        return backward_rows<1, true, BF16, BF16, IDENTITY>(f, keys, first, c);
    }
    backward_rows<1, false, ANY, ANY, ANY>(f, keys, first, c);
}
