// Softmax cross-entropy over the vocabulary with per-token weights, and its gradient in the same pass.
#pragma once

#include <cstdint>

#include "kernels/common/registry.h"
#include "tensor/tensor.h"

namespace rorqual {

struct CrossEntropyArgs {
  Tensor logits;                    // [tokens, vocabulary] F32, BF16 or F64
  const int32_t* target = nullptr;  // [tokens]; each in [0, vocabulary)
  Tensor coefficient;  // [1, tokens] F32 (F64): d loss / d nll of each token (weight / normaliser · λ); absent: no gradient
  Tensor nll;          // [1, tokens] F32 (F64): -log p[target]
  Tensor d_logits;     // [tokens, vocabulary] coefficient · (p − onehot), any float type; may be logits itself; absent: none
};
void cross_entropy(const CrossEntropyArgs& args, const Stream& stream);
std::span<const KernelRow<CrossEntropyArgs>> cross_entropy_kernels();

}  // namespace rorqual
