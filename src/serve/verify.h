// Two models on the same text: how far apart their logits are. For a model and its export, two exports of different dtypes, or
// a model and what another program computed with it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/model.h"

namespace rorqual {

struct VerifyResult {
  int64_t tokens = 0;             // positions compared
  double largest_difference = 0;  // of any logit of any position, absolute
  double mean_difference = 0;     // over all logits, absolute
  double largest_logit = 0;       // of the first model, absolute: what the differences are to be held against
  int64_t same_top_token = 0;     // positions whose most likely token is the same (ties: the smaller id)
  double mean_kl = 0;             // KL divergence of the second model's distribution from the first's, nats per token
  double agreement() const { return static_cast<double>(same_top_token) / static_cast<double>(tokens); }
};

// Logits [ids, vocabulary] after each of these ids; the first one begins a text.
using LogitsOf = std::function<std::vector<double>(std::span<const int32_t> ids)>;
LogitsOf logits_of(const Model& model, Workspace& work, const Stream& stream);

// Predictions after each of `ids`, in windows of at most `window` tokens that do not overlap.
// Error (runtime): a logit that is not finite.
VerifyResult verify_logits(const LogitsOf& a, const LogitsOf& b, int64_t vocab_size, std::span<const int32_t> ids,
                           int64_t window);

}  // namespace rorqual
