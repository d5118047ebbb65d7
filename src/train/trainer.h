// The training loop (report §4.2): micro-batches in lanes, AdamW, routing bias, EMA, checkpoints, metrics.
#pragma once

#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "data/dataset.h"
#include "train/learner.h"
#include "train/metrics.h"
#include "train/run.h"

namespace rorqual {

struct Sample {
  std::string prompt, text;
};

struct TrainOptions {
  std::optional<int64_t> steps;  // total of the run, in place of the recipe's; changes no schedule
  // Text written by the model as it stands; empty: no samples. (Generation belongs to serve/, the trainer's neighbour.)
  std::function<Sample(const Model&, const Tokenizer&, const std::string& prompt, int64_t tokens, uint64_t seed, Workspace&,
                       const Stream&)>
      sample;
  // Called after each checkpoint and at the end.
  std::function<void(const std::filesystem::path& run)> report;
};

struct TrainSummary {
  int64_t step = 0, tokens = 0;
  double loss = 0;                     // of the last step
  std::optional<double> heldout_loss;  // last measured
  double seconds = 0;
  bool interrupted = false;
};

class Trainer {
 public:
  // Allocates everything and prints the tables of parameters and memory; refuses what does not fit into memory.
  Trainer(const PreparedRun& run, const TrainOptions& options, bool resume, const Stream& stream);
  ~Trainer();
  TrainSummary train();

 private:
  void print_tables() const;
  void start_from(const PreparedRun& run, bool resume);
  MicroBatch micro_batch(int64_t first_sequence) const;
  std::string not_finite(const MicroBatchResult& losses, const GradientNorm& norm) const;
  bool diverged(const MicroBatchResult& losses, const GradientNorm& norm) const;
  nlohmann::ordered_json step();
  double heldout_loss();
  void add_expert_metrics(nlohmann::ordered_json& line, const MicroBatchResult& losses) const;
  void add_quantiser_metrics(nlohmann::ordered_json& line) const;
  void show_progress(const nlohmann::ordered_json& line, int64_t last_step, double begin_s, int64_t begin_step);
  void write_samples();
  void save_checkpoint();
  void finish_step(nlohmann::ordered_json& line, int64_t last_step);

  const Recipe recipe_;
  const std::filesystem::path directory_;
  const Tokenizer tokenizer_;
  const TrainOptions options_;
  const Stream stream_;
  double peak_gflops_ = 0, flops_per_token_ = 0;

  MemoryUse memory_;
  Learner learner_;
  Weights& weights_ = learner_.weights();
  Optimizer& optimizer_ = learner_.optimizer();
  TrainingSet training_;
  HeldoutSet heldout_;
  std::unique_ptr<CheckpointWriter> checkpoints_;
  std::unique_ptr<JsonLines> metrics_, samples_;

  // The state that a checkpoint holds beside tensors.
  int64_t step_ = 0, tokens_ = 0, sequences_ = 0;
  int64_t skipped_in_a_row_ = 0;
  std::deque<double> recent_;  // losses of the last steps that were not skipped
  std::optional<double> last_heldout_;
};

}  // namespace rorqual
