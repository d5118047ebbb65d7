// Rows of codes in registers, and their values.
#pragma once

#include <type_traits>

#include "hopper/device.h"
#include "numerics/fp8.h"
#include "numerics/scale.h"

namespace rorqual::hopper {

// Bytes of n codes from the beginning of a row, a half pair of E5M6 included.
template <class Code>
HOPPER_BOTH constexpr int code_bytes(int n) {
  return std::is_same_v<Code, E5M6> ? (n + 1) / 2 * 3 : n;
}

// kCount (4, 8 or 16) consecutive codes as a row holds them.
template <class Code, int kCount>
struct Codes {
  static constexpr int kBytes = code_bytes<Code>(kCount), kWords = (kBytes + 3) / 4;
  uint32_t w[kWords];
};

// The first `valid` of kCount codes at p, which has the alignment of that many codes; those beyond are 0.
template <class Code, int kCount>
HOPPER_DEVICE Codes<Code, kCount> load_codes(const uint8_t* p, int valid) {
  Codes<Code, kCount> codes = {};
  constexpr int kBytes = codes.kBytes, kWords = codes.kWords;
  if (valid < kCount) {
    HOPPER_UNROLL
    for (int b = 0; b < kBytes; ++b)
      if (b < code_bytes<Code>(valid)) codes.w[b / 4] |= static_cast<uint32_t>(p[b]) << (8 * (b % 4));
  } else if constexpr (kBytes == 16) {
    const auto all = load_once(reinterpret_cast<const Words4*>(p));
    HOPPER_UNROLL
    for (int i = 0; i < 4; ++i) codes.w[i] = all.w[i];
  } else if constexpr (kBytes == 8) {
    const auto all = load_once(reinterpret_cast<const Words2*>(p));
    codes.w[0] = all.w[0];
    codes.w[1] = all.w[1];
  } else if constexpr (kBytes % 4 == 0) {
    HOPPER_UNROLL
    for (int i = 0; i < kWords; ++i) codes.w[i] = load_once(reinterpret_cast<const uint32_t*>(p) + i);
  } else {
    HOPPER_UNROLL
    for (int i = 0; i < kBytes / 2; ++i)
      codes.w[i / 2] |= static_cast<uint32_t>(load_once(reinterpret_cast<const uint16_t*>(p) + i)) << (16 * (i % 2));
  }
  return codes;
}

// The value of an E5M6 code, 12 bits.
HOPPER_DEVICE float decode_e5m6(uint32_t code) {
  if ((code & 0x7c0u) == 0x7c0u) return bits_to_float(0x7fc00000u);
  // Exponent and fraction where F32 has them, then the difference of the biases; denormals become normal.
  const float magnitude = bits_to_float((code & 0x7ffu) << 17) * power_of_two(112);
  return bits_to_float(float_to_bits(magnitude) | (code & 0x800u) << 20);
}
// The values of codes i (even) and i + 1.
template <class Code, int kCount>
HOPPER_DEVICE void decode_pair(float* x, const Codes<Code, kCount>& codes, int i) {
  if constexpr (std::is_same_v<Code, E5M6>) {
    const int word = i * 12 / 32, shift = i * 12 % 32;
    uint32_t pair = codes.w[word] >> shift;
    if (shift > 8) pair |= codes.w[word + 1] << (32 - shift);
    x[0] = decode_e5m6(pair & 0xfffu);
    x[1] = decode_e5m6(pair >> 12 & 0xfffu);
  } else {
    const auto two = static_cast<uint16_t>(codes.w[i / 4] >> (8 * (i % 4)));
    const Float2 values = std::is_same_v<Code, E4M3> ? from_e4m3x2(two) : from_e5m2x2(two);
    x[0] = values.v[0];
    x[1] = values.v[1];
  }
}
template <class Code, int kCount>
HOPPER_DEVICE void decode(float* x, const Codes<Code, kCount>& codes) {
  HOPPER_UNROLL
  for (int i = 0; i < kCount; i += 2) decode_pair(x + i, codes, i);
}

}  // namespace rorqual::hopper
