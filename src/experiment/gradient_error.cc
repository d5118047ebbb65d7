#include "experiment/gradient_error.h"

#include <algorithm>
#include <cctype>
#include <cmath>

#include "base/error.h"
#include "checkpoint/model_source.h"
#include "data/corpus_tokens.h"
#include "data/dataset.h"
#include "model/model.h"
#include "train/gradients.h"
#include "train/run.h"

namespace rorqual {
namespace {

// Gradients by tensor of the list.
using Gradients = std::vector<std::vector<float>>;

struct Start {
  Recipe recipe;               // of the run; formats are replaced
  const ModelSource* weights;  // or null: as initialised
  MicroBatch batch;
};

Gradients gradients_of(const Start& start, const PrecisionRecipe& formats, const Stream& stream) {
  const Recipe& r = start.recipe;
  MemoryUse use;
  Arena arena(&use);
  Workspace work(&use);
  Weights weights(r.model, make_precision(formats), true, arena);
  const Model model(r.model, weights, r.logical_nodes, arena);
  GradientAccumulators accumulators(weights, r.model, 1, 1, arena);
  if (start.weights)
    start.weights->load_weights(weights, stream);
  else
    weights.initialise(r.model.initializer_range, static_cast<uint64_t>(r.seed), stream);
  weights.pack(stream);
  LossSettings loss;
  loss.sequences = static_cast<double>(start.batch.sequences);
  loss.normaliser = static_cast<double>(start.batch.sequences * start.batch.length);
  loss.mtp_lambda = r.train.mtp_lambda;
  loss.balance_alpha = r.train.balance_alpha;
  accumulators.begin_group(stream);
  model.train(start.batch, loss, accumulators.buffer(0), r.recompute, work, stream);
  accumulators.end_group(stream);
  const GradientBuffer total = accumulators.total(stream);
  Gradients gradients;
  for (size_t i = 0; i < weights.list().specs().size(); ++i) {
    const Tensor g = total.of(i);
    const float* values = g.ptr<float>();
    gradients.emplace_back(values, values + g.count());
  }
  return gradients;
}

bool is_number(const std::string& part) {
  return !part.empty() && std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

// "model.layers.3.mlp.experts.7.up_proj.weight" → "mlp.experts.up_proj.weight".
std::string kind_of(const std::string& name) {
  std::string kind, part;
  for (size_t i = 0; i <= name.size(); ++i) {
    if (i < name.size() && name[i] != '.') {
      part += name[i];
      continue;
    }
    if (!is_number(part) && part != "model" && part != "layers") kind += (kind.empty() ? "" : ".") + part;
    part.clear();
  }
  return kind;
}

GradientError error_of(const std::string& arm, const TensorList& list, const Gradients& gradients, const Gradients& truth) {
  struct Sums {
    double error = 0, square = 0;
    double relative() const { return square > 0 ? std::sqrt(error / square) : 0; }
  };
  std::map<std::string, Sums> kinds;
  Sums all;
  for (size_t t = 0; t < truth.size(); ++t) {
    Sums& kind = kinds[kind_of(list.specs()[t].name)];
    for (size_t i = 0; i < truth[t].size(); ++i) {
      const double g = truth[t][i], difference = static_cast<double>(gradients[t][i]) - g;
      kind.error += difference * difference, all.error += difference * difference;
      kind.square += g * g, all.square += g * g;
    }
  }
  GradientError result{.arm = arm, .all = all.relative(), .by_kind = {}};
  for (const auto& [name, sums] : kinds)
    if (sums.square > 0) result.by_kind[name] = sums.relative();
  return result;
}

MicroBatch next_batch(const PreparedRun& run) {
  const Recipe& r = run.recipe;
  const TrainingSet set(run.corpus.open_training(true), {r.train.sequence_length, static_cast<uint64_t>(r.seed),
                                                         r.data.fim_rate, token_ids(*run.tokenizer, r.model.vocab_size)});
  MicroBatch batch;
  batch.sequences = r.train.micro_batch_sequences;
  batch.length = r.train.sequence_length;
  const auto width = static_cast<size_t>(batch.length + 1);
  batch.tokens.resize(static_cast<size_t>(batch.sequences) * width);
  const int64_t first = r.train.steps * r.train.batch_sequences;
  for (int64_t i = 0; i < batch.sequences; ++i)
    set.sequence(first + i, std::span(batch.tokens).subspan(static_cast<size_t>(i) * width, width));
  return batch;
}

}  // namespace

std::vector<GradientError> gradient_errors(const ExperimentRequest& request, const std::filesystem::path& directory,
                                           bool initialised, const std::vector<Arm>& arms, const Stream& stream) {
  RunRequest open;
  open.recipe = run_recipe(directory);
  open.directory = directory;
  open.resume = true;
  const PreparedRun run = prepare_run(open, stream);
  const ModelSource source = open_model(directory);
  const Start start{.recipe = run.recipe, .weights = initialised ? nullptr : &source, .batch = next_batch(run)};
  PrecisionRecipe full;
  full.precision = "fp32";
  const Gradients truth = gradients_of(start, full, stream);
  const TensorList list(run.recipe.model);
  std::vector<GradientError> errors;
  for (const Arm& arm : arms) {
    const Recipe recipe = arm_recipe(request, arm, run.recipe.seed, run.recipe.train.steps);
    errors.push_back(error_of(arm.name, list, gradients_of(start, recipe.formats, stream), truth));
  }
  return errors;
}

}  // namespace rorqual
