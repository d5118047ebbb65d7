#include "train/learner.h"

#include "base/trace.h"

namespace rorqual {
namespace {

void add(MicroBatchResult& sum, const MicroBatchResult& r) {
  sum.loss += r.loss;
  sum.mtp_loss += r.mtp_loss;
  sum.balance_loss += r.balance_loss;
  sum.expert_load.resize(r.expert_load.size());
  for (size_t b = 0; b < r.expert_load.size(); ++b) {
    sum.expert_load[b].resize(r.expert_load[b].size());
    for (size_t e = 0; e < r.expert_load[b].size(); ++e) sum.expert_load[b][e] += r.expert_load[b][e];
  }
}

AdamWSettings adamw_settings(const TrainRecipe& t) {
  return {t.beta1, t.beta2, t.epsilon, t.weight_decay, t.clip_norm};
}

}  // namespace

Learner::Learner(const Recipe& recipe, MemoryUse* memory, const Stream& stream)
    : recipe_(recipe),
      stream_(stream),
      arena_(memory),
      work_(memory),
      weights_(recipe.model, make_precision(recipe.formats), true, arena_),
      model_(recipe.model, weights_, recipe.logical_nodes, arena_),
      gradients_(weights_, recipe.model, recipe.grad_lanes, recipe.expert_lane_group, arena_),
      optimizer_(weights_, adamw_settings(recipe.train), arena_) {
  if (recipe.train.ema_decay > 0) ema_ = std::make_unique<Ema>(weights_, recipe.train.ema_decay, arena_);
}

Learner::~Learner() {
  wait_for_averages();
}

void Learner::wait_for_averages() {
  if (!ema_) return;
  const TraceSpan span("wait for EMA", "", TraceKind::kPhase);
  ema_->wait();
}

Learner::Step Learner::accumulate(int64_t sequences, double mtp_lambda, const MicroBatchSource& source) {
  const TrainRecipe& t = recipe_.train;
  const int64_t lanes = gradients_.lanes(), group = gradients_.lane_group();
  const int64_t per_lane = sequences / t.micro_batch_sequences / lanes;
  LossSettings loss;
  loss.sequences = static_cast<double>(sequences);
  loss.normaliser = static_cast<double>(sequences * t.sequence_length);
  loss.mtp_lambda = mtp_lambda;
  loss.balance_alpha = t.balance_alpha;
  Step step;
  for (int64_t first = 0; first < lanes; first += group) {
    gradients_.begin_group(stream_);
    for (int64_t j = 0; j < per_lane; ++j) {
      for (int64_t lane = first; lane < first + group; ++lane) {
        const TraceSpan span("micro-batch");
        const MicroBatch batch = source((lane * per_lane + j) * t.micro_batch_sequences);
        add(step.losses, model_.train(batch, loss, gradients_.buffer(lane), recipe_.recompute, work_, stream_));
      }
    }
    gradients_.end_group(stream_);
  }
  {
    const TraceSpan span("gradient sum", "", TraceKind::kPhase);
    step.gradients = gradients_.total(stream_);
  }
  const TraceSpan span("optimizer", "norm", TraceKind::kPhase);
  step.norm = optimizer_.gradient_norm(step.gradients, stream_);
  return step;
}

void Learner::update(const Step& step, double learning_rate, double bias_speed) {
  const TraceSpan span("optimizer", "AdamW and packing", TraceKind::kPhase);
  optimizer_.step(step.gradients, step.norm.norm, learning_rate, ++updates_, stream_);
  const auto names = model_.moe_block_names();
  for (size_t b = 0; recipe_.model.has_router_bias() && b < names.size(); ++b)
    update_routing_bias(weights_.master(weights_.list().at(names[b] + "mlp.gate.e_score_correction_bias")),
                        step.losses.expert_load[b], bias_speed);
  if (ema_) ema_->start();
}

}  // namespace rorqual
