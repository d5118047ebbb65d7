#include "train/memory.h"

#include <fmt/format.h>

#include <numeric>

#include "base/error.h"
#include "base/units.h"
#include "model/model.h"
#include "train/gradients.h"
#include "train/optimizer.h"

namespace rorqual {
namespace {

std::string mebibytes(int64_t bytes) {
  return fmt::format("{:>10.1f} MiB", mib(bytes));
}

}  // namespace

int64_t MemoryNeed::total() const {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

int64_t MemoryNeed::activations() const {
  return of(MemoryClass::kActivations) + of(MemoryClass::kLinearInputs) + of(MemoryClass::kAttentionOutputs) +
         of(MemoryClass::kSwiGluInputs);
}

MemoryNeed training_memory(const Recipe& r) {
  MemoryUse use;
  const Stream dry = Stream::dry();
  Arena arena(&use, Arena::Kind::kMeasure);
  Weights weights(r.model, make_precision(r.formats), true, arena);
  const Model model(r.model, weights, r.logical_nodes, arena);
  const GradientAccumulators gradients(weights, r.model, r.grad_lanes, r.expert_lane_group, arena);
  const Optimizer optimizer(weights, {}, arena);
  const int64_t master = weights.dense().bytes() + weights.expert().bytes();
  const int64_t moments =
      optimizer.dense_m().bytes() + optimizer.dense_v().bytes() + optimizer.expert_m().bytes() + optimizer.expert_v().bytes();
  const int64_t ema = r.train.ema_decay > 0 ? master : 0;
  if (ema > 0) {
    arena.bytes(MemoryClass::kEma, weights.dense().bytes());
    arena.bytes(MemoryClass::kEma, weights.expert().bytes());
  }
  arena.bytes(MemoryClass::kSnapshot, master + moments + ema);

  Workspace work(&use, Arena::Kind::kMeasure);
  MicroBatch batch;
  batch.sequences = r.train.micro_batch_sequences;
  batch.length = r.train.sequence_length;
  batch.tokens.resize(static_cast<size_t>(batch.sequences * (batch.length + 1)));
  model.train(batch, {}, gradients.buffer(0), r.recompute, work, dry);
  return {use.peak};
}

void check_memory(const MemoryNeed& need, int64_t available) {
  if (need.total() <= available) return;
  fail(
      "the run needs {:.1f} GiB of memory, {:.1f} GiB are available: lower train.micro_batch_sequences, "
      "train.sequence_length or the model, or set train.ema_decay = 0\n{}",
      gib(need.total()), gib(available), memory_table(need, available));
}

std::string memory_table(const MemoryNeed& need, int64_t available) {
  std::string out;
  for (int i = 0; i < kMemoryClasses; ++i)
    if (const int64_t bytes = need.bytes[static_cast<size_t>(i)]; bytes > 0)
      out += fmt::format("  {:<18} {}\n", memory_class_name(static_cast<MemoryClass>(i)), mebibytes(bytes));
  return out + fmt::format("  {:<18} {}   of {} available\n", "total", mebibytes(need.total()), mebibytes(available));
}

std::string activation_savings(const Recipe& recipe, const MemoryNeed& need) {
  if (!make_precision(recipe.formats).is_fp8()) return {};
  Recipe in_bf16 = recipe;
  in_bf16.formats.precision = "bf16";
  const MemoryNeed bf16 = training_memory(in_bf16);
  std::string out =
      fmt::format("  {:<18} {:>14}   {:>14}   {:>5}\n", "kept for backward", recipe.formats.precision, "bf16", "ratio");
  const auto line = [&](std::string_view name, int64_t mine, int64_t theirs) {
    if (theirs > 0)
      out += fmt::format("  {:<18} {}   {}   {:>5.2f}\n", name, mebibytes(mine), mebibytes(theirs),
                         static_cast<double>(mine) / static_cast<double>(theirs));
  };
  for (const MemoryClass c :
       {MemoryClass::kLinearInputs, MemoryClass::kAttentionOutputs, MemoryClass::kSwiGluInputs, MemoryClass::kActivations})
    line(c == MemoryClass::kActivations ? "all other" : memory_class_name(c), need.of(c), bf16.of(c));
  line("together", need.activations(), bf16.activations());
  return out;
}

}  // namespace rorqual
