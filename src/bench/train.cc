#include "bench/train.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/log.h"
#include "base/machine.h"
#include "base/rng.h"
#include "bench/compare.h"
#include "kernels/gemm/peak.h"
#include "model/flops.h"
#include "train/learner.h"
#include "train/memory.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMostTracedSteps = 5;
constexpr const char* kStep = "step";

Recipe checked_for_memory(const Recipe& recipe) {
  check_memory(training_memory(recipe), machine_memory().available_bytes);
  return recipe;
}

// Steps as the trainer takes them, on random tokens.
class Bench {
 public:
  Bench(const Recipe& recipe, const Stream& stream) : recipe_(checked_for_memory(recipe)), learner_(recipe_, nullptr, stream) {
    learner_.weights().initialise(recipe_.model.initializer_range, static_cast<uint64_t>(recipe_.seed), stream);
    learner_.weights().pack(stream);
    if (learner_.ema()) learner_.ema()->reset();
  }

  const Precision& precision() const { return learner_.weights().precision(); }
  int64_t step_tokens() const { return recipe_.train.batch_sequences * recipe_.train.sequence_length; }

  void step() {
    const TraceSpan span(kStep);
    const Learner::Step step =
        learner_.accumulate(recipe_.train.batch_sequences, recipe_.train.mtp_lambda, [&](int64_t) { return micro_batch(); });
    learner_.wait_for_averages();
    learner_.update(step, recipe_.train.learning_rate, recipe_.train.bias_speed);
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

  const Recipe recipe_;
  Learner learner_;
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

namespace {

Json result_of(Bench& bench, const Recipe& recipe, const std::vector<double>& seconds,
               const std::optional<std::filesystem::path>& trace, const Stream& stream) {
  const auto steps = static_cast<int64_t>(seconds.size());
  const double peak = measure_peak_flops(bench.precision().compute, stream);
  start_trace();
  name_trace_thread("train");
  for (int64_t i = 0; i < std::min(steps, kMostTracedSteps); ++i) bench.step();
  stop_trace();
  Json tables = break_down(trace_events());
  if (trace) write_trace(*trace);
  const double step_s = median(seconds);
  const auto tokens = static_cast<double>(bench.step_tokens());
  const double gflops = 1e-9 * training_flops_per_token(recipe.model, recipe.train.sequence_length) * tokens / step_s;
  Json out;
  out["precision"] = bench.precision().name;
  out["threads"] = stream.threads();
  out["tokens_per_step"] = bench.step_tokens();
  out["steps"] = steps;
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

}  // namespace

nlohmann::ordered_json bench_train(const TrainBenchRequest& request, const Stream& stream) {
  std::vector<std::unique_ptr<Bench>> benches;
  benches.push_back(std::make_unique<Bench>(request.recipe, stream));
  if (request.against) benches.push_back(std::make_unique<Bench>(*request.against, stream));
  std::vector<Contestant> contestants;
  for (const auto& bench : benches) contestants.emplace_back([&bench](int64_t) { bench->step(); });
  // A turn is one step; two come before, uncounted.
  const Comparison turns = compare(contestants, {.rounds = static_cast<int>(request.steps), .batch_s = 0});
  Json out = result_of(*benches[0], request.recipe, turns.round[0], request.trace, stream);
  if (!request.against) return out;
  out["ratio"] = turns.ratio(1, 0);
  out["against"] = result_of(*benches[1], *request.against, turns.round[1], {}, stream);
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
  if (r.contains("against"))
    text += "\n" + train_table(r["against"]) +
            fmt::format("\n{} is {:.3f} times as fast as {}: median over turns\n", r["precision"].get<std::string>(),
                        r["ratio"].get<double>(), r["against"]["precision"].get<std::string>());
  return text;
}

}  // namespace rorqual
