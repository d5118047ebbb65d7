#include "serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/rng.h"

namespace rorqual {
namespace {

// Tokens from the most to the least likely; equal ones by index.
std::vector<int32_t> ranked(std::span<const float> logits) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)]; });
  return order;
}

// How many of the ranked tokens hold `top_p` of the probability, at least one.
size_t nucleus(std::span<const float> logits, const std::vector<int32_t>& order, size_t count, const SamplingSettings& s) {
  const auto weight = [&](size_t i) {
    return std::exp((static_cast<double>(logits[static_cast<size_t>(order[i])]) -
                     static_cast<double>(logits[static_cast<size_t>(order[0])])) /
                    s.temperature);
  };
  double total = 0, sum = 0;
  for (size_t i = 0; i < count; ++i) total += weight(i);
  for (size_t i = 0; i < count; ++i) {
    sum += weight(i);
    if (sum >= s.top_p * total) return i + 1;
  }
  return count;
}

}  // namespace

void validate(const SamplingSettings& s) {
  if (!(s.temperature >= 0) || !std::isfinite(s.temperature)) fail_usage("temperature = {} must be 0 or more", s.temperature);
  if (!(s.top_p > 0 && s.top_p <= 1)) fail_usage("top-p = {} must lie in (0, 1]", s.top_p);
  if (s.top_k < 0) fail_usage("top-k = {} must be 0 (all) or more", s.top_k);
}

int32_t sample_token(std::span<const float> logits, const SamplingSettings& s, int64_t position) {
  CHECK(!logits.empty());
  if (s.temperature == 0) return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  std::vector<int32_t> candidates(logits.size());
  std::iota(candidates.begin(), candidates.end(), 0);
  if (s.top_k > 0 || s.top_p < 1) {
    candidates = ranked(logits);
    size_t count = candidates.size();
    if (s.top_k > 0) count = std::min(count, static_cast<size_t>(s.top_k));
    if (s.top_p < 1) count = nucleus(logits, candidates, count, s);
    candidates.resize(count);
  }
  int32_t best = candidates.front();
  double best_score = -INFINITY;
  for (const int32_t token : candidates) {
    const double u =
        random_uniform({s.seed, RandomPurpose::kSample, static_cast<uint64_t>(position), 0}, static_cast<uint64_t>(token));
    const double score =
        static_cast<double>(logits[static_cast<size_t>(token)]) / s.temperature - std::log(-std::log(u + 0x1p-54));
    if (score > best_score || (score == best_score && token < best)) best = token, best_score = score;
  }
  return best;
}

}  // namespace rorqual
