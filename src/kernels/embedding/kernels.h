// The pieces of the embedding kernels that select.cc joins: partition is a pure function of sizes, kernels see plain pointers.
#pragma once

#include <cstdint>

#include "base/threads.h"
#include "kernels/embedding/embedding.h"

namespace rorqual::embedding {

// The vector kernels of one instruction set. The table and its gradient are F32; y and d_y are F32 (index 0) or BF16 (1).
struct VectorKernels {
  // Copies a row of `cols` elements with conversion.
  void (*copy[2])(const float* from, int64_t cols, void* to);
  // to[token[t]][c] += from[t][c] for t ascending, c in [0, cols); strides in elements.
  void (*add[2])(const int32_t* token, int64_t tokens, const void* from, int64_t from_stride, int64_t cols, float* to,
                 int64_t to_stride);
};
extern const VectorKernels kAvx2, kAvx512;

void forward_reference(const EmbeddingForwardArgs& args, const Stream& stream);
void backward_reference(const EmbeddingBackwardArgs& args, const Stream& stream);

// Rows of one forward task, and columns of one backward task: sizes alone decide.
int64_t forward_rows_per_task(int64_t d);
int64_t backward_cols_per_task(int64_t tokens, int64_t d);

}  // namespace rorqual::embedding
