// The eight-bit formats of FP8 training (report §3.3; spec 2.1). Scalar truth of every conversion in the project.
#pragma once

#include <bit>
#include <cstdint>

namespace rorqual {
namespace fp8 {

// |value| to a code of kMantissa mantissa bits and the given bias: round to nearest even, saturating at `largest`, subnormals
// kept.
template <int kMantissa, int kBias>
constexpr uint32_t encode_magnitude(float magnitude, float largest) {
  if (magnitude >= largest) magnitude = largest;
  constexpr float kSmallestNormal = std::bit_cast<float>(static_cast<uint32_t>(127 + 1 - kBias) << 23);
  if (magnitude < kSmallestNormal) {
    // Adding a number whose last bit weighs as much as a subnormal's rounds to nearest even there.
    constexpr uint32_t kMagic = static_cast<uint32_t>(127 + 1 - kBias + 23 - kMantissa) << 23;
    return std::bit_cast<uint32_t>(magnitude + std::bit_cast<float>(kMagic)) - kMagic;
  }
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  constexpr int kShift = 23 - kMantissa;
  const uint32_t rounded = bits + ((1u << (kShift - 1)) - 1) + ((bits >> kShift) & 1u);
  return (rounded >> kShift) - (static_cast<uint32_t>(127 - kBias) << kMantissa);
}

// The value of a code without sign that is not special.
template <int kMantissa, int kBias>
constexpr float decode_magnitude(uint32_t code) {
  const uint32_t exponent = code >> kMantissa, fraction = code & ((1u << kMantissa) - 1);
  if (exponent == 0)
    return static_cast<float>(fraction) * std::bit_cast<float>(static_cast<uint32_t>(127 + 1 - kBias - kMantissa) << 23);
  return std::bit_cast<float>(((exponent + 127 - kBias) << 23) | (fraction << (23 - kMantissa)));
}

constexpr bool is_nan(float x) {
  return x != x;
}
constexpr float signed_nan(bool negative) {
  return std::bit_cast<float>(negative ? 0xffc00000u : 0x7fc00000u);
}
constexpr uint32_t sign_of(float x) {
  return std::bit_cast<uint32_t>(x) >> 31;
}
constexpr float magnitude_of(float x) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0x7fffffffu);
}

}  // namespace fp8

// Sign, 4 exponent bits with bias 7, 3 mantissa bits; no infinity; 0x7f and 0xff are NaN. Largest 448, smallest normal 2^-6,
// smallest subnormal 2^-9.
struct E4M3 {
  static constexpr float kLargest = 448;
  uint8_t bits = 0;

  E4M3() = default;
  // Round to nearest, ties to even; values beyond kLargest, infinities too, become ±kLargest; NaN stays NaN.
  constexpr explicit E4M3(float x)
      : bits(static_cast<uint8_t>((fp8::sign_of(x) << 7) |
                                  (fp8::is_nan(x) ? 0x7fu : fp8::encode_magnitude<3, 7>(fp8::magnitude_of(x), kLargest)))) {}
  static constexpr E4M3 from_bits(uint8_t b) {
    E4M3 x;
    x.bits = b;
    return x;
  }
  constexpr bool is_nan() const { return (bits & 0x7f) == 0x7f; }
  constexpr explicit operator float() const {
    const float sign = (bits & 0x80) != 0 ? -1.0f : 1.0f;
    if (is_nan()) return fp8::signed_nan(sign < 0);
    return sign * fp8::decode_magnitude<3, 7>(bits & 0x7fu);
  }
  friend constexpr bool operator==(E4M3, E4M3) = default;
};

// Sign, 5 exponent bits with bias 15, 2 mantissa bits: the upper byte of an FP16, with infinity (never written) and NaN.
// Largest 57344.
struct E5M2 {
  static constexpr float kLargest = 57344;
  uint8_t bits = 0;

  E5M2() = default;
  constexpr explicit E5M2(float x)
      : bits(static_cast<uint8_t>((fp8::sign_of(x) << 7) |
                                  (fp8::is_nan(x) ? 0x7fu : fp8::encode_magnitude<2, 15>(fp8::magnitude_of(x), kLargest)))) {}
  static constexpr E5M2 from_bits(uint8_t b) {
    E5M2 x;
    x.bits = b;
    return x;
  }
  constexpr bool is_nan() const { return (bits & 0x7f) > 0x7c; }
  constexpr explicit operator float() const {
    const float sign = (bits & 0x80) != 0 ? -1.0f : 1.0f;
    if (is_nan()) return fp8::signed_nan(sign < 0);
    if ((bits & 0x7f) == 0x7c) return sign * std::bit_cast<float>(0x7f800000u);
    return sign * fp8::decode_magnitude<2, 15>(bits & 0x7fu);
  }
  friend constexpr bool operator==(E5M2, E5M2) = default;
};

// The twelve-bit cache format of the attention's output (report §3.3.3; the details are ours, spec 2.1): bias 15, exponent 31
// is NaN only, largest 65024, subnormals kept. Two values in three bytes: the first in bits 0-11, the second in bits 12-23,
// little-endian.
struct E5M6 {
  static constexpr float kLargest = 65024;
  uint16_t bits = 0;  // 12

  E5M6() = default;
  constexpr explicit E5M6(float x)
      : bits(static_cast<uint16_t>((fp8::sign_of(x) << 11) |
                                   (fp8::is_nan(x) ? 0x7ffu : fp8::encode_magnitude<6, 15>(fp8::magnitude_of(x), kLargest)))) {}
  static constexpr E5M6 from_bits(uint16_t b) {
    E5M6 x;
    x.bits = b;
    return x;
  }
  constexpr bool is_nan() const { return ((bits >> 6) & 31) == 31; }
  constexpr explicit operator float() const {
    const float sign = (bits & 0x800) != 0 ? -1.0f : 1.0f;
    if (is_nan()) return fp8::signed_nan(sign < 0);
    return sign * fp8::decode_magnitude<6, 15>(bits & 0x7ffu);
  }
  friend constexpr bool operator==(E5M6, E5M6) = default;

  // Value i of a row of packed pairs; the row holds 3·ceil(n/2) bytes.
  static constexpr E5M6 read(const uint8_t* row, int64_t i) {
    const uint8_t* pair = row + i / 2 * 3;
    return i % 2 == 0 ? from_bits(static_cast<uint16_t>(pair[0] | ((pair[1] & 15u) << 8)))
                      : from_bits(static_cast<uint16_t>((pair[1] >> 4) | (pair[2] << 4)));
  }
  constexpr void write(uint8_t* row, int64_t i) const {
    uint8_t* pair = row + i / 2 * 3;
    if (i % 2 == 0) {
      pair[0] = static_cast<uint8_t>(bits);
      pair[1] = static_cast<uint8_t>((pair[1] & 0xf0u) | (bits >> 8));
    } else {
      pair[1] = static_cast<uint8_t>((pair[1] & 15u) | ((bits & 15u) << 4));
      pair[2] = static_cast<uint8_t>(bits >> 4);
    }
  }
};

}  // namespace rorqual
