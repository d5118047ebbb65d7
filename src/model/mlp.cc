#include "model/mlp.h"

#include "kernels/swiglu/swiglu.h"
#include "model/ops.h"

namespace rorqual {

Mlp::Mlp(Weights& weights, const std::string& prefix) {
  const DType compute = weights.precision().compute;
  gate_up_ = &weights.add_linear(weights.list().at(prefix + "gate_proj.weight"), 2, compute);
  down_ = &weights.add_linear(weights.list().at(prefix + "down_proj.weight"), 1, compute);
}

void Mlp::activate(const Pass& p, MlpState& m, Arena& arena) const {
  m.hidden = compute_tensor(p, arena, m.gate_up.rows, down_->k);
  swiglu_forward({m.gate_up, {}, m.hidden}, *p.stream);
}

void Mlp::forward(const Pass& p, BlockState& s, MlpState& m, const Tensor& u, const Tensor& y) const {
  m.gate_up = compute_tensor(p, *s.saved, u.rows, gate_up_->n);
  project(p, u, gate_up_->forward, m.gate_up);
  activate(p, m, s.kept(p.recompute));
  project(p, m.hidden, down_->forward, y, true);
}

void Mlp::input_gradient(const Pass& p, BlockState& s, MlpState& m, const Tensor& d_u) const {
  const Tensor d_hidden = compute_tensor(p, *s.scratch, m.gate_up.rows, down_->k);
  project(p, m.d_out, down_->backward, d_hidden);
  m.d_gate_up = compute_tensor(p, *s.scratch, m.gate_up.rows, gate_up_->n);
  swiglu_backward({m.gate_up, {}, d_hidden, m.d_gate_up, {}}, *p.stream);
  project(p, m.d_gate_up, gate_up_->backward, d_u);
}

void Mlp::weight_gradient(const Pass& p, BlockState& s, MlpState& m, const Tensor& u) const {
  if (p.recompute) activate(p, m, *s.scratch);
  const WeightGradientProblem problems[] = {{m.d_out, m.hidden, p.gradients->of(*down_)},
                                            {m.d_gate_up, u, p.gradients->of(*gate_up_)}};
  rorqual::weight_gradient({problems}, *p.stream);
}

MlpPhase::MlpPhase(const ModelConfig&, Weights& weights, int64_t layer)
    : norm_tensor_(weights.list().at(layer_prefix(layer) + "post_attention_layernorm.weight")),
      norm_(weights.master(norm_tensor_)),
      mlp_(weights, layer_prefix(layer) + "mlp.") {}

void MlpPhase::forward(const Pass& p, BlockState& s) const {
  s.u = compute_tensor(p, s.kept(p.recompute), s.h.rows, s.h.cols);
  norm_forward(p, s.h, norm_, s.u);
  s.y = full_tensor(p, *s.saved, s.h.rows, s.h.cols);
  copy(p, s.h, s.y);
  mlp_.forward(p, s, s.mlp, s.u, s.y);
}

void MlpPhase::input_gradient(const Pass& p, BlockState& s) const {
  s.mlp.d_out = compute_tensor(p, *s.scratch, s.d.rows, s.d.cols);
  copy(p, s.d, s.mlp.d_out);
  s.d_u = full_tensor(p, *s.scratch, s.d.rows, s.d.cols);
  mlp_.input_gradient(p, s, s.mlp, s.d_u);
  norm_input_gradient(p, s.h, norm_, s.d_u, s.d, true);
}

void MlpPhase::weight_gradient(const Pass& p, BlockState& s) const {
  if (p.recompute) {
    s.u = compute_tensor(p, *s.scratch, s.h.rows, s.h.cols);
    norm_forward(p, s.h, norm_, s.u);
  }
  mlp_.weight_gradient(p, s, s.mlp, s.u);
  norm_weight_gradient(p, s.h, s.d_u, norm_tensor_);
}

}  // namespace rorqual
