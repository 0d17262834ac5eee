// Rotary positions over packed queries, keys and values. See ops/rotary.rs.

// y = qkv, with the heads of q and k turned; both [rows, 3 * width] in one type. Row table_rows[r] of table, dim
// wide, has the cosines of row r, then the sines.
// Grid: columns / blockDim.x, rows (in strides).
extern "C" __global__ void rotary_turn(const void *qkv, int type, const unsigned *table_rows, const float *table, int dim, float sign, void *y,
                                       int rows, int width) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= 3 * width) return;
    int half = dim / 2, within = c % dim, i = within % half;
    for (int r = blockIdx.y; r < rows; r += gridDim.y) {
        size_t at = (size_t)r * 3 * width + c;
        float x = load(qkv, type, at);
        if (c < 2 * width) {
            const float *angles = table + (size_t)table_rows[r] * dim;
            float sine = sign * angles[half + i];
            float turned = within < half ? -load(qkv, type, at + half) : load(qkv, type, at - half);
            x = x * angles[i] + turned * sine;
        }
        store(y, type, at, x);
    }
}
