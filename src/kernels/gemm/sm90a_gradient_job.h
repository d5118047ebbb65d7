// What weight_gradient's kernel is told, by value in its parameters.
#pragma once

#include "hopper/types.h"
#include "kernels/gemm/sm90a_tile.h"

namespace rorqual::gemm {

// One expert's gradient. Each operand has a map of its own: it ends at the problem's last token, so that the tokens behind it
// in a matrix shared with other experts (padding, never written) read as zero.
struct GradientProblem {
  hopper::TensorMap a;   // output gradient, [n, tokens] codes, boxes [128 or 64, 128]
  hopper::TensorMap b;   // layer input, [k, tokens] codes, boxes [128 or 64, 128]
  hopper::TensorMap c;   // gradient, [n, k] F32, boxes [16, 32]
  const float* scale_a;  // [ceil(tokens/128), n]
  const float* scale_b;  // [ceil(tokens/128), k]
  int64_t scale_a_stride, scale_b_stride;
  int64_t blocks;  // of 128 tokens, at least 1
};

// Problems of the same n and k, in the order in which they are computed.
template <int kMost>
struct GradientJob {
  int32_t problems, n, k;
  GradientProblem problem[kMost];
};
inline constexpr int kMostGradientProblems = 64;
static_assert(sizeof(GradientJob<kMostGradientProblems>) <= 32000, "kernels take at most 32,000 bytes of parameters");

inline constexpr int kGradientTile = 128;                              // rows and columns of C
inline constexpr int kGradientOutRows = 16, kGradientOutColumns = 32;  // of the boxes that leave

template <int kMost>
void launch_gradient(const GradientJob<kMost>& job, Share share, int blocks, void* stream);

}  // namespace rorqual::gemm
