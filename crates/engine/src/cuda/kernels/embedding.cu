// Embedding: the look-up. See ops/embedding.rs; its gradients: scatter.cu.

// h[r] = drop(tokens[ids[r]] + positions[at[r]] + type_table[types[r]] (+ offset where ids[r] == offset_id)).
// Grid: columns / blockDim.x, rows / ROWS_PER_BLOCK. `positions`, `types`, `offset` and `row_keys` may be null.
extern "C" __global__ void embedding_forward(const unsigned *ids, const unsigned *at, const float *tokens,
                                             const float *positions, const unsigned *types, const float *type_table,
                                             const float *offset, unsigned offset_id, float *h, int rows, int cols,
                                             const unsigned long long *row_keys, unsigned site, unsigned threshold,
                                             float scale) {
    __shared__ u64 keys[ROWS_PER_BLOCK];
    int first = blockIdx.y * ROWS_PER_BLOCK;
    load_keys(row_keys, site, first, rows, keys);
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    for (int r = first; r < rows && r < first + ROWS_PER_BLOCK; r++) {
        float x = tokens[(size_t)ids[r] * cols + c];
        if (positions != 0) x += positions[(size_t)at[r] * cols + c];
        if (types != 0) x += type_table[(size_t)types[r] * cols + c];
        if (offset != 0 && ids[r] == offset_id) x += offset[c];
        if (row_keys != 0) x *= dropout_factor(keys[r - first], c, threshold, scale);
        h[(size_t)r * cols + c] = x;
    }
}
