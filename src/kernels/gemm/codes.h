// Codes of FP8 as the instruction sets' files see them: types to tell the formats apart, and their values as bf16, which holds
// each exactly.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "numerics/fp8.h"

namespace rorqual::gemm {
namespace {

struct E4M3Code {
  uint8_t bits;
};
struct E5M2Code {
  uint8_t bits;
};
template <class T>
constexpr bool kIsCode = std::is_same_v<T, E4M3Code> || std::is_same_v<T, E5M2Code>;

// The low and the high byte of the bf16 of each code without its sign.
struct alignas(64) ByteTables {
  uint8_t low[128], high[128];
};
template <class Format>
constexpr ByteTables byte_tables(float factor) {
  ByteTables out{};
  for (int i = 0; i < 128; ++i) {
    const auto value = static_cast<float>(Format::from_bits(static_cast<uint8_t>(i)));
    const uint32_t bits = std::bit_cast<uint32_t>(value == value ? value * factor : value);  // NaN is no constant operand
    out.low[i] = static_cast<uint8_t>(bits >> 16);
    out.high[i] = static_cast<uint8_t>(bits >> 24);
  }
  return out;
}
template <class Code>
using FormatOf = std::conditional_t<std::is_same_v<Code, E4M3Code>, E4M3, E5M2>;
template <class Code>
constexpr ByteTables kByteTables = byte_tables<FormatOf<Code>>(1);
// Of twice the values: the high byte holds the exponent without its last bit, so that with these every power of two is an
// addition to the high byte.
template <class Code>
constexpr ByteTables kDoubleByteTables = byte_tables<FormatOf<Code>>(2);

}  // namespace
}  // namespace rorqual::gemm
