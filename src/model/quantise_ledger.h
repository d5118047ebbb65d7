// What the quantisers of a model saw, by layer and tensor: shares of saturated and flushed values, the range of scales, and
// which tensor held a NaN first.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/scaled_tensor.h"

namespace rorqual {

// In the order in which a step meets them.
enum class QuantisedTensor {
  kWeights,
  kAttentionInput,
  kQueryLatent,
  kKvLatent,
  kAttentionOutput,
  kAttentionOutputCache,
  kMlpInput,  // also what dispatch sends
  kGateUpCache,
  kHidden,  // SwiGLU's output
  kExpertGateUpCache,
  kExpertHidden,
  kMlpOutputGradient,  // also what dispatch sends in backward
  kGateUpGradient,
  kExpertGateUpGradient,
  kAttentionOutputGradient,
  kQueryGradient,
  kKvGradient,
  kLatentGradient,
  kWeightGradientOperands,
};
inline constexpr size_t kQuantisedTensors = 19;
std::string_view quantised_tensor_name(QuantisedTensor t);  // "attention.input"

class QuantiseLedger {
 public:
  explicit QuantiseLedger(int64_t blocks) : statistics_(static_cast<size_t>(blocks) * kQuantisedTensors) {}

  int64_t blocks() const { return static_cast<int64_t>(statistics_.size() / kQuantisedTensors); }
  QuantiseStatistics* at(int64_t block, QuantisedTensor t) {
    return &statistics_[static_cast<size_t>(block) * kQuantisedTensors + static_cast<size_t>(t)];
  }
  const QuantiseStatistics& at(int64_t block, QuantisedTensor t) const {
    return statistics_[static_cast<size_t>(block) * kQuantisedTensors + static_cast<size_t>(t)];
  }
  // The first tensor, in the order of a step, into which a NaN or an infinity came.
  struct Place {
    int64_t block = 0;
    QuantisedTensor tensor{};
  };
  std::optional<Place> not_finite() const;
  // Forgets the counts; the history stays.
  void reset();

  // Delayed scaling: the largest magnitudes of the last steps, from which the next step's scales are chosen before its values
  // are known.
  void remember_amax(int64_t steps);
  float delayed_amax(int64_t block, QuantisedTensor t) const;                       // 0: no step is known yet
  const std::vector<std::vector<float>>& amax_history() const { return history_; }  // [step][block, tensor]
  void restore_amax_history(std::vector<std::vector<float>> history);               // Error: it does not fit the model

 private:
  std::vector<QuantiseStatistics> statistics_;
  std::vector<std::vector<float>> history_;
};

}  // namespace rorqual
