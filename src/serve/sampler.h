// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>

namespace rorqual {

struct SamplingSettings {
  double temperature = 1.0;  // 0: the most likely token
  double top_p = 1.0;        // the smallest set of tokens with that much probability
  int64_t top_k = 0;         // 0: all
  uint64_t seed = 0;
};

// Refuses settings out of range (Error, usage).
void validate(const SamplingSettings& settings);

// Gumbel-max over the tokens that top-k and top-p leave: argmax of logit / temperature + noise(seed, position, token), so that
// the choice depends on nothing else. Ties go to the lower token.
int32_t sample_token(std::span<const float> logits, const SamplingSettings& settings, int64_t position);

}  // namespace rorqual
