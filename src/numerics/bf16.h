// bfloat16: the upper half of an FP32. Scalar truth of every conversion in the project.
#pragma once

#include <bit>
#include <cstdint>

namespace rorqual {

struct Bf16 {
  uint16_t bits = 0;

  Bf16() = default;
  // Round to nearest, ties to even; NaN stays NaN (quiet). Denormals are kept.
  constexpr explicit Bf16(float value) : bits(round(value)) {}
  constexpr explicit Bf16(double value) : bits(round(static_cast<float>(value))) {}
  static constexpr Bf16 from_bits(uint16_t b) {
    Bf16 x;
    x.bits = b;
    return x;
  }
  constexpr explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
  constexpr explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
  friend constexpr bool operator==(Bf16, Bf16) = default;

 private:
  static constexpr uint16_t round(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
    return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};

}  // namespace rorqual
