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
  void forward(const Pass& p, BlockState& s, MlpState& m, const Tensor& u, const Tensor& y) const;
  // d_u = gradient; m.d_out (the gradient of y in the compute type) is set by the caller.
  void input_gradient(const Pass& p, BlockState& s, MlpState& m, const Tensor& d_u) const;
  void weight_gradient(const Pass& p, BlockState& s, MlpState& m, const Tensor& u) const;

 private:
  void activate(const Pass& p, MlpState& m, Arena& arena) const;
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
  size_t norm_tensor_;
  Tensor norm_;
  Mlp mlp_;
};

}  // namespace rorqual
