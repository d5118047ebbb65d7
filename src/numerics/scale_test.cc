#include "numerics/scale.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "numerics/bf16.h"
#include "numerics/fp8.h"

namespace rorqual {
namespace {

constexpr float kFormats[] = {E4M3::kLargest, E5M2::kLargest, E5M6::kLargest};

// The smallest power of two of the range with amax <= largest · scale, or the largest there is, by trying all.
double smallest_power(float amax, float largest) {
  for (int e = kSmallestScaleExponent; e < kLargestScaleExponent; ++e)
    if (static_cast<double>(amax) <= std::ldexp(static_cast<double>(largest), e)) return std::ldexp(1.0, e);
  return std::ldexp(1.0, kLargestScaleExponent);
}

TEST(ScaleOf, Pow2IsTheSmallestThatFits) {
  for (const float largest : kFormats) {
    const auto check = [&](float amax) {
      ASSERT_EQ(static_cast<double>(scale_of(amax, largest, ScaleRule::kPow2)), smallest_power(amax, largest))
          << std::hexfloat << amax << " of " << largest;
    };
    // All of FP32's exponents with a few mantissas, denormals among them.
    for (uint64_t bits = 1; bits < 0x7f800000u; bits += 30011) check(std::bit_cast<float>(static_cast<uint32_t>(bits)));
    // The borders, where the scale changes, and the values beside them.
    for (int e = -149; e <= 127; ++e) {
      const double border = std::ldexp(static_cast<double>(largest), e);
      if (border > static_cast<double>(std::numeric_limits<float>::max())) break;
      const float amax = static_cast<float>(border);
      for (const float x : {std::nextafter(amax, 0.0f), amax, std::nextafter(amax, std::numeric_limits<float>::max())})
        if (x != 0) check(x);
    }
    check(std::numeric_limits<float>::denorm_min());
    check(std::numeric_limits<float>::max());
  }
}

TEST(ScaleOf, Pow2KeepsToItsRange) {
  static_assert(scale_of(0x1p-149f, E4M3::kLargest, ScaleRule::kPow2) == 0x1p-117f);
  static_assert(scale_of(std::numeric_limits<float>::max(), E4M3::kLargest, ScaleRule::kPow2) == 0x1p119f,
                "2^120 would be the smallest that fits: the largest values saturate");
  static_assert(scale_of(448, E4M3::kLargest, ScaleRule::kPow2) == 1 && scale_of(449, E4M3::kLargest, ScaleRule::kPow2) == 2);
  static_assert(scale_of(224, E4M3::kLargest, ScaleRule::kPow2) == 0.5f);
}

TEST(ScaleOf, Fp32IsTheQuotient) {
  for (const float largest : kFormats)
    for (uint64_t bits = 1; bits < 0x7f800000u; bits += 30011) {
      const float amax = std::bit_cast<float>(static_cast<uint32_t>(bits));
      const float scale = scale_of(amax, largest, ScaleRule::kFp32), quotient = amax / largest;
      ASSERT_EQ(scale, quotient < 0x1p-126f ? 0x1p-126f : quotient) << std::hexfloat << amax;
    }
}

TEST(ScaleOf, EmptyAndDamagedGroups) {
  for (const ScaleRule rule : {ScaleRule::kPow2, ScaleRule::kFp32})
    for (const float largest : kFormats) {
      EXPECT_EQ(scale_of(0, largest, rule), 1.0f) << "an all-zero group";
      EXPECT_TRUE(std::isnan(scale_of(std::numeric_limits<float>::infinity(), largest, rule)));
      EXPECT_TRUE(std::isnan(scale_of(std::numeric_limits<float>::quiet_NaN(), largest, rule)));
    }
}

// Whether every code but zero and the specials, times 2^exponent, is exactly a bf16 that is neither denormal nor infinite.
template <class T, class Bits>
bool codes_are_normal_bf16(int exponent) {
  for (uint32_t code = 0; code < 256; ++code) {
    const T x = T::from_bits(static_cast<Bits>(code));
    const float value = static_cast<float>(x);
    if (!std::isfinite(value) || value == 0) continue;
    const double exact = std::ldexp(static_cast<double>(value), exponent), magnitude = std::fabs(exact);
    if (magnitude < 0x1p-126 || magnitude >= 0x1p128) return false;
    if (static_cast<double>(Bf16(value * power_of_two(exponent))) != exact) return false;
  }
  return true;
}

TEST(ScaleRange, FoldsExactlyIntoABf16) {
  for (int e = kSmallestScaleExponent; e <= kLargestScaleExponent; ++e)
    ASSERT_TRUE((codes_are_normal_bf16<E4M3, uint8_t>(e))) << e;
  EXPECT_FALSE((codes_are_normal_bf16<E4M3, uint8_t>(kSmallestScaleExponent - 1))) << "the range is as wide as can be";
  EXPECT_FALSE((codes_are_normal_bf16<E4M3, uint8_t>(kLargestScaleExponent + 1)));
  // E5M2 reaches further up and down, so that it is exact in less of the range.
  for (int e = -110; e <= 112; ++e) ASSERT_TRUE((codes_are_normal_bf16<E5M2, uint8_t>(e))) << e;
  EXPECT_FALSE((codes_are_normal_bf16<E5M2, uint8_t>(-111)));
  EXPECT_FALSE((codes_are_normal_bf16<E5M2, uint8_t>(113)));
}

// What scale.h says of E5M2: groups between 1.75·2^-96 and 1.75·2^127 stay in the range where it is exact.
TEST(ScaleRange, E5M2LeavesItForExtremeGroupsAlone) {
  EXPECT_EQ(scale_of(0x1.cp-95f, E5M2::kLargest, ScaleRule::kPow2), 0x1p-110f);
  EXPECT_EQ(scale_of(std::nextafter(0x1.cp-96f, 1.0f), E5M2::kLargest, ScaleRule::kPow2), 0x1p-110f);
  EXPECT_EQ(scale_of(0x1.cp-96f, E5M2::kLargest, ScaleRule::kPow2), 0x1p-111f);
  EXPECT_EQ(scale_of(0x1.cp127f, E5M2::kLargest, ScaleRule::kPow2), 0x1p112f);
  EXPECT_EQ(scale_of(std::nextafter(0x1.cp127f, 0x1.fp127f), E5M2::kLargest, ScaleRule::kPow2), 0x1p113f);
}

TEST(Scaled, IsExactForPowersOfTwo) {
  for (int e = kSmallestScaleExponent; e <= kLargestScaleExponent; ++e) {
    const float scale = power_of_two(e);
    for (const float x : {1.0f, -0x1.234568p3f, 448.0f}) ASSERT_EQ(scaled(x * scale, scale), x) << e;
  }
}

}  // namespace
}  // namespace rorqual
