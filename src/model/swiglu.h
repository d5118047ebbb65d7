// SwiGLU between an MLP's products, with what is kept of it (report §3.2.3, §3.3.3): its input, in the recipe's format; its
// output is computed again in backward.
#pragma once

#include "model/ops.h"

namespace rorqual {

class SwiGlu {
 public:
  // width: of the output; experts: of routed experts, else of a dense MLP or the shared expert.
  SwiGlu(const Pass& p, BlockState& s, int64_t width, bool experts) : p_(p), s_(s), width_(width), experts_(experts) {}

  // Where the product before writes [rows, 2·width].
  Tensor input(int64_t rows) const;
  // hidden = silu(gate) · up · weight as an operand; kept: what backward finds.
  void forward(const Tensor& gate_up, const Tensor& weight, ScaledTensor& kept, ScaledTensor& hidden) const;
  // hidden again in backward, from what was kept; as it is if it was kept too.
  void recompute(const ScaledTensor& kept, const Tensor& weight, ScaledTensor& hidden) const;
  // Returns the gradient of gate_up as an operand; d_weight as in kernels/swiglu.
  ScaledTensor backward(const ScaledTensor& kept, const Tensor& weight, const Tensor& d_hidden, const Tensor& d_weight) const;

 private:
  bool cached_as_it_is() const { return p_.precision.swiglu_cache == p_.precision.compute; }
  // Backward works from decoded cached values: an output that was computed from others cannot be kept.
  bool recomputed() const { return p_.recompute || !cached_as_it_is(); }

  const Pass& p_;
  BlockState& s_;
  int64_t width_;
  bool experts_;
};

}  // namespace rorqual
