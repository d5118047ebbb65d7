// The pieces of the embedding kernels that select.cc joins: partition is a pure function of sizes, kernels see plain pointers.
#pragma once

#include <cstdint>

#include "base/threads.h"
#include "kernels/embedding/embedding.h"

namespace rorqual::embedding {

// Copies one row of `cols` elements with conversion.
using CopyRow = void (*)(const float* from, int64_t cols, void* to);
// to[c] += from[c] for c in [0, cols).
using AddRow = void (*)(const void* from, int64_t cols, float* to);

void forward_reference(const EmbeddingForwardArgs& args, const Stream& stream);
void backward_reference(const EmbeddingBackwardArgs& args, const Stream& stream);

// Rows of one forward task, and columns of one backward task: sizes alone decide.
int64_t forward_rows_per_task(int64_t d);
int64_t backward_cols_per_task(int64_t tokens, int64_t d);

}  // namespace rorqual::embedding
