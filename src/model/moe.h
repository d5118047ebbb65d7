// DeepSeekMoE (spec 1.5; report §2.1.2): the router, and the phases dispatch → experts → combine. No token is dropped.
#pragma once

#include "kernels/router/router.h"
#include "model/mlp.h"
#include "model/phase.h"

namespace rorqual {

// The end of a MoE block's attention phase: u = norm(h), scores, the chosen experts and their weights.
class Router {
 public:
  Router(const ModelConfig& config, Weights& weights, int64_t layer);
  void forward(const Pass& p, BlockState& s) const;
  // Ends with s.d += gradient through u; s.d_u and moe.d_weight come from the dispatch phase.
  void input_gradient(const Pass& p, BlockState& s, const Tensor& d_weight) const;
  void weight_gradient(const Pass& p, BlockState& s) const;
  // u and u_full again from h.
  void normalise(const Pass& p, BlockState& s, Arena& arena) const;

 private:
  RouterShape shape_;
  size_t norm_tensor_ = 0;
  Tensor norm_, bias_;
  const Linear* linear_ = nullptr;  // in full precision
};

class DispatchPhase : public Phase {
 public:
  explicit DispatchPhase(const Placement& placement) : placement_(placement) {}
  PhaseKind kind() const override { return PhaseKind::kCommunication; }
  std::string_view name() const override { return "dispatch"; }
  void forward(const Pass& p, BlockState& s) const override;
  void input_gradient(const Pass& p, BlockState& s) const override;  // sums d_dispatched back into d_u
  void weight_gradient(const Pass&, BlockState&) const override {}

 private:
  const Placement& placement_;
};

// Routed experts on the dispatched rows, and the shared expert on all rows.
class ExpertsPhase : public Phase {
 public:
  ExpertsPhase(const ModelConfig& config, Weights& weights, int64_t layer, const Router& router);
  PhaseKind kind() const override { return PhaseKind::kCompute; }
  std::string_view name() const override { return "experts"; }
  void forward(const Pass& p, BlockState& s) const override;
  void input_gradient(const Pass& p, BlockState& s) const override;
  void weight_gradient(const Pass& p, BlockState& s) const override;

 private:
  void project_experts(const Pass& p, const MoeState& m, const ScaledTensor& a, bool down, bool backward,
                       const Tensor& c) const;

  const Router& router_;
  int64_t width_ = 0;
  std::vector<const Linear*> gate_up_, down_;  // by slot
  std::unique_ptr<Mlp> shared_;
};

class CombinePhase : public Phase {
 public:
  PhaseKind kind() const override { return PhaseKind::kCommunication; }
  std::string_view name() const override { return "combine"; }
  void forward(const Pass& p, BlockState& s) const override;
  void input_gradient(const Pass& p, BlockState& s) const override;  // dispatches the output gradient to the experts
  void weight_gradient(const Pass&, BlockState&) const override {}
};

}  // namespace rorqual
