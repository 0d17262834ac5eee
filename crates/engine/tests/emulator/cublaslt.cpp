// The emulated cuBLASLt, `libcublasLt.so`: D = alpha op(A) op(B) + beta C, column-major, f32 or bf16 operands,
// accumulated in f32 over parts of k, which are added in their order.
//
// Stricter than the real one: an algorithm is good for the shapes and alignments that it was asked for and for no
// others, the workspace is used up, the parts' sums are rounded to the output's type wherever that is allowed, and
// whatever is not written here is not supported.
//
// Owns: descriptors, their rules, the product. Never: memory and streams, which are the driver's.

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "abi.h"

EXPORT void *emulator_reach(Address address, uint64_t bytes, const char *what);
EXPORT int emulator_enqueue(void *stream, const char *call, int (*work)(void *), void (*drop)(void *), void *data);
EXPORT int emulator_broken(int code, const char *what);

namespace {

enum { OK = 0, NOT_INITIALIZED_ = 1, INVALID_VALUE_ = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED_ = 15 };
enum { F32 = 0, BF16 = 14, COMPUTE_32F = 68 };

int refuse(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "emulator: cuBLASLt: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, code == NOT_SUPPORTED_ ? " (CUBLAS_STATUS_NOT_SUPPORTED)\n" : " (CUBLAS_STATUS_INVALID_VALUE)\n");
    va_end(arguments);
    return code;
}

struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t ld;
    int32_t batches = 1;
    int64_t batch_stride = 0;
    size_t width() const { return type == F32 ? 4 : 2; }
    uint64_t span() const {
        if (rows == 0 || cols == 0) return 0;
        uint64_t one = (cols - 1) * static_cast<uint64_t>(ld) + rows;
        return (one + static_cast<uint64_t>(batches - 1) * static_cast<uint64_t>(batch_stride)) * width();
    }
    bool operator==(const Layout &o) const {
        return type == o.type && rows == o.rows && cols == o.cols && ld == o.ld && batches == o.batches && batch_stride == o.batch_stride;
    }
};

// What is done to a product before it is written.
enum { NOTHING = 1, BIAS = 4, RELU_BIAS = 6, GELU_BIAS = 36, GELU_AUX_BIAS = 164 };

struct Desc {
    int32_t transposed[2] = {0, 0};
    uint32_t epilogue = NOTHING;
    Address bias = 0, kept = 0;
    int64_t kept_ld = 0;
};

struct Preference {
    uint64_t workspace = 0;
    uint32_t reductions = 7;  // of split sums: in place, in the type of the sums, in the type of the output
    uint32_t alignment[4] = {256, 256, 256, 256};
};

// What the opaque 64 bytes of an algorithm hold.
struct Algo {
    uint64_t magic, key;
    uint32_t alignment[4];
    uint64_t workspace;
    uint64_t rounds_parts;
    uint64_t rest[2];
};
static_assert(sizeof(Algo) == 64, "as large as cublasLtMatmulAlgo_t");

struct HeuristicResult {
    Algo algo;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
};

constexpr uint64_t MAGIC = 0x656d756c61746564;
constexpr uint64_t WORKSPACE = 64 * 1024;  // what the algorithm takes, if it may
constexpr size_t PART = 16;                 // of k, summed by itself

// A number for everything an algorithm was chosen for.
uint64_t key_of(const Desc &d, const Layout *const layouts[4]) {
    uint64_t h = static_cast<uint64_t>(d.transposed[0] * 2 + d.transposed[1]) + 4 * d.epilogue + 1024 * static_cast<uint64_t>(d.kept_ld);
    for (int i = 0; i < 4; i++) {
        const Layout &l = *layouts[i];
        for (uint64_t x : {uint64_t(l.type), l.rows, l.cols, uint64_t(l.ld), uint64_t(l.batches), uint64_t(l.batch_stride)}) {
            h = (h ^ x) * 0x100000001b3ull + 0x9e3779b97f4a7c15ull;
        }
    }
    return h;
}

