// DeepSeekMoE's router (spec 1.5): scores, group-limited top-k with a bias for selection only, routing weights, and their
// backward with the sequence balance loss. Ties go to the lowest index.
#pragma once

#include <cstdint>

#include "kernels/common/registry.h"
#include "tensor/tensor.h"

namespace rorqual {

enum class ScoreFunction { kSigmoid, kSoftmax };

struct RouterShape {
  int64_t experts = 0, top_k = 0;
  int64_t groups = 1, top_groups = 1;  // groups divides experts; top_groups · experts / groups >= top_k
  ScoreFunction score = ScoreFunction::kSigmoid;
  // A group's score: the sum of its two largest biased scores (V3), or the largest (V2, no bias).
  bool group_sum_of_two = true;
  bool normalise = true;  // weights divided by their sum (+ 1e-20)
  double scale = 1.0;     // routed_scaling_factor
};

struct RouterForwardArgs {
  RouterShape shape;
  Tensor logits;              // [tokens, experts] F32 or F64
  Tensor bias;                // [1, experts] F32 (F64) or absent
  Tensor scores;              // [tokens, experts] F32 (F64): sigmoid or softmax of the logits, kept for backward
  int32_t* expert = nullptr;  // [tokens, top_k], ascending expert index within a token
  Tensor weight;              // [tokens, top_k] F32 (F64), beside `expert`
};
void router_forward(const RouterForwardArgs& args, const Stream& stream);
std::span<const KernelRow<RouterForwardArgs>> router_forward_kernels();

// d_logits from the gradient of the routing weights and from the balance loss: with s' = s / Σ s, loss = coefficient · Σ_i f_i
// · mean_t s'_ti per sequence of `sequence_length` rows (rows are whole sequences); f_i = N / (K·T) · (tokens of the sequence
// routed to i).
struct RouterBackwardArgs {
  RouterShape shape;
  Tensor scores;                    // as kept by forward
  const int32_t* expert = nullptr;  // as chosen by forward
  Tensor d_weight;                  // [tokens, top_k]
  int64_t sequence_length = 0;
  double balance_coefficient = 0;  // of one sequence's loss: alpha / sequences in the step
  Tensor d_logits;                 // [tokens, experts] F32 (F64)
  // On a GPU, with a balance loss: [sequences, experts], tokens of each sequence routed to each expert
  // (router_statistics_sm90a). The CPU counts them itself.
  const int32_t* count = nullptr;
};
void router_backward(const RouterBackwardArgs& args, const Stream& stream);
std::span<const KernelRow<RouterBackwardArgs>> router_backward_kernels();

// The balance loss of all sequences in the rows, times `coefficient`; and the tokens per expert, added to load.
struct RouterStatistics {
  double balance_loss = 0;
};
RouterStatistics router_statistics(const RouterShape& shape, const Tensor& scores, const int32_t* expert,
                                   int64_t sequence_length, double coefficient, int64_t* load /* [experts] */,
                                   const Stream& stream);

}  // namespace rorqual
