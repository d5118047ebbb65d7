#include "bench/train.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "base/clock.h"
#include "base/log.h"
#include "base/machine.h"
#include "base/rng.h"
#include "bench/compare.h"
#include "kernels/gemm/peak.h"
#include "model/flops.h"
#include "model/model.h"
#include "train/ema.h"
#include "train/gradients.h"
#include "train/memory.h"
#include "train/optimizer.h"
#include "train/schedule.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kWarmUpSteps = 2;
constexpr int64_t kMostTracedSteps = 5;
constexpr const char* kStep = "step";

Recipe checked_for_memory(const Recipe& recipe) {
  check_memory(training_memory(recipe), machine_memory().available_bytes);
  return recipe;
}

// What a run holds, and one step of it: train/trainer.cc without files.
class Bench {
 public:
  Bench(const Recipe& recipe, const Stream& stream)
      : recipe_(checked_for_memory(recipe)),
        stream_(stream),
        work_(nullptr),
        weights_(recipe_.model, make_precision(recipe_.formats), true, arena_),
        model_(recipe_.model, weights_, recipe_.logical_nodes, arena_),
        gradients_(weights_, recipe_.model, recipe_.grad_lanes, recipe_.expert_lane_group, arena_),
        optimizer_(weights_,
                   {recipe_.train.beta1, recipe_.train.beta2, recipe_.train.epsilon, recipe_.train.weight_decay,
                    recipe_.train.clip_norm},
                   arena_) {
    weights_.initialise(recipe_.model.initializer_range, static_cast<uint64_t>(recipe_.seed), stream_);
    weights_.pack(stream_);
    if (recipe_.train.ema_decay > 0) {
      ema_ = std::make_unique<Ema>(weights_, recipe_.train.ema_decay, arena_);
      ema_->reset();
    }
  }
  ~Bench() {
    if (ema_) ema_->wait();
  }

  const Precision& precision() const { return weights_.precision(); }
  int64_t step_tokens() const { return recipe_.train.batch_sequences * recipe_.train.sequence_length; }

  // Seconds of one step.
  double step() {
    const TraceSpan span(kStep);
    const double begin_s = seconds_now();
    const MicroBatchResult losses = accumulate();
    const GradientBuffer gradients = [&] {
      const TraceSpan sum("gradient sum", "", TraceKind::kPhase);
      return gradients_.total(stream_);
    }();
    GradientNorm norm;
    {
      const TraceSpan of_norm("optimizer", "norm", TraceKind::kPhase);
      norm = optimizer_.gradient_norm(gradients, stream_);
    }
    if (ema_) {
      const TraceSpan wait("wait for EMA", "", TraceKind::kPhase);
      ema_->wait();
    }
    update(gradients, norm, losses);
    if (ema_) ema_->start();
    return seconds_now() - begin_s;
  }

 private:
  MicroBatch micro_batch() {
    MicroBatch batch;
    batch.sequences = recipe_.train.micro_batch_sequences;
    batch.length = recipe_.train.sequence_length;
    batch.tokens.resize(static_cast<size_t>(batch.sequences * (batch.length + 1)));
    for (int32_t& token : batch.tokens)
      token = static_cast<int32_t>(random_below({.seed = static_cast<uint64_t>(recipe_.seed)}, drawn_++,
                                                static_cast<uint64_t>(recipe_.model.vocab_size)));
    return batch;
  }

  MicroBatchResult accumulate() {
    const TrainRecipe& t = recipe_.train;
    const int64_t lanes = gradients_.lanes(), group = gradients_.lane_group();
    const int64_t per_lane = t.batch_sequences / t.micro_batch_sequences / lanes;
    LossSettings loss;
    loss.sequences = static_cast<double>(t.batch_sequences);
    loss.normaliser = static_cast<double>(step_tokens());
    loss.mtp_lambda = t.mtp_lambda;
    loss.balance_alpha = t.balance_alpha;
    MicroBatchResult last;
    for (int64_t first = 0; first < lanes; first += group) {
      gradients_.begin_group(stream_);
      for (int64_t j = 0; j < per_lane; ++j) {
        for (int64_t lane = first; lane < first + group; ++lane) {
          const MicroBatch batch = micro_batch();
          last = model_.train(batch, loss, gradients_.buffer(lane), recipe_.recompute, work_, stream_);
        }
      }
      gradients_.end_group(stream_);
    }
    return last;
  }

  void update(const GradientBuffer& gradients, const GradientNorm& norm, const MicroBatchResult& losses) {
    const TraceSpan span("optimizer", "AdamW and packing", TraceKind::kPhase);
    optimizer_.step(gradients, norm.norm, recipe_.train.learning_rate, ++updates_, stream_);
    const auto names = model_.moe_block_names();
    for (size_t b = 0; recipe_.model.has_router_bias() && b < names.size(); ++b)
      update_routing_bias(weights_.master(weights_.list().at(names[b] + "mlp.gate.e_score_correction_bias")),
                          losses.expert_load[b], recipe_.train.bias_speed);
  }

  const Recipe recipe_;
  const Stream stream_;
  Arena arena_;
  Workspace work_;
  Weights weights_;
  Model model_;
  GradientAccumulators gradients_;
  Optimizer optimizer_;
  std::unique_ptr<Ema> ema_;
  int64_t updates_ = 0;
  uint64_t drawn_ = 0;
};

double seconds_of(const TraceEvent& e) {
  return e.end_s - e.begin_s;
}

