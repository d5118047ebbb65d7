// The kernels' calls in the model's words.
#pragma once

#include <vector>

#include "kernels/elementwise/elementwise.h"
#include "kernels/gemm/gemm.h"
#include "kernels/quantise/quantise.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "model/phase.h"

namespace rorqual {

// c (+)= a · Wᵀ
inline void project(const Pass& p, const ScaledTensor& a, const PackedWeight& w, const Tensor& c, bool accumulate = false) {
  const LinearProblem problem{a, w, c};
  linear({{&problem, 1}, accumulate, p.precision.products}, *p.stream);
}

inline void copy(const Pass& p, const Tensor& from, const Tensor& to) {
  convert({from, to, false}, *p.stream);
}

// y: plain, or codes quantised as `quantiser` says; y_plain: the same values, or absent.
inline void norm_forward(const Pass& p, const Tensor& x, const Tensor& w, const ScaledTensor& y,
                         const Quantiser& quantiser = {}, const Tensor& y_plain = {}) {
  rmsnorm_forward({x, w, y, p.config->rms_norm_eps, y_plain, quantiser}, *p.stream);
}

inline void norm_input_gradient(const Pass& p, const Tensor& x, const Tensor& w, const Tensor& d_y, const Tensor& d_x,
                                bool accumulate) {
  rmsnorm_input_gradient({x, w, d_y, d_x, accumulate, p.config->rms_norm_eps}, *p.stream);
}

inline void norm_weight_gradient(const Pass& p, const Tensor& x, const Tensor& d_y, size_t tensor) {
  rmsnorm_weight_gradient({x, d_y, p.gradients->of(tensor), p.config->rms_norm_eps}, *p.stream);
}

// A matrix of the pass's compute type or full type.
inline Tensor compute_tensor(const Pass& p, Arena& arena, int64_t rows, int64_t cols,
                             MemoryClass c = MemoryClass::kActivations) {
  return arena.tensor(c, p.precision.compute, rows, cols);
}
inline Tensor full_tensor(const Pass& p, Arena& arena, int64_t rows, int64_t cols, MemoryClass c = MemoryClass::kActivations) {
  return arena.tensor(c, p.precision.full, rows, cols);
}

// Of the residual stream.
inline Tensor residual_tensor(const Pass& p, Arena& arena, int64_t rows, int64_t cols) {
  return arena.tensor(MemoryClass::kActivations, p.precision.residual, rows, cols);
}

// A matrix of `format`, with scales if it is one of FP8.
ScaledTensor scaled_tensor(Arena& arena, MemoryClass c, DType format, int64_t rows, int64_t cols);
// An operand of a linear layer.
inline ScaledTensor operand_tensor(const Pass& p, Arena& arena, int64_t rows, int64_t cols) {
  return scaled_tensor(arena, MemoryClass::kLinearInputs, p.precision.operand, rows, cols);
}

// How the tensor of this layer is quantised, and where that is counted.
Quantiser quantiser_of(const Pass& p, const BlockState& s, QuantisedTensor tensor);

// x as values of `format`: quantised, or copied and rounded. Always new memory.
ScaledTensor quantised(const Pass& p, BlockState& s, Arena& arena, const Tensor& x, DType format, QuantisedTensor tensor);
// x as an operand: x itself where that is plain.
ScaledTensor as_operand(const Pass& p, BlockState& s, const Tensor& x, DType format, QuantisedTensor tensor);
// The values of x in the compute type: x itself where it is plain.
Tensor plain(const Pass& p, Arena& arena, const ScaledTensor& x);

// One weight gradient: gradient += aᵀ · b over rows [begin, begin + count).
struct GradientSegment {
  int64_t begin = 0, count = 0;
  Tensor gradient;
};
// Of one linear layer, or of one per expert. FP8: both operands are quantised again along the tokens (report §3.3.2), group by
// group of 128 rows of a segment.
struct GradientProduct {
  ScaledTensor a;  // [rows, out] output gradient
  ScaledTensor b;  // [rows, in] layer input
  std::vector<GradientSegment> segments;
};
inline GradientProduct gradient_product(const ScaledTensor& a, const ScaledTensor& b, const Tensor& gradient) {
  return {a, b, {{0, a.rows(), gradient}}};
}
void add_weight_gradients(const Pass& p, BlockState& s, const std::vector<GradientProduct>& products);

}  // namespace rorqual
