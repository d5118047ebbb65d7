#include "data/fim.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace rorqual {
namespace {

TEST(Fim, AppliesAtItsRate) {
  const int64_t n = 20'000;
  for (const double rate : {0.0, 0.1, 0.5, 1.0}) {
    int64_t hits = 0;
    for (int64_t d = 0; d < n; ++d) hits += fim_applies(7, 3, 1, d, rate);
    // Binomial, 5 deviations.
    EXPECT_NEAR(static_cast<double>(hits), rate * n, 5 * std::sqrt(n * rate * (1 - rate))) << rate;
  }
}

TEST(Fim, EpochsSourcesAndSeedsDiffer) {
  int epochs = 0, sources = 0, seeds = 0;
  for (int64_t d = 0; d < 1000; ++d) {
    const bool base = fim_applies(1, 0, 0, d, 0.5);
    epochs += base != fim_applies(1, 1, 0, d, 0.5);
    sources += base != fim_applies(1, 0, 1, d, 0.5);
    seeds += base != fim_applies(2, 0, 0, d, 0.5);
  }
  for (const int different : {epochs, sources, seeds}) EXPECT_NEAR(different, 500, 80);  // deviation 15.8
}

TEST(Fim, CutsAreUniformOverBoundaries) {
  // Both cuts of a document of 3 tokens fall on 4 boundaries: an unordered pair of distinct ones has 2/16, of equal ones 1/16.
  std::vector<int> seen(16);
  const int n = 32'000;
  for (int64_t d = 0; d < n; ++d) {
    const FimSplit split = fim_split(5, 0, 0, d, 3);
    ASSERT_LE(0, split.first);
    ASSERT_LE(split.first, split.second);
    ASSERT_LE(split.second, 3);
    ++seen[static_cast<size_t>(split.first * 4 + split.second)];
  }
  for (int a = 0; a < 4; ++a) {
    for (int b = a; b < 4; ++b) {
      const double p = a == b ? 1.0 / 16 : 2.0 / 16;
      EXPECT_NEAR(seen[static_cast<size_t>(a * 4 + b)], n * p, 5 * std::sqrt(n * p * (1 - p))) << a << " " << b;
    }
  }
  const FimSplit empty = fim_split(5, 0, 0, 0, 0);
  EXPECT_EQ(empty.first, 0);
  EXPECT_EQ(empty.second, 0);
}

}  // namespace
}  // namespace rorqual
