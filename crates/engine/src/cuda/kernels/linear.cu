// What surrounds a linear's matmul: the epilogue and its backward. See ops/linear.rs.

// y = drop(act_scale * act(z + bias)) + residual1 + residual2; the pre-activation is kept in `saved`. z and y may be one buffer.
// Null where absent: bias, saved, row_keys, residuals. Grid: columns / blockDim.x, rows / ROWS_PER_BLOCK.
extern "C" __global__ void linear_epilogue(const float *z, const float *bias, int activation, void *saved,
                                           int saved_dtype, float act_scale, const unsigned long long *row_keys,
                                           unsigned site, unsigned threshold, float scale, const void *residual1,
                                           int residual1_dtype, const void *residual2, int residual2_dtype, void *y,
                                           int y_dtype, int rows, int cols) {
    __shared__ u64 keys[ROWS_PER_BLOCK];
    int first = blockIdx.y * ROWS_PER_BLOCK;
    load_keys(row_keys, site, first, rows, keys);
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    float shift = bias != 0 ? bias[c] : 0.0f;
    for (int r = first; r < rows && r < first + ROWS_PER_BLOCK; r++) {
        size_t i = (size_t)r * cols + c;
        float x = z[i];
        if (bias != 0) x += shift;
        if (saved != 0) store(saved, saved_dtype, i, x);
        x = activate(activation, x) * act_scale;
        if (row_keys != 0) x *= dropout_factor(keys[r - first], c, threshold, scale);
        if (residual1 != 0) x += load(residual1, residual1_dtype, i);
        if (residual2 != 0) x += load(residual2, residual2_dtype, i);
        store(y, y_dtype, i, x);
    }
}

// dz = dy * dropout factor * act_scale * act'(saved), and partial[b] = its column sums over the rows of block b, before rounding.
// Null where absent: saved, row_keys, dz, partial. Grid as the epilogue's.
extern "C" __global__ void linear_epilogue_backward(const void *dy, int dy_dtype, int activation, const void *saved,
                                                    int saved_dtype, float act_scale,
                                                    const unsigned long long *row_keys, unsigned site,
                                                    unsigned threshold, float scale, void *dz, int dz_dtype,
                                                    float *partial, int rows, int cols) {
    __shared__ u64 keys[ROWS_PER_BLOCK];
    int first = blockIdx.y * ROWS_PER_BLOCK;
    load_keys(row_keys, site, first, rows, keys);
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    float sum = 0.0f;
    for (int r = first; r < rows && r < first + ROWS_PER_BLOCK; r++) {
        size_t i = (size_t)r * cols + c;
        float d = load(dy, dy_dtype, i);
        if (row_keys != 0) d *= dropout_factor(keys[r - first], c, threshold, scale);
        d *= act_scale;
        if (saved != 0) d = derive_activation(activation, d, load(saved, saved_dtype, i));
        if (dz != 0) store(dz, dz_dtype, i, d);
        sum += d;
    }
    if (partial != 0) partial[(size_t)blockIdx.y * cols + c] = sum;
}
