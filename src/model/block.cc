#include "model/block.h"

#include "base/trace.h"
#include "exchange/exchange.h"
#include "model/ops.h"

namespace rorqual {

void AttentionPhase::forward(const Pass& p, BlockState& s) const {
  attention_.forward(p, s);
  if (router_) router_->forward(p, s);
}

void AttentionPhase::input_gradient(const Pass& p, BlockState& s) const {
  if (router_) {
    // Each choice's weight gradient comes home with its row.
    const Tensor d_weight = full_tensor(p, *s.scratch, s.moe.weight.rows, s.moe.weight.cols);
    return_scalars(s.moe.plan, {s.moe.d_row_weight.data, d_weight.dtype, s.moe.plan.rows, 1},
                   {d_weight.data, d_weight.dtype, d_weight.count(), 1}, *p.stream);
    router_->input_gradient(p, s, d_weight);
  }
  attention_.input_gradient(p, s);
}

void AttentionPhase::weight_gradient(const Pass& p, BlockState& s) const {
  if (router_) router_->weight_gradient(p, s);
  attention_.weight_gradient(p, s);
}

Block::Block(const ModelConfig& config, Weights& weights, int64_t layer, bool moe, const Placement& placement) : layer_(layer) {
  if (moe) router_ = std::make_unique<Router>(config, weights, layer);
  attention_ = make_attention_layer(config, weights, layer);
  phases_.push_back(std::make_unique<AttentionPhase>(*attention_, router_.get()));
  if (moe) {
    phases_.push_back(std::make_unique<DispatchPhase>(placement));
    phases_.push_back(std::make_unique<ExpertsPhase>(config, weights, layer, *router_));
    phases_.push_back(std::make_unique<CombinePhase>());
  } else {
    phases_.push_back(std::make_unique<MlpPhase>(config, weights, layer));
  }
}

void walk_forward(const Block& block, const Pass& pass, BlockState& s) {
  const Arena::Mark mark = s.scratch->mark();
  s.layer = block.layer();
  for (const auto& phase : block.phases()) {
    const TraceSpan span(phase->name(), "forward", TraceKind::kPhase);
    phase->forward(pass, s);
  }
  s.scratch->release(mark);
}

void walk_backward(const Block& block, const Pass& pass, BlockState& s) {
  const Arena::Mark mark = s.scratch->mark();
  const auto& phases = block.phases();
  for (auto phase = phases.rbegin(); phase != phases.rend(); ++phase) {
    {
      const TraceSpan span((*phase)->name(), "input gradient", TraceKind::kPhase);
      (*phase)->input_gradient(pass, s);
    }
    const TraceSpan span((*phase)->name(), "weight gradient", TraceKind::kPhase);
    (*phase)->weight_gradient(pass, s);
  }
  s.scratch->release(mark);
}

}  // namespace rorqual
