// The kernels' calls in the model's words.
#pragma once

#include "kernels/elementwise/elementwise.h"
#include "kernels/gemm/gemm.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "model/phase.h"

namespace rorqual {

// c (+)= a · Wᵀ
inline void project(const Pass& p, const Tensor& a, const PackedWeight& w, const Tensor& c, bool accumulate = false) {
  const LinearProblem problem{a, w, c};
  linear({{&problem, 1}, accumulate}, *p.stream);
}

inline void copy(const Pass& p, const Tensor& from, const Tensor& to) {
  convert({from, to, false}, *p.stream);
}

inline void norm_forward(const Pass& p, const Tensor& x, const Tensor& w, const Tensor& y) {
  rmsnorm_forward({x, w, y, p.config->rms_norm_eps}, *p.stream);
}

inline void norm_input_gradient(const Pass& p, const Tensor& x, const Tensor& w, const Tensor& d_y, const Tensor& d_x,
                                bool accumulate) {
  rmsnorm_input_gradient({x, w, d_y, d_x, accumulate, p.config->rms_norm_eps}, *p.stream);
}

inline void norm_weight_gradient(const Pass& p, const Tensor& x, const Tensor& d_y, size_t tensor) {
  rmsnorm_weight_gradient({x, d_y, p.gradients->of(tensor), p.config->rms_norm_eps}, *p.stream);
}

// A matrix of the pass's compute type (operands of products) or full type.
inline Tensor compute_tensor(const Pass& p, Arena& arena, int64_t rows, int64_t cols,
                             MemoryClass c = MemoryClass::kActivations) {
  return arena.tensor(c, p.precision.compute, rows, cols);
}
inline Tensor full_tensor(const Pass& p, Arena& arena, int64_t rows, int64_t cols, MemoryClass c = MemoryClass::kActivations) {
  return arena.tensor(c, p.precision.full, rows, cols);
}

}  // namespace rorqual
