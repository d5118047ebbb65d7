// A transformer block (spec 1.2) as a list of phases, and the plain walk over it.
#pragma once

#include "model/attention_layer.h"
#include "model/moe.h"
#include "model/phase.h"

namespace rorqual {

// The first phase of every block; in a MoE block it ends with the router.
class AttentionPhase : public Phase {
 public:
  AttentionPhase(const AttentionLayer& attention, const Router* router) : attention_(attention), router_(router) {}
  PhaseKind kind() const override { return PhaseKind::kCompute; }
  std::string_view name() const override { return "attention"; }
  void forward(const Pass& p, BlockState& s) const override;
  void input_gradient(const Pass& p, BlockState& s) const override;
  void weight_gradient(const Pass& p, BlockState& s) const override;

 private:
  const AttentionLayer& attention_;
  const Router* router_;  // null in a dense block
};

class Block {
 public:
  // moe: attention → dispatch → experts → combine; else attention → mlp.
  Block(const ModelConfig& config, Weights& weights, int64_t layer, bool moe, const Placement& placement);

  int64_t layer() const { return layer_; }
  bool moe() const { return router_ != nullptr; }
  const AttentionLayer& attention() const { return *attention_; }
  const std::vector<std::unique_ptr<Phase>>& phases() const { return phases_; }

 private:
  int64_t layer_;
  std::unique_ptr<AttentionLayer> attention_;
  std::unique_ptr<Router> router_;
  std::vector<std::unique_ptr<Phase>> phases_;
};

// The plain walk: phases in order; backward in reverse, each phase's weight gradient right after its input gradient.
// Forward: s.x → s.y. Backward: s.d from the gradient of y to that of x. Scratch is given back; s.saved is the caller's.
void walk_forward(const Block& block, const Pass& pass, BlockState& s);
void walk_backward(const Block& block, const Pass& pass, BlockState& s);

}  // namespace rorqual
