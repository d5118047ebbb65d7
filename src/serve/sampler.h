// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "serve/constraint.h"

namespace rorqual {

// In the order in which they apply, each to the logits l that the one before left:
//   1. repetition_penalty r, of tokens in prompt or output: l / r if l > 0, else l · r
//   2. presence_penalty and frequency_penalty, of tokens in the output: l − presence − frequency · (times it occurs)
//   3. logit_bias: l + bias
//   4. the constraint: tokens that may not follow are out
//   5. temperature 0: the largest l, the lowest token of equal ones; else probabilities softmax(l / temperature)
//   6. top_k: the k likeliest   7. top_p: of these, the fewest that hold so much of their probability
//   8. min_p: those at least min_p times as likely as the likeliest
//   9. the choice: argmax of l / temperature + noise(seed, position, token) (Gumbel), so that it depends on nothing else
struct SamplingSettings {
  double temperature = 1.0;  // 0: the most likely token
  double top_p = 1.0;        // (0, 1]
  int64_t top_k = 0;         // 0: all
  double min_p = 0;          // [0, 1]
  double repetition_penalty = 1;
  double presence_penalty = 0, frequency_penalty = 0;
  std::vector<std::pair<int32_t, double>> logit_bias = {};  // token, bias; −100 and less takes a token out
  uint64_t seed = 0;
};

// Refuses settings out of range (Error, usage).
void validate(const SamplingSettings& settings);

// The choice of a token from final logits: steps 5 to 9.
int32_t sample_token(std::span<const float> logits, const SamplingSettings& settings, int64_t position);

// The sampler of one sequence: knows what the penalties look at.
class Sampler {
 public:
  Sampler(const SamplingSettings& settings, std::span<const int32_t> prompt);
  // The token at `position`, or −1 if the constraint (or none) allows no token.
  int32_t choose(std::span<const float> logits, int64_t position, const Constraint* constraint) const;
  // The output goes on with this token; undo takes it back.
  void add(int32_t token);
  void undo(int32_t token);

 private:
  void penalise(std::span<float> logits) const;

  SamplingSettings settings_;
  bool counts_ = false;  // some penalty needs the counts
  struct Count {
    bool in_prompt = false;
    int64_t generated = 0;
  };
  std::unordered_map<int32_t, Count> seen_;
};

// ln Σ exp(l), of all tokens.
double log_sum_exp(std::span<const float> logits);
// The n likeliest tokens, most likely first, of equal ones the lowest.
std::vector<int32_t> top_tokens(std::span<const float> logits, int64_t n);

}  // namespace rorqual