int check(const Desc &d, const Layout *const layouts[4]) {
    const Layout &a = *layouts[0], &b = *layouts[1], &c = *layouts[2], &y = *layouts[3];
    for (int i = 0; i < 4; i++) {
        if (layouts[i]->rows == 0 || layouts[i]->cols == 0) return refuse(INVALID_VALUE_, "operand %d is empty", i);
        if (layouts[i]->ld < static_cast<int64_t>(layouts[i]->rows)) return refuse(INVALID_VALUE_, "operand %d: a leading dimension below its rows", i);
        if (layouts[i]->batches != y.batches) return refuse(INVALID_VALUE_, "operand %d: another number of batches", i);
    }
    uint64_t m = d.transposed[0] ? a.cols : a.rows, k = d.transposed[0] ? a.rows : a.cols;
    uint64_t kb = d.transposed[1] ? b.cols : b.rows, n = d.transposed[1] ? b.rows : b.cols;
    if (k != kb || y.rows != m || y.cols != n || c.rows != m || c.cols != n) {
        return refuse(INVALID_VALUE_, "shapes do not fit: A gives %lu x %lu, B %lu x %lu, D is %lu x %lu", m, k, kb, n, y.rows, y.cols);
    }
    bool types = a.type == b.type && c.type == y.type && (a.type == BF16 || (a.type == F32 && y.type == F32));
    if (!types) return refuse(NOT_SUPPORTED_, "types %d, %d, %d, %d", a.type, b.type, c.type, y.type);
    if (d.epilogue == NOTHING) return OK;
    if (y.type != BF16 || y.batches != 1) return refuse(NOT_SUPPORTED_, "epilogue %u of type %d", d.epilogue, y.type);
    if (d.bias == 0 || d.bias % 16 != 0) return refuse(INVALID_VALUE_, "a bias at 0x%lx", d.bias);
    if (d.epilogue == GELU_AUX_BIAS && (d.kept == 0 || d.kept % 16 != 0 || d.kept_ld % 8 != 0 || d.kept_ld < static_cast<int64_t>(m))) {
        return refuse(INVALID_VALUE_, "a kept product at 0x%lx, its columns %ld apart", d.kept, d.kept_ld);
    }
    return OK;
}

float widen(uint16_t x) {
    uint32_t bits = static_cast<uint32_t>(x) << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

uint16_t narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float load(const void *p, int type, size_t i) {
    return type == F32 ? static_cast<const float *>(p)[i] : widen(static_cast<const uint16_t *>(p)[i]);
}

// An operand as dense f32 columns: rows x cols of what the product sees.
std::vector<float> dense(const void *p, const Layout &l, bool transposed, size_t offset) {
    size_t rows = transposed ? l.cols : l.rows, cols = transposed ? l.rows : l.cols, ld = static_cast<size_t>(l.ld);
    std::vector<float> out(rows * cols);
    for (size_t j = 0; j < cols; j++) {
        for (size_t i = 0; i < rows; i++) {
            out[j * rows + i] = load(p, l.type, offset + (transposed ? i * ld + j : j * ld + i));
        }
    }
    return out;
}

struct Product {
    Desc desc;
    Layout layouts[4];
    Address addresses[4], workspace;
    size_t workspace_bytes;
    float alpha, beta;
    bool rounds_parts;
    uint64_t kept_span() const { return 2 * ((layouts[3].cols - 1) * static_cast<uint64_t>(desc.kept_ld) + layouts[3].rows); }
};

#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "arch=x86-64-v3", "default")))
#endif
void columns(float *y, const float *a, const float *b, size_t m, size_t k, size_t from, size_t to, bool rounds_parts) {
    std::vector<float> part(m);
    for (size_t j = from; j < to; j++) {
        float *column = y + j * m;
        for (size_t first = 0; first < k; first += PART) {
            std::fill(part.begin(), part.end(), 0.0f);
            for (size_t l = first; l < k && l < first + PART; l++) {
                float x = b[j * k + l];
                for (size_t i = 0; i < m; i++) part[i] += a[l * m + i] * x;
            }
            for (size_t i = 0; i < m; i++) column[i] += part[i];
            for (size_t i = 0; rounds_parts && i < m; i++) column[i] = widen(narrow(column[i]));
        }
    }
}

// In its tanh form.
float gelu(float x) { return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x))); }

