#include "serve/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace rorqual {
namespace {

std::vector<float> draw_logits(size_t n, uint64_t seed, double spread) {
  std::vector<float> logits(n);
  for (size_t i = 0; i < n; ++i) logits[i] = static_cast<float>(spread * random_normal({.seed = seed}, i));
  return logits;
}

// Steps 5 to 9 of sampler.h by sorting everything and computing every token's noise.
int32_t plain_choice(std::span<const float> logits, const SamplingSettings& s, int64_t position) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](int32_t t) { return static_cast<double>(logits[static_cast<size_t>(t)]); };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return at(a) > at(b); });
  if (s.temperature == 0) return order[0];
  if (s.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(s.top_k)));
  const auto p = [&](int32_t t) { return std::exp((at(t) - at(order[0])) / s.temperature); };
  if (s.top_p < 1) {
    double total = 0, sum = 0;
    for (const int32_t t : order) total += p(t);
    size_t n = 0;
    while (n < order.size() && (n == 0 || sum < s.top_p * total)) sum += p(order[n++]);
    order.resize(n);
  }
  std::erase_if(order, [&](int32_t t) { return p(t) < s.min_p; });
  int32_t best = -1;
  double best_score = -INFINITY;
  for (const int32_t t : order) {
    const double u =
        random_uniform({s.seed, RandomPurpose::kSample, static_cast<uint64_t>(position), 0}, static_cast<uint64_t>(t));
    const double score = at(t) / s.temperature - std::log(-std::log(std::min(u + 0x1p-54, 1 - 0x1p-53)));
    if (score > best_score || (score == best_score && t < best)) best = t, best_score = score;
  }
  return best;
}

TEST(SampleToken, IsWhatThePlainRulesSay) {
  std::vector<SamplingSettings> all;
  for (const double temperature : {0.0, 0.3, 1.0, 5.0})
    for (const double top_p : {0.2, 0.9, 1.0})
      for (const int64_t top_k : {0, 1, 7, 100, 5000})
        for (const double min_p : {0.0, 0.05, 1.0})
          all.push_back({.temperature = temperature, .top_p = top_p, .top_k = top_k, .min_p = min_p});
  for (size_t i = 0; i < all.size(); ++i)
    for (const double spread : {0.5, 4.0}) {
      const std::vector<float> logits = draw_logits(1 + i * 13, i, spread);
      SamplingSettings s = all[i];
      for (int64_t position = 0; position < 4; ++position) {
        s.seed = i;
        ASSERT_EQ(sample_token(logits, s, position), plain_choice(logits, s, position))
            << i << ": temperature " << s.temperature << ", top-p " << s.top_p << ", top-k " << s.top_k << ", min-p "
            << s.min_p;
      }
    }
}

// χ² of 20,000 draws over 8 tokens (7 degrees of freedom; the 0.1% point is 24.3), positions as the draws. Seeds are fixed.
TEST(SampleToken, FollowsTheProbabilities) {
  const std::vector<float> logits = draw_logits(8, 1, 1.0);
  const int64_t draws = 20000;
  std::vector<double> count(8), p(8);
  double total = 0;
  for (size_t i = 0; i < 8; ++i) total += p[i] = std::exp(static_cast<double>(logits[i]) / 0.8);
  for (int64_t i = 0; i < draws; ++i) ++count[static_cast<size_t>(sample_token(logits, {.temperature = 0.8, .seed = 3}, i))];
  double chi = 0;
  for (size_t i = 0; i < 8; ++i) {
    const double expected = p[i] / total * static_cast<double>(draws);
    chi += (count[i] - expected) * (count[i] - expected) / expected;
  }
  EXPECT_LT(chi, 24.3);
}

