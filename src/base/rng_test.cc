#include "base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace rorqual {
namespace {

using Words = std::array<uint32_t, 4>;

// Random123's kat_vectors, "philox4x32 10".
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(detail::philox({0, 0, 0, 0}, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(detail::philox({kOnes, kOnes, kOnes, kOnes}, kOnes, kOnes),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(detail::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// The numbers of a run belong to its checkpoints: a change of the key schedule would silently change every resumed run.
TEST(Random, KeysArePartOfTheCheckpointFormat) {
  const RandomKey key{.seed = 1, .purpose = RandomPurpose::kTest, .step = 2, .layer = 3};
  EXPECT_EQ(random_words(key, 4), random_words(key, 4));
  EXPECT_EQ(static_cast<uint32_t>(RandomPurpose::kInitialise), 1u);
  EXPECT_EQ(static_cast<uint32_t>(RandomPurpose::kShuffle), 2u);
  EXPECT_EQ(static_cast<uint32_t>(RandomPurpose::kFillInMiddle), 3u);
  EXPECT_EQ(static_cast<uint32_t>(RandomPurpose::kSample), 4u);
  EXPECT_EQ(static_cast<uint32_t>(RandomPurpose::kSplit), 5u);
  EXPECT_EQ(random_u64(key, 4), 0xc4bb2c7b896c68efULL);
}

TEST(Random, EveryPartOfTheKeyMatters) {
  const RandomKey base{.seed = 7, .purpose = RandomPurpose::kShuffle, .step = 5, .layer = 9};
  std::vector<RandomKey> keys(5, base);
  keys[1].seed = 8;
  keys[2].purpose = RandomPurpose::kSample;
  keys[3].step = (uint64_t{1} << 48) - 1;
  keys[4].layer = (1u << 16) - 1;
  std::set<uint64_t> seen;
  constexpr uint64_t kPositions = 1000;
  for (const RandomKey& key : keys)
    for (uint64_t p = 0; p < kPositions; ++p) seen.insert(random_u64(key, p << 33 | p));
  // 5000 draws of 64 bits collide with probability below 1e-12.
  EXPECT_EQ(seen.size(), keys.size() * kPositions);
}

TEST(Random, StepsAndLayersDoNotOverlap) {
  // step·2^16 + layer is one counter: (step 1, layer 0) is not (step 0, layer 2^16), which is refused.
  EXPECT_DEATH(random_words({.step = 0, .layer = 1u << 16}, 0), "layer 65536");
  EXPECT_DEATH(random_words({.step = uint64_t{1} << 48, .layer = 0}, 0), "step 281474976710656");
}

struct Moments {
  double mean = 0, variance = 0, skew = 0, kurtosis = 0;
};

template <class Draw>
Moments moments(int64_t n, Draw draw) {
  Moments m;
  std::vector<double> x(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) m.mean += x[static_cast<size_t>(i)] = draw(static_cast<uint64_t>(i));
  m.mean /= static_cast<double>(n);
  for (const double v : x) {
    const double d = v - m.mean;
    m.variance += d * d, m.skew += d * d * d, m.kurtosis += d * d * d * d;
  }
  m.variance /= static_cast<double>(n);
  m.skew /= static_cast<double>(n) * std::pow(m.variance, 1.5);
  m.kurtosis /= static_cast<double>(n) * m.variance * m.variance;
  return m;
}

constexpr int64_t kDraws = 1 << 18;
// Bounds are five standard errors of the statistic over kDraws; the draws are fixed, so the verdict is too.
const double kRoot = std::sqrt(static_cast<double>(kDraws));

TEST(Random, UniformMoments) {
  const RandomKey key{.seed = 3};
  const Moments m = moments(kDraws, [&](uint64_t p) {
    const double u = random_uniform(key, p);
    EXPECT_TRUE(u >= 0.0 && u < 1.0);
    return u;
  });
  EXPECT_NEAR(m.mean, 0.5, 5 * std::sqrt(1.0 / 12) / kRoot);
  EXPECT_NEAR(m.variance, 1.0 / 12, 5 * std::sqrt(1.0 / 180) / kRoot);  // var of (u-1/2)^2 is 1/180
}

TEST(Random, NormalMoments) {
  const RandomKey key{.seed = 3, .purpose = RandomPurpose::kInitialise};
  const Moments m = moments(kDraws, [&](uint64_t p) { return random_normal(key, p); });
  EXPECT_NEAR(m.mean, 0.0, 5 / kRoot);
  EXPECT_NEAR(m.variance, 1.0, 5 * std::sqrt(2.0) / kRoot);
  EXPECT_NEAR(m.skew, 0.0, 5 * std::sqrt(6.0) / kRoot);
  EXPECT_NEAR(m.kurtosis, 3.0, 5 * std::sqrt(24.0) / kRoot);
}

TEST(Random, PurposesAndNeighboursAreUncorrelated) {
  const RandomKey a{.seed = 11, .purpose = RandomPurpose::kShuffle}, b{.seed = 11, .purpose = RandomPurpose::kFillInMiddle};
  double across = 0, along = 0;
  for (int64_t i = 0; i < kDraws; ++i) {
    const auto p = static_cast<uint64_t>(i);
    across += (random_uniform(a, p) - 0.5) * (random_uniform(b, p) - 0.5);
    along += (random_uniform(a, p) - 0.5) * (random_uniform(a, p + 1) - 0.5);
  }
  const double bound = 5 * (1.0 / 12) / kRoot;  // a product of independent uniforms has deviation 1/12
  EXPECT_NEAR(across / static_cast<double>(kDraws), 0, bound);
  EXPECT_NEAR(along / static_cast<double>(kDraws), 0, bound);
}

TEST(Random, BelowIsEvenAndInRange) {
  constexpr uint64_t kSides = 7;
  std::array<int64_t, kSides> count{};
  for (int64_t i = 0; i < kDraws; ++i) {
    const uint64_t n = random_below({.seed = 5}, static_cast<uint64_t>(i), kSides);
    ASSERT_LT(n, kSides);
    ++count[n];
  }
  const double mean = static_cast<double>(kDraws) / kSides;
  for (const int64_t c : count) EXPECT_NEAR(static_cast<double>(c), mean, 5 * std::sqrt(mean));
  for (uint64_t p = 0; p < 100; ++p) {
    EXPECT_EQ(random_below({}, p, 1), 0u);
    EXPECT_LT(random_below({}, p, UINT64_MAX), UINT64_MAX);
  }
  EXPECT_DEATH(random_below({}, 0, 0), "CHECK");
}

}  // namespace
}  // namespace rorqual