int run(void *data) {
    auto &p = *static_cast<Product *>(data);
    void *at[4];
    const void *bias = nullptr;
    void *kept = nullptr;
    if (p.desc.epilogue != NOTHING) {
        bias = emulator_reach(p.desc.bias, 2 * p.layouts[3].rows, "cublasLtMatmul's bias");
        if (!bias) return emulator_broken(ILLEGAL_ADDRESS, "cublasLtMatmul: the bias was freed before it ran");
    }
    if (p.desc.epilogue == GELU_AUX_BIAS) {
        kept = emulator_reach(p.desc.kept, p.kept_span(), "cublasLtMatmul's kept product");
        if (!kept) return emulator_broken(ILLEGAL_ADDRESS, "cublasLtMatmul: the kept product was freed before it ran");
    }
    for (int i = 0; i < 4; i++) {
        if (i == 2 && p.beta == 0) continue;
        at[i] = emulator_reach(p.addresses[i], p.layouts[i].span(), "cublasLtMatmul");
        if (!at[i]) return emulator_broken(ILLEGAL_ADDRESS, "cublasLtMatmul: an operand was freed before it ran");
    }
    if (p.workspace_bytes) {
        void *room = emulator_reach(p.workspace, p.workspace_bytes, "cublasLtMatmul's workspace");
        if (!room) return emulator_broken(ILLEGAL_ADDRESS, "cublasLtMatmul: the workspace was freed before it ran");
        memset(room, 0xff, p.workspace_bytes);
    }
    const Layout &a = p.layouts[0], &b = p.layouts[1], &c = p.layouts[2], &d = p.layouts[3];
    size_t m = d.rows, n = d.cols, k = p.desc.transposed[0] ? a.rows : a.cols;
    for (int batch = 0; batch < d.batches; batch++) {
        auto offset = [&](const Layout &l) { return static_cast<size_t>(batch * l.batch_stride); };
        std::vector<float> left = dense(at[0], a, p.desc.transposed[0], offset(a));
        std::vector<float> right = dense(at[1], b, p.desc.transposed[1], offset(b));
        std::vector<float> sums(m * n, 0.0f);
        if (m * n * k > 1 << 20 && n > 1) {
            std::thread half([&] { columns(sums.data(), left.data(), right.data(), m, k, 0, n / 2, p.rounds_parts); });
            columns(sums.data(), left.data(), right.data(), m, k, n / 2, n, p.rounds_parts);
            half.join();
        } else {
            columns(sums.data(), left.data(), right.data(), m, k, 0, n, p.rounds_parts);
        }
        for (size_t j = 0; j < n; j++) {
            for (size_t i = 0; i < m; i++) {
                float y = p.alpha * sums[j * m + i];
                // At beta = 0, C is not read: it may be NaN.
                if (p.beta != 0) y += p.beta * load(at[2], c.type, offset(c) + j * static_cast<size_t>(c.ld) + i);
                if (bias) y += load(bias, BF16, i);
                if (kept) static_cast<uint16_t *>(kept)[j * static_cast<size_t>(p.desc.kept_ld) + i] = narrow(y);
                if (p.desc.epilogue == RELU_BIAS) y = y > 0 ? y : 0;
                if (p.desc.epilogue == GELU_BIAS || p.desc.epilogue == GELU_AUX_BIAS) y = gelu(y);
                size_t to = offset(d) + j * static_cast<size_t>(d.ld) + i;
                if (d.type == F32) static_cast<float *>(at[3])[to] = y;
                else static_cast<uint16_t *>(at[3])[to] = narrow(y);
            }
        }
    }
    return SUCCESS;
}