TEST(SampleToken, RefusesSettingsOutOfRange) {
  EXPECT_THROW(validate({.temperature = -1}), Error);
  EXPECT_THROW(validate({.top_p = 0}), Error);
  EXPECT_THROW(validate({.min_p = 1.5}), Error);
  EXPECT_THROW(validate({.repetition_penalty = 0}), Error);
  EXPECT_THROW(validate({.frequency_penalty = NAN}), Error);
  EXPECT_THROW(validate({.logit_bias = {{-1, 0.0}}}), Error);
  EXPECT_NO_THROW(validate({}));
}

// Greedy choices of hand-made logits say what the adjusted ones are.
TEST(Sampler, PenaltiesAndBias) {
  const std::vector<float> logits = {2.0f, 1.9f, 1.0f, -1.0f};
  const auto greedy = [](SamplingSettings s) {
    s.temperature = 0;
    return s;
  };
  const std::vector<int32_t> prompt = {0, 3};
  EXPECT_EQ(Sampler(greedy({}), prompt).choose(logits, 5, nullptr), 0);
  EXPECT_EQ(Sampler(greedy({.repetition_penalty = 1.1}), prompt).choose(logits, 5, nullptr), 1) << "2 / 1.1 < 1.9";
  Sampler presence(greedy({.presence_penalty = 0.2}), prompt);
  EXPECT_EQ(presence.choose(logits, 5, nullptr), 0) << "the prompt does not count";
  presence.add(0);
  EXPECT_EQ(presence.choose(logits, 5, nullptr), 1);
  presence.undo(0);
  EXPECT_EQ(presence.choose(logits, 5, nullptr), 0);
  Sampler frequency(greedy({.frequency_penalty = 0.06}), prompt);
  frequency.add(0);
  EXPECT_EQ(frequency.choose(logits, 5, nullptr), 0);
  frequency.add(0);
  EXPECT_EQ(frequency.choose(logits, 5, nullptr), 1);
  EXPECT_EQ(Sampler(greedy({.logit_bias = {{3, 3.5}}}), prompt).choose(logits, 5, nullptr), 3);
  EXPECT_EQ(Sampler(greedy({.logit_bias = {{0, -100.0}}}), prompt).choose(logits, 5, nullptr), 1);
  // A negative logit is multiplied: 3 stays below 2 where division would lift it.
  EXPECT_EQ(Sampler(greedy({.repetition_penalty = 4, .logit_bias = {{0, -100.0}, {1, -100.0}, {2, -3.0}}}), prompt)
                .choose(logits, 5, nullptr),
            2);
}

class Only : public Constraint {
 public:
  explicit Only(uint64_t bits) : bits_(bits) {}
  void restrict_tokens(std::span<uint64_t> allowed) const override { allowed[0] &= bits_; }
  void accept(int32_t) override {}
  bool finished() const override { return false; }
  std::unique_ptr<Constraint> clone() const override { return std::make_unique<Only>(bits_); }

 private:
  uint64_t bits_;
};

TEST(Sampler, ObeysTheConstraint) {
  const std::vector<float> logits = {2.0f, 1.9f, 1.0f, -1.0f};
  const Only last_two(0b1100), none(0);
  for (int64_t position = 0; position < 50; ++position)
    EXPECT_GE(Sampler({.temperature = 3}, {}).choose(logits, position, &last_two), 2);
  EXPECT_EQ(Sampler({.temperature = 0}, {}).choose(logits, 0, &last_two), 2);
  EXPECT_EQ(Sampler({}, {}).choose(logits, 0, &none), -1);
}

TEST(TopTokens, AreRanked) {
  const std::vector<float> logits = {1.0f, 3.0f, 3.0f, -50.0f, 2.0f};
  EXPECT_EQ(top_tokens(logits, 3), (std::vector<int32_t>{1, 2, 4}));
  EXPECT_EQ(top_tokens(logits, 9), (std::vector<int32_t>{1, 2, 4, 0, 3}));
  EXPECT_NEAR(log_sum_exp(logits), std::log(std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0)), 1e-6);
}

}  // namespace
}  // namespace rorqual
