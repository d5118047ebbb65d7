// The pieces of the router's kernels that select.cc joins.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/router/router.h"

namespace rorqual::router {

// Added to every sum that divides, so that scores that all underflow to zero give zeros and no NaN.
inline constexpr double kTiny = 1e-20;

// One token's backward. `balance` is the token's row of balance_table, or null.
struct BackwardRow {
  const float* scores;
  const float* balance;
  const int32_t* expert;
  const float* d_weight;
  float* d_logits;
  int64_t experts, top_k;
  bool softmax, normalise;
  float scale;
};

// The vector kernels of one instruction set.
struct VectorKernels {
  // scores[i] = sigmoid(logits[i]), or softmax over the row.
  void (*scores)(const float* logits, int64_t experts, bool softmax, float* scores);
  // The choice that ExpertChooser makes. scratch: choose_scratch(shape) floats;
  // kept: shape.top_groups indices.
  void (*choose)(const RouterShape& shape, const float* scores, const float* bias, float* scratch, int32_t* kept,
                 int32_t* expert);
  void (*backward)(const BackwardRow& row);
};
extern const VectorKernels kAvx2, kAvx512;

// Biased scores and group scores, each padded to whole vectors, and one vector.
inline constexpr int64_t kMaxLanes = 16;
inline int64_t choose_scratch(const RouterShape& shape) {
  return shape.experts + shape.groups + 3 * kMaxLanes;
}

void forward_reference(const RouterForwardArgs& args, const Stream& stream);
void backward_reference(const RouterBackwardArgs& args, const Stream& stream);

// Tokens of one task: about 8k scores.
int64_t tokens_per_task(int64_t experts);

// Tokens of each sequence routed to each expert, [sequences, experts].
std::vector<int64_t> count_by_sequence(const RouterShape& shape, const int32_t* expert, int64_t tokens,
                                       int64_t sequence_length);

// d balance loss / d s' of every token of a sequence: coefficient · f_i / T, [sequences, experts]; empty if the coefficient is
// 0.
template <class T>
std::vector<T> balance_table(const RouterBackwardArgs& args);

}  // namespace rorqual::router
