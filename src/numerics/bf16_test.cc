#include "numerics/bf16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace rorqual {
namespace {

// Tests of numerics draw from a small generator of their own: the folder below knows nothing of them.
uint32_t next(uint32_t& state) {
  return state = state * 1664525u + 1013904223u;
}

double magnitude(uint32_t upper) {  // of the bf16 `upper`, its infinity taken for 2^128, the next value of the grid
  return upper == 0x7f80 ? 0x1p128 : static_cast<double>(std::bit_cast<float>(upper << 16));
}

// Round to nearest, ties to even, as a choice between the two neighbours by distance; every distance is exact in double.
uint16_t model(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 31 << 15, below = (bits & 0x7fffffffu) >> 16;
  const double x = std::fabs(static_cast<double>(value));
  if (std::isinf(value)) return static_cast<uint16_t>(sign | 0x7f80);
  const double down = x - magnitude(below), up = magnitude(below + 1) - x;
  const bool take_up = up < down || (up == down && below % 2 == 1);
  return static_cast<uint16_t>(sign | (below + (take_up ? 1 : 0)));
}

TEST(Bf16, EveryPatternSurvivesFloat) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Bf16 x = Bf16::from_bits(static_cast<uint16_t>(bits));
    const float f = static_cast<float>(x);
    ASSERT_EQ(std::bit_cast<uint32_t>(f), bits << 16);
    if (std::isnan(f)) {
      ASSERT_TRUE(std::isnan(static_cast<float>(Bf16(f)))) << bits;
      ASSERT_EQ(Bf16(f).bits, bits | 0x40) << "a NaN keeps sign and payload and is quiet";
    } else {
      ASSERT_EQ(Bf16(f), x) << bits;
      ASSERT_EQ(Bf16(static_cast<double>(x)), x) << bits;
    }
  }
}

TEST(Bf16, RoundsToNearestEven) {
  uint32_t state = 1;
  for (uint32_t upper = 0; upper < 65536; ++upper) {
    // The ends, the tie and its neighbours, and random lower halves.
    uint32_t lower[16] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    for (int i = 6; i < 16; ++i) lower[i] = next(state) >> 16;
    for (const uint32_t low : lower) {
      const float value = std::bit_cast<float>(upper << 16 | low);
      if (std::isnan(value))
        ASSERT_TRUE(std::isnan(static_cast<float>(Bf16(value)))) << upper << " " << low;
      else
        ASSERT_EQ(Bf16(value).bits, model(value)) << upper << " " << low;
    }
  }
}

TEST(Bf16, Landmarks) {
  static_assert(Bf16(1.0f).bits == 0x3f80);
  static_assert(Bf16(-2.0f).bits == 0xc000);
  static_assert(Bf16(1.00390625f).bits == 0x3f80, "a tie goes to the even neighbour below");
  static_assert(Bf16(1.01171875f).bits == 0x3f82, "a tie goes to the even neighbour above");
  EXPECT_TRUE(std::isinf(static_cast<float>(Bf16(std::numeric_limits<float>::max()))));
  EXPECT_EQ(Bf16(std::numeric_limits<float>::denorm_min()).bits, 0);
  EXPECT_EQ(Bf16(0x1p-133f).bits, 1) << "the smallest denormal is kept";
  EXPECT_EQ(Bf16(-0.0f).bits, 0x8000);
}

}  // namespace
}  // namespace rorqual
