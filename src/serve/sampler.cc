#include "serve/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace rorqual {
namespace {

constexpr double kLog2E = 1.4426950408889634;

float largest(std::span<const float> logits) {
  return *std::max_element(logits.begin(), logits.end());
}

// exp((l − top) / temperature) of logits, and its sum over the vocabulary.
struct Likelihood {
  std::span<const float> logits;
  double top, temperature;
  double operator()(int32_t token) const {
    return std::exp((static_cast<double>(logits[static_cast<size_t>(token)]) - top) / temperature);
  }
  double total() const {
    const auto t = static_cast<float>(top), scale = static_cast<float>(1 / temperature);
    double sum = 0;
    for (const float l : logits) sum += static_cast<double>(std::exp((l - t) * scale));
    return sum;
  }
};

// Tokens with logits of at least `least`, from the most to the least likely; equal ones by index.
std::vector<int32_t> ranked(std::span<const float> logits, double least) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < logits.size(); ++i)
    if (static_cast<double>(logits[i]) >= least) tokens.push_back(static_cast<int32_t>(i));
  std::sort(tokens.begin(), tokens.end(), [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  });
  return tokens;
}

// Calls enough(tokens) on ever longer beginnings of the ranking until it returns true: sorting the whole vocabulary is slow,
// and a few tokens nearly always do.
template <class Enough>
std::vector<int32_t> ranked_until(std::span<const float> logits, double top, double first_width, const Enough& enough) {
  for (double width = first_width; width < 1e4 * first_width; width *= 2) {
    std::vector<int32_t> tokens = ranked(logits, top - width);
    if (tokens.size() == logits.size() || enough(tokens)) return tokens;
  }
  return ranked(logits, -INFINITY);
}

// What top-k and top-p leave.
std::vector<int32_t> candidates(std::span<const float> logits, const SamplingSettings& s, double top) {
  const Likelihood weight{logits, top, s.temperature};
  const bool nucleus = s.top_p < 1;
  const auto k = s.top_k > 0 ? static_cast<size_t>(s.top_k) : logits.size();
  const double total = nucleus && s.top_k == 0 ? weight.total() : 0;
  size_t count = 0;
  std::vector<int32_t> tokens = ranked_until(logits, top, 8 * s.temperature, [&](const std::vector<int32_t>& found) {
    if (s.top_k > 0) return found.size() >= k;
    double sum = 0;
    for (const int32_t t : found) sum += weight(t);
    return sum >= s.top_p * total * 1.000001;
  });
  tokens.resize(std::min(tokens.size(), k));
  if (!nucleus) return tokens;
  double whole = total, sum = 0;
  if (s.top_k > 0)
    for (const int32_t t : tokens) whole += weight(t);
  while (count < tokens.size() && (count == 0 || sum < s.top_p * whole)) sum += weight(tokens[count++]);
  tokens.resize(count);
  return tokens;
}

// argmax of l / temperature − ln(−ln u), u uniform in (0, 1), keyed by token. Most tokens are told by a bound to be losers:
// with w = 1 − u, −ln u >= w, so that a token whose score must exceed its l / temperature by d wins only if w <= exp(−d).
class GumbelArgmax {
 public:
  GumbelArgmax(std::span<const float> logits, const SamplingSettings& s, int64_t position)
      : logits_(logits),
        inverse_(1 / s.temperature),
        key_{s.seed, RandomPurpose::kSample, static_cast<uint64_t>(position), 0} {}

  void offer(int32_t token) {
    const double base = static_cast<double>(logits_[static_cast<size_t>(token)]) * inverse_;
    const double bound = (base - score_) * kLog2E + 1e-6;  // of log2 w
    if (bound < -53) return;                               // w is at least 2^-53
    const double u = std::min(random_uniform(key_, static_cast<uint64_t>(token)) + 0x1p-54, 1 - 0x1p-53);
    const int exponent = static_cast<int>(std::bit_cast<uint64_t>(1 - u) >> 52) - 1023;  // floor of log2 w
    if (exponent > bound) return;
    const double score = base - std::log(-std::log(u));
    if (score > score_ || (score == score_ && token < token_)) score_ = score, token_ = token;
  }
  int32_t token() const { return token_; }

 private:
  std::span<const float> logits_;
  double inverse_;
  RandomKey key_;
  double score_ = -INFINITY;
  int32_t token_ = -1;
};

}  // namespace

