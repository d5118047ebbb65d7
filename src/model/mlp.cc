#include "model/mlp.h"

#include "model/ops.h"
#include "model/swiglu.h"

namespace rorqual {

Mlp::Mlp(Weights& weights, const std::string& prefix) {
  const DType operand = weights.precision().operand;
  gate_up_ = &weights.add_linear(weights.list().at(prefix + "gate_proj.weight"), 2, operand);
  down_ = &weights.add_linear(weights.list().at(prefix + "down_proj.weight"), 1, operand);
}

void Mlp::forward(const Pass& p, BlockState& s, MlpState& m, const ScaledTensor& u, const Tensor& y) const {
  const SwiGlu swiglu(p, s, down_->k, false);
  const Tensor gate_up = swiglu.input(u.rows());
  project(p, u, gate_up_->forward, gate_up);
  swiglu.forward(gate_up, {}, m.gate_up, m.hidden);
  project(p, m.hidden, down_->forward, y, true);
}

void Mlp::input_gradient(const Pass& p, BlockState& s, MlpState& m, const Tensor& d_u) const {
  const Tensor d_hidden = compute_tensor(p, *s.scratch, m.gate_up.rows(), down_->k);
  project(p, m.d_out, down_->backward, d_hidden);
  m.d_gate_up = SwiGlu(p, s, down_->k, false).backward(m.gate_up, {}, d_hidden, {});
  project(p, m.d_gate_up, gate_up_->backward, d_u);
}

void Mlp::weight_gradient(const Pass& p, BlockState& s, MlpState& m, const ScaledTensor& u) const {
  SwiGlu(p, s, down_->k, false).recompute(m.gate_up, {}, m.hidden);
  add_weight_gradients(p, s,
                       {gradient_product(m.d_out, m.hidden, p.gradients->of(*down_)),
                        gradient_product(m.d_gate_up, u, p.gradients->of(*gate_up_))});
}

MlpPhase::MlpPhase(const ModelConfig&, Weights& weights, int64_t layer)
    : norm_tensor_(weights.list().at(layer_prefix(layer) + "post_attention_layernorm.weight")),
      norm_(weights.hold(norm_tensor_)),
      mlp_(weights, layer_prefix(layer) + "mlp.") {}

void MlpPhase::normalise(const Pass& p, BlockState& s, Arena& arena) const {
  s.u = operand_tensor(p, arena, s.h.rows, s.h.cols);
  norm_forward(p, s.h, norm_, s.u, quantiser_of(p, s, QuantisedTensor::kMlpInput));
}

void MlpPhase::forward(const Pass& p, BlockState& s) const {
  normalise(p, s, s.kept(p.recompute));
  s.y = residual_tensor(p, *s.saved, s.h.rows, s.h.cols);
  copy(p, s.h, s.y);
  mlp_.forward(p, s, s.mlp, s.u, s.y);
}

void MlpPhase::input_gradient(const Pass& p, BlockState& s) const {
  s.mlp.d_out = quantised(p, s, *s.scratch, s.d, p.precision.gradient, QuantisedTensor::kMlpOutputGradient);
  s.d_u = full_tensor(p, *s.scratch, s.d.rows, s.d.cols);
  mlp_.input_gradient(p, s, s.mlp, s.d_u);
  norm_input_gradient(p, s.h, norm_, s.d_u, s.d, true);
}

void MlpPhase::weight_gradient(const Pass& p, BlockState& s) const {
  if (p.recompute) normalise(p, s, *s.scratch);
  mlp_.weight_gradient(p, s, s.mlp, s.u);
  norm_weight_gradient(p, s.h, s.d_u, norm_tensor_);
}

}  // namespace rorqual
