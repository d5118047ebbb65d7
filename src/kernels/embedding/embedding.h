// Token embedding: rows of a table gathered, and the gradient scattered back.
#pragma once

#include <cstdint>

#include "kernels/common/registry.h"
#include "tensor/tensor.h"

namespace rorqual {

struct EmbeddingForwardArgs {
  Tensor table;                    // [vocabulary, d] F32 or F64 (the master weight)
  const int32_t* token = nullptr;  // [tokens]; each in [0, vocabulary)
  Tensor y;                        // [tokens, d] F32, BF16 or F64
};
void embedding_forward(const EmbeddingForwardArgs& args, const Stream& stream);
std::span<const KernelRow<EmbeddingForwardArgs>> embedding_forward_kernels();

// d_table[token[t]] += d_y[t] for t ascending.
struct EmbeddingBackwardArgs {
  const int32_t* token = nullptr;
  Tensor d_y;      // [tokens, d] F32, BF16 or F64
  Tensor d_table;  // [vocabulary, d] F32 (F64)
};
void embedding_backward(const EmbeddingBackwardArgs& args, const Stream& stream);
std::span<const KernelRow<EmbeddingBackwardArgs>> embedding_backward_kernels();

}  // namespace rorqual
