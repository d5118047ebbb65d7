// The SwiGLU MLP: W2(silu(W1 u) · (W3 u)) (spec 1.2), of dense layers and of the shared expert.
#pragma once

#include "model/phase.h"

namespace rorqual {

// The three products and SwiGLU, without norm and residual.
class Mlp {
 public:
  // `prefix` names the tensors: "model.layers.3.mlp." or "model.layers.3.mlp.shared_experts."
  Mlp(Weights& weights, const std::string& prefix);
  // y += mlp(u); m keeps the SwiGLU input.
  void forward(const Pass& p, BlockState& s, MlpState& m, const ScaledTensor& u, const Tensor& y) const;
  // d_u = gradient; m.d_out (the gradient of y as an operand) is set by the caller.
  void input_gradient(const Pass& p, BlockState& s, MlpState& m, const Tensor& d_u) const;
  void weight_gradient(const Pass& p, BlockState& s, MlpState& m, const ScaledTensor& u) const;

 private:
  const Linear* gate_up_ = nullptr;
  const Linear* down_ = nullptr;
};

// The second half of a dense block: y = h + mlp(norm(h)).
class MlpPhase : public Phase {
 public:
  MlpPhase(const ModelConfig& config, Weights& weights, int64_t layer);
  PhaseKind kind() const override { return PhaseKind::kCompute; }
  std::string_view name() const override { return "mlp"; }
  void forward(const Pass& p, BlockState& s) const override;
  void input_gradient(const Pass& p, BlockState& s) const override;
  void weight_gradient(const Pass& p, BlockState& s) const override;

 private:
  void normalise(const Pass& p, BlockState& s, Arena& arena) const;

  size_t norm_tensor_;
  Tensor norm_;
  Mlp mlp_;
};

}  // namespace rorqual