void validate(const SamplingSettings& s) {
  if (!(s.temperature >= 0) || !std::isfinite(s.temperature)) fail_usage("temperature = {} must be 0 or more", s.temperature);
  if (!(s.top_p > 0 && s.top_p <= 1)) fail_usage("top-p = {} must lie in (0, 1]", s.top_p);
  if (s.top_k < 0) fail_usage("top-k = {} must be 0 (all) or more", s.top_k);
  if (!(s.min_p >= 0 && s.min_p <= 1)) fail_usage("min-p = {} must lie in [0, 1]", s.min_p);
  if (!(s.repetition_penalty > 0) || !std::isfinite(s.repetition_penalty))
    fail_usage("repetition penalty = {} must be above 0", s.repetition_penalty);
  if (!std::isfinite(s.presence_penalty) || !std::isfinite(s.frequency_penalty))
    fail_usage("presence penalty = {} and frequency penalty = {} must be numbers", s.presence_penalty, s.frequency_penalty);
  for (const auto& [token, bias] : s.logit_bias)
    if (token < 0 || std::isnan(bias))
      fail_usage("logit bias {} of token {}: tokens are 0 or more, biases numbers", bias, token);
}

int32_t sample_token(std::span<const float> logits, const SamplingSettings& s, int64_t position) {
  CHECK(!logits.empty());
  const auto first = std::max_element(logits.begin(), logits.end());
  // A temperature so small that dividing by it overflows leaves the likeliest token alone too.
  if (s.temperature < 1e-30) return static_cast<int32_t>(first - logits.begin());
  const auto top = static_cast<double>(*first);
  const double least = s.min_p > 0 ? top + s.temperature * std::log(s.min_p) : -INFINITY;
  GumbelArgmax best(logits, s, position);
  best.offer(static_cast<int32_t>(first - logits.begin()));
  if (s.top_k > 0 || s.top_p < 1) {
    for (const int32_t token : candidates(logits, s, top))
      if (static_cast<double>(logits[static_cast<size_t>(token)]) >= least) best.offer(token);
  } else {
    for (size_t i = 0; i < logits.size(); ++i)
      if (static_cast<double>(logits[i]) >= least && logits[i] > -INFINITY) best.offer(static_cast<int32_t>(i));
  }
  return best.token();
}

Sampler::Sampler(const SamplingSettings& settings, std::span<const int32_t> prompt)
    : settings_(settings),
      counts_(settings.repetition_penalty != 1 || settings.presence_penalty != 0 || settings.frequency_penalty != 0) {
  if (settings_.repetition_penalty != 1)
    for (const int32_t token : prompt) seen_[token].in_prompt = true;
}

void Sampler::add(int32_t token) {
  if (counts_) ++seen_[token].generated;
}

void Sampler::undo(int32_t token) {
  if (counts_) --seen_[token].generated;
}

void Sampler::penalise(std::span<float> logits) const {
  const double r = settings_.repetition_penalty;
  for (const auto& [token, count] : seen_) {
    if (static_cast<size_t>(token) >= logits.size() || (!count.in_prompt && count.generated == 0)) continue;
    float& l = logits[static_cast<size_t>(token)];
    double x = static_cast<double>(l);
    x = x > 0 ? x / r : x * r;
    if (count.generated > 0)
      x -= settings_.presence_penalty + settings_.frequency_penalty * static_cast<double>(count.generated);
    l = static_cast<float>(x);
  }
  for (const auto& [token, bias] : settings_.logit_bias) {
    if (static_cast<size_t>(token) >= logits.size()) continue;
    float& l = logits[static_cast<size_t>(token)];
    l = bias <= -100 ? -INFINITY : static_cast<float>(static_cast<double>(l) + bias);
  }
}

int32_t Sampler::choose(std::span<const float> logits, int64_t position, const Constraint* constraint) const {
  if (!counts_ && settings_.logit_bias.empty() && constraint == nullptr) return sample_token(logits, settings_, position);
  thread_local std::vector<float> changed;
  changed.assign(logits.begin(), logits.end());
  penalise(changed);
  if (constraint != nullptr) {
    thread_local std::vector<uint64_t> allowed;
    allowed.assign((logits.size() + 63) / 64, ~uint64_t{0});
    constraint->restrict_tokens(allowed);
    for (size_t i = 0; i < changed.size(); ++i)
      if ((allowed[i / 64] >> (i % 64) & 1) == 0) changed[i] = -INFINITY;
  }
  if (largest(changed) == -INFINITY) return -1;
  return sample_token(changed, settings_, position);
}

double log_sum_exp(std::span<const float> logits) {
  return static_cast<double>(largest(logits)) + std::log(Likelihood{logits, static_cast<double>(largest(logits)), 1}.total());
}

std::vector<int32_t> top_tokens(std::span<const float> logits, int64_t n) {
  std::vector<int32_t> tokens = ranked_until(logits, static_cast<double>(largest(logits)), 8,
                                             [&](const auto& found) { return static_cast<int64_t>(found.size()) >= n; });
  tokens.resize(std::min(tokens.size(), static_cast<size_t>(n)));
  return tokens;
}

}  // namespace rorqual
