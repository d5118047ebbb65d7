#include "numerics/accumulator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "numerics/fp8.h"

namespace rorqual {
namespace {

uint32_t next(uint32_t& state) {
  return state = state * 1664525u + 1013904223u;
}

// Uniform in [0, 1) with 16 bits, rounded to E4M3 as an operand is.
float uniform(uint32_t& state) {
  return static_cast<float>(E4M3(static_cast<float>(next(state) >> 16) * 0x1p-16f));
}

double cut(double x, double unit) {
  return std::trunc(x / unit) * unit;
}

double unit_of(double largest, int fraction_bits) {
  return std::ldexp(1.0, std::ilogb(largest) - fraction_bits);
}

// The same model by its words: exponents from ilogb, cuts by trunc, sums in double (exact: 33 terms of at most 24 bits each).
float model(const Accumulator& accumulator, std::span<const float> a, std::span<const float> b) {
  const size_t k = a.size();
  float total = 0;
  double sum = 0;
  for (size_t begin = 0; begin < k; begin += 32) {
    const size_t end = std::min(k, begin + 32);
    double largest = std::fabs(sum);
    for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(double(a[i]) * double(b[i])));
    if (largest > 0) {
      const double unit = unit_of(largest, accumulator.fraction_bits);
      double block = cut(sum, unit);
      for (size_t i = begin; i < end; ++i) block += cut(double(a[i]) * double(b[i]), unit);
      sum = block == 0 ? 0 : cut(block, unit_of(block, accumulator.fraction_bits));
    }
    if (accumulator.promote > 0 && end % static_cast<size_t>(accumulator.promote) == 0) {
      total += static_cast<float>(sum);
      sum = 0;
    }
  }
  return accumulator.promote > 0 ? total + static_cast<float>(sum) : static_cast<float>(sum);
}

float sum_of(const Accumulator& accumulator, const std::vector<float>& products) {
  return accumulate_products(accumulator, products, std::vector<float>(products.size(), 1.0f));
}

TEST(Accumulator, CutsAtTheLargestExponentTowardZero) {
  std::vector<float> x(32, 0x1p-14f);
  x[7] = 1;
  EXPECT_EQ(sum_of({.fraction_bits = 13}, x), 1.0f);
  EXPECT_EQ(sum_of({.fraction_bits = 14}, x), 1.0f + 31 * 0x1p-14f);
  for (float& value : x) value = -value;
  EXPECT_EQ(sum_of({.fraction_bits = 13}, x), -1.0f);
  x[7] = 1;
  EXPECT_EQ(sum_of({.fraction_bits = 13}, x), 1.0f) << "terms are cut one by one, not their sum";
}

TEST(Accumulator, AlignsToTheRunningSumToo) {
  std::vector<float> x(64, 0.0f);
  x[0] = 1;
  for (size_t i = 32; i < 64; ++i) x[i] = 0x1p-14f;
  EXPECT_EQ(sum_of({.fraction_bits = 13}, x), 1.0f);
  EXPECT_EQ(sum_of({.fraction_bits = 13, .promote = 32}, x), 1.0f + 0x1p-9f) << "the second block starts at 0";
  x[0] = 0x1p-16f;
  x[40] = 1;
  EXPECT_EQ(sum_of({.fraction_bits = 14}, x), 1.0f + 31 * 0x1p-14f) << "a smaller sum is cut to the block's exponent";
}

TEST(Accumulator, CutsTheResult) {
  std::vector<float> x(32, 1.0f);
  x[31] = 1 + 0x1p-13f;
  EXPECT_EQ(sum_of({.fraction_bits = 13}, x), 32.0f);
  for (float& value : x) value = -1 - 0x1p-13f;
  EXPECT_EQ(sum_of({.fraction_bits = 13}, x), -32.0f * (1 + 0x1p-13f));
}

TEST(Accumulator, IsItsModel) {
  uint32_t state = 5;
  for (const size_t k : {0, 1, 31, 32, 33, 127, 128, 500, 4096}) {
    for (int trial = 0; trial < 60; ++trial) {
      std::vector<float> a(k), b(k);
      for (size_t i = 0; i < k; ++i) {
        // Signed, over a range of exponents that reaches beyond what is kept, with zeros; every third trial positive.
        const int low = -static_cast<int>(next(state) >> 28) * (trial % 2);
        a[i] = std::ldexp(uniform(state), low) * (trial % 3 == 0 || next(state) >> 31 != 0 ? 1.0f : -1.0f);
        b[i] = uniform(state);
      }
      for (const int bits : {1, 13, 14, 23})
        for (const int promote : {0, 32, 128, 512}) {
          const Accumulator accumulator{bits, promote};
          ASSERT_EQ(accumulate_products(accumulator, a, b), model(accumulator, a, b))
              << "k " << k << ", trial " << trial << ", " << bits << " bits, promoted every " << promote;
        }
    }
  }
}

TEST(Accumulator, Fp32IsOneAscendingChain) {
  std::vector<float> x(64, 1.0f);
  x[0] = 0x1p24f;
  EXPECT_EQ(sum_of({}, x), 0x1p24f) << "each 1 is half of the last bit and goes to the even neighbour";
  std::reverse(x.begin(), x.end());
  EXPECT_EQ(sum_of({}, x), 0x1p24f + 64) << "63 + 2^24 is a tie, rounded to even";
  x.assign(64, 1.0f);
  x[0] = 0x1p24f;
  EXPECT_EQ(sum_of({.promote = 32}, x), 0x1p24f + 32);
}

TEST(Accumulator, ExtremesOfFp32) {
  const float tiny = std::numeric_limits<float>::denorm_min(), huge = std::numeric_limits<float>::max();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const int bits : {13, 14}) {
    EXPECT_EQ(sum_of({.fraction_bits = bits}, {tiny, tiny, -3 * tiny}), -tiny);
    EXPECT_EQ(accumulate_products({.fraction_bits = bits}, std::vector{tiny}, std::vector{tiny}), 0.0f);
    EXPECT_EQ(sum_of({.fraction_bits = bits}, {huge, huge}), infinity);
    EXPECT_EQ(accumulate_products({.fraction_bits = bits}, std::vector{huge, 1.0f}, std::vector{-huge, 1.0f}), -infinity);
    EXPECT_EQ(sum_of({.fraction_bits = bits}, {1, infinity, -huge}), infinity);
    EXPECT_TRUE(std::isnan(sum_of({.fraction_bits = bits}, {1, infinity, -infinity})));
    EXPECT_TRUE(std::isnan(sum_of({.fraction_bits = bits}, {1, std::nanf(""), 1})));
    std::vector<float> late(64, 1.0f);
    late[3] = infinity;
    EXPECT_EQ(sum_of({.fraction_bits = bits}, late), infinity) << "an infinite sum stays";
    EXPECT_EQ(sum_of({.fraction_bits = bits}, std::vector<float>(40, 0.0f)), 0.0f);
    EXPECT_EQ(sum_of({.fraction_bits = bits, .promote = 32}, {}), 0.0f);
  }
}