template <class T> int set(T &to, const void *from, size_t bytes) {
    if (bytes != sizeof(T)) return refuse(INVALID_VALUE_, "an attribute of %zu bytes, where it has %zu", bytes, sizeof(T));
    memcpy(&to, from, bytes);
    return OK;
}

char handle;

}  // namespace

EXPORT int cublasLtCreate(void **made) { *made = &handle; return OK; }
EXPORT int cublasLtDestroy(void *made) { return made == &handle ? OK : NOT_INITIALIZED_; }
EXPORT size_t cublasLtGetVersion() { return 130000; }

EXPORT int cublasLtMatmulDescCreate(Desc **desc, int compute, int scale) {
    if (compute != COMPUTE_32F || scale != F32) return refuse(NOT_SUPPORTED_, "compute type %d, scale type %d", compute, scale);
    *desc = new Desc;
    return OK;
}
EXPORT int cublasLtMatmulDescDestroy(Desc *desc) { delete desc; return OK; }
EXPORT int cublasLtMatmulDescSetAttribute(Desc *desc, int attribute, const void *from, size_t bytes) {
    if (attribute == 7) {
        if (int code = set(desc->epilogue, from, bytes)) return code;
        for (uint32_t known : {NOTHING, BIAS, RELU_BIAS, GELU_BIAS, GELU_AUX_BIAS}) {
            if (desc->epilogue == known) return OK;
        }
        return refuse(NOT_SUPPORTED_, "epilogue %u", desc->epilogue);
    }
    if (attribute == 8) return set(desc->bias, from, bytes);
    if (attribute == 11) return set(desc->kept, from, bytes);
    if (attribute == 12) return set(desc->kept_ld, from, bytes);
    if (attribute != 3 && attribute != 4) return refuse(NOT_SUPPORTED_, "attribute %d of a product", attribute);
    int32_t operation = 0;
    if (int code = set(operation, from, bytes)) return code;
    if (operation != 0 && operation != 1) return refuse(NOT_SUPPORTED_, "operation %d", operation);
    desc->transposed[attribute - 3] = operation;
    return OK;
}

EXPORT int cublasLtMatrixLayoutCreate(Layout **layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    if (type != F32 && type != BF16) return refuse(NOT_SUPPORTED_, "type %d", type);
    *layout = new Layout{type, rows, cols, ld};
    return OK;
}
EXPORT int cublasLtMatrixLayoutDestroy(Layout *layout) { delete layout; return OK; }
EXPORT int cublasLtMatrixLayoutSetAttribute(Layout *layout, int attribute, const void *from, size_t bytes) {
    if (attribute == 5) return set(layout->batches, from, bytes);
    if (attribute == 6) return set(layout->batch_stride, from, bytes);
    return refuse(NOT_SUPPORTED_, "attribute %d of a layout", attribute);
}

EXPORT int cublasLtMatmulPreferenceCreate(Preference **preference) { *preference = new Preference; return OK; }
EXPORT int cublasLtMatmulPreferenceDestroy(Preference *preference) { delete preference; return OK; }
EXPORT int cublasLtMatmulPreferenceSetAttribute(Preference *preference, int attribute, const void *from, size_t bytes) {
    if (attribute == 1) return set(preference->workspace, from, bytes);
    if (attribute == 3) return set(preference->reductions, from, bytes);
    if (attribute >= 5 && attribute <= 8) return set(preference->alignment[attribute - 5], from, bytes);
    return refuse(NOT_SUPPORTED_, "preference %d", attribute);
}

