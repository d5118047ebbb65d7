#include "model/moe.h"

#include "exchange/exchange.h"
#include "model/ops.h"
#include "model/swiglu.h"

namespace rorqual {
namespace {

// Rows of one expert need no padding but where tiles are quantised along tokens (FP8's weight gradient).
constexpr int64_t kSegmentAlignment = 1;

// A dry run has no choices: every token goes to the next experts in turn.
DispatchPlan balanced_plan(int64_t tokens, int64_t top_k, const Placement& placement) {
  std::vector<int32_t> expert;
  const int64_t experts = placement.experts();
  for (int64_t i = 0; i < tokens * top_k; ++i) expert.push_back(static_cast<int32_t>(i % experts));
  return plan_dispatch(expert, tokens, top_k, placement, kSegmentAlignment);
}

RouterShape router_shape(const ModelConfig& c) {
  RouterShape r;
  r.experts = c.n_routed_experts;
  r.top_k = c.num_experts_per_tok;
  const bool grouped = c.topk_method != "greedy";
  r.groups = grouped ? c.n_group : 1;
  r.top_groups = grouped ? c.topk_group : 1;
  r.score = c.scoring_func == "sigmoid" ? ScoreFunction::kSigmoid : ScoreFunction::kSoftmax;
  r.group_sum_of_two = c.topk_method == "noaux_tc";
  r.normalise = c.norm_topk_prob;
  r.scale = c.routed_scaling_factor;
  return r;
}

}  // namespace

Router::Router(const ModelConfig& c, Weights& weights, int64_t layer) : shape_(router_shape(c)) {
  const std::string p = layer_prefix(layer);
  norm_tensor_ = weights.list().at(p + "post_attention_layernorm.weight");
  norm_ = weights.hold(norm_tensor_);
  linear_ = &weights.add_linear(weights.list().at(p + "mlp.gate.weight"), 1, weights.precision().full);
  if (c.has_router_bias()) bias_ = weights.hold(weights.list().at(p + "mlp.gate.e_score_correction_bias"));
}

void Router::normalise(const Pass& p, BlockState& s, Arena& arena) const {
  s.u = operand_tensor(p, arena, s.h.rows, s.h.cols);
  s.u_full = s.u.dtype() == p.precision.full ? s.u.codes : full_tensor(p, arena, s.h.rows, s.h.cols);
  if (p.precision.is_fp8()) {
    norm_forward(p, s.h, norm_, s.u, quantiser_of(p, s, QuantisedTensor::kMlpInput), s.u_full);
    return;
  }
  norm_forward(p, s.h, norm_, s.u);
  if (s.u.dtype() != p.precision.full) copy(p, s.u.codes, s.u_full);
}

void Router::forward(const Pass& p, BlockState& s) const {
  MoeState& m = s.moe;
  const int64_t rows = s.h.rows;
  normalise(p, s, s.kept(p.recompute));
  const Tensor logits = full_tensor(p, *s.scratch, rows, shape_.experts);
  project(p, s.u_full, linear_->forward, logits);
  m.scores = full_tensor(p, *s.saved, rows, shape_.experts);
  m.weight = full_tensor(p, *s.saved, rows, shape_.top_k);
  m.expert = s.saved->tensor(MemoryClass::kActivations, DType::kI32, rows, shape_.top_k);
  router_forward({shape_, logits, bias_, m.scores, m.expert.ptr<int32_t>(), m.weight}, *p.stream);
  s.expert_load.assign(static_cast<size_t>(shape_.experts), 0);
  if (p.training && !p.stream->is_dry())
    s.balance_loss = router_statistics(shape_, m.scores, m.expert.ptr<int32_t>(), s.layout->sequence_length,
                                       p.balance_coefficient, s.expert_load.data(), *p.stream)
                         .balance_loss;
}

void Router::input_gradient(const Pass& p, BlockState& s, const Tensor& d_weight) const {
  MoeState& m = s.moe;
  m.d_logits = full_tensor(p, *s.scratch, s.h.rows, shape_.experts);
  router_backward(
      {shape_, m.scores, m.expert.ptr<int32_t>(), d_weight, s.layout->sequence_length, p.balance_coefficient, m.d_logits},
      *p.stream);
  project(p, m.d_logits, linear_->backward, s.d_u, true);
  norm_input_gradient(p, s.h, norm_, s.d_u, s.d, true);
}

void Router::weight_gradient(const Pass& p, BlockState& s) const {
  const WeightGradientProblem problem{s.moe.d_logits, s.u_full, p.gradients->of(*linear_)};
  rorqual::weight_gradient({{&problem, 1}}, *p.stream);
  norm_weight_gradient(p, s.h, s.d_u, norm_tensor_);
}

void DispatchPhase::forward(const Pass& p, BlockState& s) const {
  MoeState& m = s.moe;
  m.plan = p.stream->is_dry() ? balanced_plan(m.expert.rows, m.expert.cols, placement_)
                              : plan_dispatch({m.expert.ptr<int32_t>(), static_cast<size_t>(m.expert.count())}, m.expert.rows,
                                              m.expert.cols, placement_, kSegmentAlignment);
  m.dispatched = operand_tensor(p, *s.saved, m.plan.rows, s.u.cols());
  dispatch_rows(m.plan, s.u, m.dispatched, *p.stream);
  m.row_weight = full_tensor(p, *s.saved, 1, m.plan.rows);
  dispatch_scalars(m.plan, {m.weight.data, m.weight.dtype, m.weight.count(), 1},
                   {m.row_weight.data, m.row_weight.dtype, m.plan.rows, 1}, *p.stream);
}

void DispatchPhase::input_gradient(const Pass& p, BlockState& s) const {
  const MoeState& m = s.moe;
  // The experts phase left the shared expert's gradient in d_u, or nothing.
  const Tensor base = s.d_u;
  if (!s.d_u) s.d_u = full_tensor(p, *s.scratch, s.h.rows, s.h.cols);
  combine_rows(m.plan, m.d_dispatched, p.precision.payload, base, s.d_u, *p.stream);
}

ExpertsPhase::ExpertsPhase(const ModelConfig& c, Weights& weights, int64_t layer, const Router& router)
    : router_(router), width_(c.moe_intermediate_size) {
  const std::string p = layer_prefix(layer) + "mlp.";
  for (int64_t e = 0; e < c.n_routed_experts; ++e) {
    const std::string expert = fmt::format("{}experts.{}.", p, e);
    gate_up_.push_back(&weights.add_linear(weights.list().at(expert + "gate_proj.weight"), 2, weights.precision().operand));
    down_.push_back(&weights.add_linear(weights.list().at(expert + "down_proj.weight"), 1, weights.precision().operand));
  }
  if (c.n_shared_experts > 0) shared_ = std::make_unique<Mlp>(weights, p + "shared_experts.");
}

// One product per expert that has tokens, all in one call.
void ExpertsPhase::project_experts(const Pass& p, const MoeState& m, const ScaledTensor& a, bool down, bool backward,
                                   const Tensor& c) const {
  std::vector<LinearProblem> problems;
  for (size_t e = 0; e < gate_up_.size(); ++e) {
    const int64_t begin = m.plan.segment_begin[e], count = m.plan.segment_count[e];
    const Linear& linear = down ? *down_[e] : *gate_up_[e];
    if (count > 0)
      problems.push_back({a.row_range(begin, count), backward ? linear.backward : linear.forward, c.row_range(begin, count)});
  }
  if (!problems.empty()) linear({problems, false, p.precision.products}, *p.stream);
}

void ExpertsPhase::forward(const Pass& p, BlockState& s) const {
  MoeState& m = s.moe;
  const SwiGlu swiglu(p, s, width_, true);
  const Tensor gate_up = swiglu.input(m.plan.rows);
  project_experts(p, m, m.dispatched, false, false, gate_up);
  swiglu.forward(gate_up, m.row_weight, m.gate_up, m.hidden);
  m.out = compute_tensor(p, *s.scratch, m.plan.rows, s.h.cols);
  project_experts(p, m, m.hidden, true, false, m.out);
  s.y = residual_tensor(p, *s.saved, s.h.rows, s.h.cols);
  copy(p, s.h, s.y);
  if (shared_) shared_->forward(p, s, m.shared, s.u, s.y);
}

void ExpertsPhase::input_gradient(const Pass& p, BlockState& s) const {
  MoeState& m = s.moe;
  Arena& scratch = *s.scratch;
  const Tensor d_hidden = compute_tensor(p, scratch, m.plan.rows, width_);
  project_experts(p, m, m.d_out, true, true, d_hidden);
  m.d_row_weight = full_tensor(p, scratch, 1, m.plan.rows);
  m.d_gate_up = SwiGlu(p, s, width_, true).backward(m.gate_up, m.row_weight, d_hidden, m.d_row_weight);
  m.d_dispatched = compute_tensor(p, scratch, m.plan.rows, s.h.cols);
  project_experts(p, m, m.d_gate_up, false, true, m.d_dispatched);
  s.d_u = {};
  if (!shared_) return;
  s.d_u = full_tensor(p, scratch, s.h.rows, s.h.cols);
  shared_->input_gradient(p, s, m.shared, s.d_u);
}

void ExpertsPhase::weight_gradient(const Pass& p, BlockState& s) const {
  MoeState& m = s.moe;
  SwiGlu(p, s, width_, true).recompute(m.gate_up, m.row_weight, m.hidden);
  if (p.recompute) router_.normalise(p, s, *s.scratch);
  GradientProduct down{m.d_out, m.hidden, {}}, gate_up{m.d_gate_up, m.dispatched, {}};
  for (size_t e = 0; e < gate_up_.size(); ++e) {
    const int64_t begin = m.plan.segment_begin[e], count = m.plan.segment_count[e];
    down.segments.push_back({begin, count, p.gradients->of(*down_[e])});
    gate_up.segments.push_back({begin, count, p.gradients->of(*gate_up_[e])});
  }
  add_weight_gradients(p, s, {down, gate_up});
  if (shared_) shared_->weight_gradient(p, s, m.shared, s.u);
}

void CombinePhase::forward(const Pass& p, BlockState& s) const {
  combine_rows(s.moe.plan, s.moe.out, p.precision.payload, s.y, s.y, *p.stream);
}

void CombinePhase::input_gradient(const Pass& p, BlockState& s) const {
  MoeState& m = s.moe;
  const DType format = p.precision.gradient;
  m.shared.d_out = scaled_tensor(*s.scratch, MemoryClass::kScratch, format, s.d.rows, s.d.cols);
  m.d_out = scaled_tensor(*s.scratch, MemoryClass::kScratch, format, m.plan.rows, s.d.cols);
  if (m.d_out.is_plain()) {
    copy(p, s.d, m.shared.d_out.codes);
    dispatch_rows(m.plan, m.shared.d_out, m.d_out, *p.stream);
  } else {
    quantise_and_dispatch_rows(m.plan, s.d, quantiser_of(p, s, QuantisedTensor::kMlpOutputGradient), m.shared.d_out, m.d_out,
                               *p.stream);
  }
}

}  // namespace rorqual