// Mean relative error of 200 products of K = 4096 positive uniform numbers.
double mean_error(const Accumulator& accumulator) {
  uint32_t state = 11;
  double sum = 0;
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<float> a(4096), b(4096);
    double exact = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      a[i] = uniform(state), b[i] = uniform(state);
      exact += double(a[i]) * double(b[i]);
    }
    sum += std::fabs(accumulate_products(accumulator, a, b) - exact) / exact;
  }
  return sum / 200;
}

// Another model of the same description found 3.3 % and 6.9 %, promoted every 128 0.02 % and 0.06 % (spec 2.3). A band of
// 0.6 ... 1.6 times that forgives what the description leaves open (inputs, rounding to E4M3), not another number of bits.
TEST(Accumulator, FallsInTheBandOfOtherModels) {
  const auto near = [](double error, double expected) {
    EXPECT_GT(error, 0.6 * expected);
    EXPECT_LT(error, 1.6 * expected);
  };
  near(mean_error({.fraction_bits = 14}), 0.033);
  near(mean_error({.fraction_bits = 13}), 0.069);
  near(mean_error({.fraction_bits = 14, .promote = 128}), 0.0002);
  near(mean_error({.fraction_bits = 13, .promote = 128}), 0.0006);
  EXPECT_LT(mean_error({}), 1e-6);
}

}  // namespace
}  // namespace rorqual