EXPORT int cublasLtMatmulAlgoGetHeuristic(void *made, Desc *desc, Layout *a, Layout *b, Layout *c, Layout *d, Preference *preference,
                                          int wanted, HeuristicResult *results, int *count) {
    *count = 0;
    if (made != &handle) return NOT_INITIALIZED_;
    if (wanted < 1) return INVALID_VALUE_;
    const Layout *layouts[4] = {a, b, c, d};
    if (int code = check(*desc, layouts)) return code;
    uint32_t width[4];
    for (int i = 0; i < 4; i++) {
        width[i] = static_cast<uint32_t>(layouts[i]->width());
        if (preference->alignment[i] % width[i] != 0) return refuse(NOT_SUPPORTED_, "operand %d: no algorithm for an alignment of %u bytes", i, preference->alignment[i]);
    }
    HeuristicResult result{};
    result.algo = {MAGIC, key_of(*desc, layouts), {}, std::min(preference->workspace, WORKSPACE), 0, {}};
    // In place, or in the type of the output.
    result.algo.rounds_parts = d->type == BF16 && (preference->reductions & 5) != 0;
    memcpy(result.algo.alignment, preference->alignment, sizeof result.algo.alignment);
    result.workspace_bytes = result.algo.workspace;
    result.waves = 1.0f;
    results[0] = result;
    *count = 1;
    return OK;
}

EXPORT int cublasLtMatmul(void *made, Desc *desc, const float *alpha, Address a, Layout *la, Address b, Layout *lb, const float *beta,
                          Address c, Layout *lc, Address d, Layout *ld, const Algo *algo, Address workspace, size_t workspace_bytes,
                          void *stream) {
    if (made != &handle) return NOT_INITIALIZED_;
    const Layout *layouts[4] = {la, lb, lc, ld};
    Address addresses[4] = {a, b, c, d};
    if (int code = check(*desc, layouts)) return code;
    uint32_t alignment[4] = {16, 16, 16, 16};
    size_t used = 0;
    bool rounds_parts = false;
    if (algo) {
        if (algo->magic != MAGIC || algo->key != key_of(*desc, layouts)) return refuse(INVALID_VALUE_, "the algorithm was chosen for another product");
        memcpy(alignment, algo->alignment, sizeof alignment);
        used = algo->workspace;
        rounds_parts = algo->rounds_parts;
    }
    if (workspace_bytes < used) return refuse(INVALID_VALUE_, "a workspace of %zu bytes for an algorithm that takes %zu", workspace_bytes, used);
    if (used && workspace % 256 != 0) return refuse(INVALID_VALUE_, "the workspace is not aligned to 256 bytes");
    if (c == d && !(*lc == *ld)) return refuse(INVALID_VALUE_, "C is D, with another layout");
    Product product{*desc, {*la, *lb, *lc, *ld}, {a, b, c, d}, workspace, used, *alpha, *beta, rounds_parts};
    for (int i = 0; i < 4; i++) {
        if (i == 2 && *beta == 0) continue;
        if (addresses[i] % alignment[i] != 0) return refuse(INVALID_VALUE_, "operand %d lies at 0x%lx, chosen was an alignment of %u bytes", i, addresses[i], alignment[i]);
        if (!emulator_reach(addresses[i], layouts[i]->span(), "cublasLtMatmul")) return INVALID_VALUE_;
    }
    if (d < a + la->span() && a < d + ld->span()) return refuse(INVALID_VALUE_, "D overlaps A");
    if (d < b + lb->span() && b < d + ld->span()) return refuse(INVALID_VALUE_, "D overlaps B");
    if (used && !emulator_reach(workspace, used, "cublasLtMatmul's workspace")) return INVALID_VALUE_;
    if (desc->epilogue != NOTHING && !emulator_reach(desc->bias, 2 * ld->rows, "cublasLtMatmul's bias")) return INVALID_VALUE_;
    if (desc->epilogue == GELU_AUX_BIAS && !emulator_reach(desc->kept, product.kept_span(), "cublasLtMatmul's kept product")) return INVALID_VALUE_;
    int code = emulator_enqueue(stream, "cublasLtMatmul", run, [](void *p) { delete static_cast<Product *>(p); }, new Product(product));
    return code == SUCCESS ? OK : EXECUTION_FAILED;
}
