#include "model/quantise_ledger.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace rorqual {
namespace {

constexpr std::array<std::string_view, kQuantisedTensors> kNames = {
    "weights",
    "attention.input",
    "attention.q_latent",
    "attention.kv_latent",
    "attention.output",
    "attention.output_cache",
    "mlp.input",
    "mlp.gate_up_cache",
    "mlp.hidden",
    "experts.gate_up_cache",
    "experts.hidden",
    "mlp.output_gradient",
    "mlp.gate_up_gradient",
    "experts.gate_up_gradient",
    "attention.output_gradient",
    "attention.q_gradient",
    "attention.kv_gradient",
    "attention.latent_gradient",
    "weight_gradient.operands",
};

// Backward meets the last block first.
constexpr bool is_backward(QuantisedTensor t) {
  return t >= QuantisedTensor::kMlpOutputGradient;
}

}  // namespace

std::string_view quantised_tensor_name(QuantisedTensor t) {
  return kNames[static_cast<size_t>(t)];
}

std::optional<QuantiseLedger::Place> QuantiseLedger::not_finite() const {
  for (const bool backward : {false, true}) {
    for (int64_t i = 0; i < blocks(); ++i) {
      const int64_t block = backward ? blocks() - 1 - i : i;
      for (size_t t = 0; t < kQuantisedTensors; ++t) {
        const auto tensor = static_cast<QuantisedTensor>(t);
        if (is_backward(tensor) == backward && at(block, tensor).read().not_finite) return Place{block, tensor};
      }
    }
  }
  return std::nullopt;
}

void QuantiseLedger::reset() {
  for (QuantiseStatistics& s : statistics_) s.reset();
}

void QuantiseLedger::remember_amax(int64_t steps) {
  std::vector<float> amax;
  for (const QuantiseStatistics& s : statistics_) {
    const QuantiseCounts c = s.read();
    amax.push_back(c.not_finite ? 0 : c.amax);  // the step was skipped
  }
  history_.push_back(std::move(amax));
  if (static_cast<int64_t>(history_.size()) > steps) history_.erase(history_.begin());
}

float QuantiseLedger::delayed_amax(int64_t block, QuantisedTensor t) const {
  float largest = 0;
  for (const auto& step : history_)
    largest = std::max(largest, step[static_cast<size_t>(block) * kQuantisedTensors + static_cast<size_t>(t)]);
  return largest;
}

void QuantiseLedger::restore_amax_history(std::vector<std::vector<float>> history) {
  for (const auto& step : history)
    if (step.size() != statistics_.size())
      fail("the checkpoint's amax history has {} tensors, the model {}", step.size(), statistics_.size());
  history_ = std::move(history);
}

}  // namespace rorqual
