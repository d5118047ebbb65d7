// The scale of a group of values that are quantised together (report §3.3.2; spec 2.2): value = code · scale.
#pragma once

#include <bit>
#include <cstdint>

namespace rorqual {

// kPow2: the smallest power of two with amax <= largest · scale, kept in [2^-117, 2^119]; values beyond saturate. There an E4M3
// code times the scale is a normal bf16 (or zero), so that folding the scale into a bf16's exponent is exact. E5M2 codes
// reach further: theirs are normal for [2^-110, 2^112], the scales of groups with 1.75·2^-96 < amax <= 1.75·2^127; below, small
// codes become denormals (which AMX takes for zero), above, the largest code becomes infinite. kFp32: amax / largest, at least
// 2^-126.
enum class ScaleRule { kPow2, kFp32 };

inline constexpr int kLargestScaleExponent = 119, kSmallestScaleExponent = -117;

constexpr float power_of_two(int exponent) {  // -126 ... 127
  return std::bit_cast<float>(static_cast<uint32_t>(127 + exponent) << 23);
}

// amax: the largest magnitude of the group; `largest`: of the format. An all-zero group has scale 1. A group that holds a NaN
// or an infinity (amax not finite) has a NaN scale, so that whatever reads it sees NaN.
constexpr float scale_of(float amax, float largest, ScaleRule rule) {
  const uint32_t bits = std::bit_cast<uint32_t>(amax);
  if (bits >= 0x7f800000u) return std::bit_cast<float>(0x7fc00000u);
  if (amax == 0) return 1;
  if (rule == ScaleRule::kFp32) {
    const float scale = amax / largest;
    return scale < power_of_two(-126) ? power_of_two(-126) : scale;
  }
  const uint32_t limit = std::bit_cast<uint32_t>(largest);
  const int exponent = static_cast<int>(bits >> 23) - static_cast<int>(limit >> 23) +
                       ((bits & 0x7fffffu) > (limit & 0x7fffffu) ? 1 : 0);  // a denormal amax saturates below
  if (exponent < kSmallestScaleExponent) return power_of_two(kSmallestScaleExponent);
  return power_of_two(exponent > kLargestScaleExponent ? kLargestScaleExponent : exponent);
}

// The code's argument: x / scale (exact for powers of two).
constexpr float scaled(float x, float scale) {
  return x / scale;
}

}  // namespace rorqual
