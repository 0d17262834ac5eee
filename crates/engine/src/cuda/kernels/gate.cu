// A gated activation over two halves of columns: forward, backward. See ops/gate.rs.

// y = act(a) * b, with a and b the halves of x, `cols` wide each. Grid: columns / blockDim.x, rows (in strides).
extern "C" __global__ void gate_forward(const void *x, int x_dtype, int activation, void *y, int y_dtype, int rows, int cols) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int r = blockIdx.y; r < rows; r += gridDim.y) {
        size_t at = (size_t)r * 2 * cols + c;
        float a = load(x, x_dtype, at), b = load(x, x_dtype, at + cols);
        store(y, y_dtype, (size_t)r * cols + c, activate(activation, a) * b);
    }
}

// The gradients of both halves: dy * b * act'(a), dy * act(a). (ReLU's derivative may ask its input instead of its output.)
// Grid as above.
extern "C" __global__ void gate_backward(const void *x, int x_dtype, int activation, const void *dy, int dy_dtype, void *dx,
                                         int dx_dtype, int rows, int cols) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int r = blockIdx.y; r < rows; r += gridDim.y) {
        size_t at = (size_t)r * 2 * cols + c;
        float a = load(x, x_dtype, at), b = load(x, x_dtype, at + cols);
        float d = load(dy, dy_dtype, (size_t)r * cols + c);
        store(dx, dx_dtype, at, derive_activation(activation, d * b, a));
        store(dx, dx_dtype, at + cols, d * activate(activation, a));
    }
}