bool inside(const TraceEvent& inner, const TraceEvent& outer) {
  return &inner != &outer && inner.thread == outer.thread && inner.begin_s >= outer.begin_s && inner.end_s <= outer.end_s;
}

}  // namespace

nlohmann::ordered_json break_down(std::span<const TraceEvent> all) {
  struct Sum {
    double seconds = 0;
    int64_t calls = 0;
  };
  using Key = std::pair<std::string, std::string>;
  std::vector<const TraceEvent*> steps, outer;
  for (const TraceEvent& e : all)
    if (e.name == kStep) steps.push_back(&e);
  CHECK(!steps.empty());
  const auto in_a_step = [&](const TraceEvent& e) {
    return std::any_of(steps.begin(), steps.end(), [&](const TraceEvent* s) { return inside(e, *s); });
  };
  // Spans end from the inside out, so that walking backwards meets an outer phase before those within it.
  std::map<Key, Sum> phases, kernels;
  for (size_t i = all.size(); i-- > 0;) {
    const TraceEvent& e = all[i];
    if (e.kind == TraceKind::kOther || !in_a_step(e)) continue;
    if (e.kind == TraceKind::kPhase) {
      if (!outer.empty() && inside(e, *outer.back())) continue;
      outer.push_back(&e);
    }
    Sum& sum = (e.kind == TraceKind::kPhase ? phases : kernels)[{std::string(e.name), std::string(e.detail)}];
    sum.seconds += seconds_of(e);
    ++sum.calls;
  }
  double step_s = 0;
  for (const TraceEvent* s : steps) step_s += seconds_of(*s);
  const auto count = static_cast<double>(steps.size());
  const auto table = [&](const std::map<Key, Sum>& sums, const char* name, const char* detail, const char* rest) {
    std::vector<std::pair<Key, Sum>> sorted(sums.begin(), sums.end());
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
    double left_s = step_s;
    for (const auto& [key, sum] : sorted) left_s -= sum.seconds;
    sorted.push_back({{rest, ""}, {left_s, static_cast<int64_t>(steps.size())}});
    Json rows = Json::array();
    for (const auto& [key, sum] : sorted)
      rows.push_back({{name, key.first},
                      {detail, key.second},
                      {"calls", static_cast<double>(sum.calls) / count},
                      {"ms", sum.seconds / count * 1e3},
                      {"share", sum.seconds / step_s}});
    return rows;
  };
  Json out;
  out["phases"] = table(phases, "phase", "half", "between phases");
  out["kernels"] = table(kernels, "operation", "kernel", "outside kernels");
  return out;
}

nlohmann::ordered_json bench_train(const TrainBenchRequest& request, const Stream& stream) {
  Bench bench(request.recipe, stream);
  for (int64_t i = 0; i < kWarmUpSteps; ++i) bench.step();
  std::vector<double> seconds;
  for (int64_t i = 0; i < request.steps; ++i) seconds.push_back(bench.step());
  const double peak = measure_peak_flops(bench.precision().compute, stream);
  start_trace();
  name_trace_thread("train");
  for (int64_t i = 0; i < std::min(request.steps, kMostTracedSteps); ++i) bench.step();
  stop_trace();
  Json tables = break_down(trace_events());
  if (request.trace) write_trace(*request.trace);
  const double step_s = median(seconds);
  const auto tokens = static_cast<double>(bench.step_tokens());
  const double gflops =
      1e-9 * training_flops_per_token(request.recipe.model, request.recipe.train.sequence_length) * tokens / step_s;
  Json out;
  out["precision"] = bench.precision().name;
  out["threads"] = stream.threads();
  out["tokens_per_step"] = bench.step_tokens();
  out["steps"] = request.steps;
  out["tokens_per_s"] = tokens / step_s;
  out["step_ms"] = step_s * 1e3;
  const auto [least, most] = std::minmax_element(seconds.begin(), seconds.end());
  out["step_ms_range"] = {*least * 1e3, *most * 1e3};
  out["gflops"] = gflops;
  out["share_of_ceiling"] = gflops / peak;
  out["phases"] = std::move(tables["phases"]);
  out["kernels"] = std::move(tables["kernels"]);
  return out;
}

std::string train_table(const nlohmann::ordered_json& r) {
  std::string text = fmt::format(
      "{:.0f} tokens/s: median of {} steps of {} tokens, {:.1f} ms ({:.1f} to {:.1f}); {:.1f} GFLOP/s, {:.0f}% of the ceiling; "
      "{}, {} threads\n",
      r["tokens_per_s"].get<double>(), r["steps"].get<int64_t>(), r["tokens_per_step"].get<int64_t>(),
      r["step_ms"].get<double>(), r["step_ms_range"][0].get<double>(), r["step_ms_range"][1].get<double>(),
      r["gflops"].get<double>(), 100 * r["share_of_ceiling"].get<double>(), r["precision"].get<std::string>(),
      r["threads"].get<int>());
  const auto table = [&](const char* rows, const char* name, const char* detail) {
    text += fmt::format("\n{:<26} {:<20} {:>7} {:>9} {:>6}\n", name, detail, "calls", "ms", "share");
    for (const Json& row : r[rows])
      text += fmt::format("{:<26} {:<20} {:>7.0f} {:>9.2f} {:>5.1f}%\n", row[name].get<std::string>(),
                          row[detail].get<std::string>(), row["calls"].get<double>(), row["ms"].get<double>(),
                          100 * row["share"].get<double>());
  };
  table("phases", "phase", "half");
  table("kernels", "operation", "kernel");
  return text;
}

}  // namespace rorqual
