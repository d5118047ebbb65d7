// What a training run holds in memory, and one optimizer step of it: weights, gradients in lanes, moments, averages. Knows no
// files, schedules or metrics; the trainer and the benchmark are its users.
#pragma once

#include <functional>
#include <memory>

#include "model/model.h"
#include "train/ema.h"
#include "train/gradients.h"
#include "train/optimizer.h"
#include "train/recipe.h"

namespace rorqual {

class Learner {
 public:
  // Allocates everything; the weights are not set. The recipe outlives it.
  Learner(const Recipe& recipe, MemoryUse* memory, const Stream& stream);
  ~Learner();
  Learner(const Learner&) = delete;
  Learner& operator=(const Learner&) = delete;

  // Gives the micro-batch that begins with this sequence of the step.
  using MicroBatchSource = std::function<MicroBatch(int64_t first_sequence)>;
  struct Step {
    MicroBatchResult losses;  // sums over the step
    GradientBuffer gradients;
    GradientNorm norm;
  };
  // Forward and backward of `sequences` sequences. Lane l owns the l-th run of micro-batches; groups of lanes are walked one
  // after another, inside a group by (micro-batch, lane).
  Step accumulate(int64_t sequences, double mtp_lambda, const MicroBatchSource& source);
  // AdamW, routing biases, and the averages' thread on its way. wait_for_averages() comes before it.
  void update(const Step& step, double learning_rate, double bias_speed);
  // The averages read the weights while the next step runs; nobody may write weights, nor read averages, before this.
  void wait_for_averages();

  Weights& weights() { return weights_; }
  const Weights& weights() const { return weights_; }
  const Model& model() const { return model_; }
  Optimizer& optimizer() { return optimizer_; }
  Ema* ema() { return ema_.get(); }  // null: the recipe wants none
  Workspace& work() { return work_; }
  int64_t updates() const { return updates_; }  // optimizer steps applied: skipped ones do not count
  void set_updates(int64_t updates) { updates_ = updates; }

 private:
  const Recipe& recipe_;
  const Stream stream_;
  Arena arena_;
  Workspace work_;
  Weights weights_;
  Model model_;
  GradientAccumulators gradients_;
  Optimizer optimizer_;
  std::unique_ptr<Ema> ema_;
  int64_t updates_ = 0;
};

}  // namespace rorqual
