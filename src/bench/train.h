// `rorqual bench train`: the speed of a recipe's full optimizer step, and where its time goes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

#include "base/threads.h"
#include "base/trace.h"
#include "train/recipe.h"

namespace rorqual {

struct TrainBenchRequest {
  Recipe recipe;                               // complete and valid
  std::optional<Recipe> against;               // takes turns with `recipe`, step by step
  int64_t steps = 10;                          // timed, after two that are not
  std::optional<std::filesystem::path> trace;  // of the steps that the breakdown of `recipe` is made of
};

// Steps on synthetic tokens, uniform over the vocabulary, as the trainer makes them: micro-batches in lanes, gradient norm,
// clipping, AdamW, routing bias, packing, EMA beside the next step. Speed is measured without a trace, the breakdown in further
// steps with one.
//   {"precision", "threads", "tokens_per_step", "steps", "tokens_per_s", "step_ms", "step_ms_range", "gflops",
//    "share_of_ceiling", "phases": [{phase, half, ms, share}], "kernels": [{operation, kernel, calls, ms, share}]}
// ms per step; "phases" ends with what lies between them, and adds up to the step.
// With `against`: also "against" of the same form, and "ratio", the median over the turns of how many times as fast `recipe`
// is.
nlohmann::ordered_json bench_train(const TrainBenchRequest& request, const Stream& stream);

// For people.
std::string train_table(const nlohmann::ordered_json& result);

// The two tables of a trace that holds `steps` spans "step". A phase inside another counts as part of the outer one.
nlohmann::ordered_json break_down(std::span<const TraceEvent> events);

}  // namespace rorqual
