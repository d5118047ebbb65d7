#include "numerics/fp8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "numerics/bf16.h"

namespace rorqual {
namespace {

// A format by its description, apart from the code under test.
template <class T>
struct Format;
template <>
struct Format<E4M3> {
  static constexpr int kBits = 8, kExponent = 4, kMantissa = 3, kBias = 7;
  static bool is_nan(uint32_t code) { return (code & 0x7f) == 0x7f; }
  static bool is_infinite(uint32_t) { return false; }
};
template <>
struct Format<E5M2> {
  static constexpr int kBits = 8, kExponent = 5, kMantissa = 2, kBias = 15;
  static bool is_nan(uint32_t code) { return (code & 0x7c) == 0x7c && (code & 3) != 0; }
  static bool is_infinite(uint32_t code) { return (code & 0x7f) == 0x7c; }
};
template <>
struct Format<E5M6> {
  static constexpr int kBits = 12, kExponent = 5, kMantissa = 6, kBias = 15;
  static bool is_nan(uint32_t code) { return (code & 0x7c0) == 0x7c0; }
  static bool is_infinite(uint32_t) { return false; }
};

template <class T>
T from_code(uint32_t code) {
  return T::from_bits(static_cast<decltype(T::bits)>(code));
}

template <class T>
double value_of(uint32_t code) {
  using F = Format<T>;
  const double sign = code >> (F::kBits - 1) ? -1 : 1;
  const int exponent = static_cast<int>(code >> F::kMantissa) & ((1 << F::kExponent) - 1);
  const int fraction = static_cast<int>(code) & ((1 << F::kMantissa) - 1);
  const int significand = exponent == 0 ? fraction : (1 << F::kMantissa) + fraction;
  return sign * std::ldexp(significand, std::max(exponent, 1) - F::kBias - F::kMantissa);
}

// Magnitudes of all finite codes; the code of a magnitude is its index.
template <class T>
std::vector<double> magnitudes() {
  std::vector<double> values;
  for (uint32_t code = 0; code < 1u << (Format<T>::kBits - 1); ++code)
    if (!Format<T>::is_nan(code) && !Format<T>::is_infinite(code)) values.push_back(value_of<T>(code));
  return values;
}

// The code of x by search: the nearest magnitude, of two the even code, the largest beyond it.
template <class T>
uint32_t nearest_code(const std::vector<double>& values, float x) {
  const uint32_t sign = std::signbit(x) ? 1u << (Format<T>::kBits - 1) : 0;
  const double magnitude = std::fabs(static_cast<double>(x));
  if (magnitude >= values.back()) return sign | static_cast<uint32_t>(values.size() - 1);
  const auto above = static_cast<uint32_t>(std::upper_bound(values.begin(), values.end(), magnitude) - values.begin());
  const double down = magnitude - values[above - 1], up = values[above] - magnitude;  // exact: doubles of few bits
  const bool take_up = up < down || (up == down && above % 2 == 0);
  return sign | (take_up ? above : above - 1);
}

template <class T>
class Fp8 : public ::testing::Test {};
using Formats = ::testing::Types<E4M3, E5M2, E5M6>;
TYPED_TEST_SUITE(Fp8, Formats);

TYPED_TEST(Fp8, EveryCodeHasItsValue) {
  using F = Format<TypeParam>;
  for (uint32_t code = 0; code < 1u << F::kBits; ++code) {
    const TypeParam x = from_code<TypeParam>(code);
    const float value = static_cast<float>(x);
    ASSERT_EQ(x.is_nan(), F::is_nan(code)) << code;
    ASSERT_EQ(std::signbit(value), code >> (F::kBits - 1) != 0) << code;
    if (F::is_nan(code))
      ASSERT_TRUE(std::isnan(value)) << code;
    else if (F::is_infinite(code))
      ASSERT_TRUE(std::isinf(value)) << code;
    else
      ASSERT_EQ(static_cast<double>(value), value_of<TypeParam>(code)) << code;
  }
}

TYPED_TEST(Fp8, EveryCodeSurvivesARoundTrip) {
  using F = Format<TypeParam>;
  for (uint32_t code = 0; code < 1u << F::kBits; ++code) {
    const TypeParam x = from_code<TypeParam>(code), back(static_cast<float>(x));
    if (F::is_nan(code)) {
      ASSERT_TRUE(back.is_nan()) << code;
      ASSERT_EQ(back.bits >> (F::kBits - 1), code >> (F::kBits - 1)) << "a NaN keeps its sign: " << code;
    } else if (F::is_infinite(code)) {
      ASSERT_EQ(std::fabs(static_cast<float>(back)), TypeParam::kLargest) << "infinities are never written: " << code;
    } else {
      ASSERT_EQ(back, x) << code;
    }
  }
}

TYPED_TEST(Fp8, LargestIsTheLargest) {
  const std::vector<double> values = magnitudes<TypeParam>();
  EXPECT_EQ(values.back(), static_cast<double>(TypeParam::kLargest));
  EXPECT_TRUE(std::is_sorted(values.begin(), values.end())) << "codes are ordered as their values";
}

TYPED_TEST(Fp8, RoundsToNearestEven) {
  const std::vector<double> values = magnitudes<TypeParam>();
  const auto check = [&](float x) {
    ASSERT_EQ(uint32_t{TypeParam(x).bits}, nearest_code<TypeParam>(values, x)) << std::hexfloat << x;
    ASSERT_EQ(uint32_t{TypeParam(-x).bits}, nearest_code<TypeParam>(values, -x)) << std::hexfloat << -x;
  };
  const float infinity = std::numeric_limits<float>::infinity();
  // Every value, every tie between neighbours, and the FP32 beside each.
  for (size_t i = 0; i + 1 < values.size(); ++i)
    for (const double x : {values[i], (values[i] + values[i + 1]) / 2}) {
      const float f = static_cast<float>(x);
      ASSERT_EQ(static_cast<double>(f), x);
      check(f);
      check(std::nextafter(f, infinity));
      check(std::nextafter(f, 0.0f));
    }
  // Patterns spread over all of FP32: every exponent, denormals and infinity among them.
  for (uint64_t bits = 0; bits <= 0x7f800000u; bits += 1021) check(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  for (const float x : {0.0f, std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::max(), infinity}) check(x);
  // Dense where the format has its values.
  const uint32_t from = std::bit_cast<uint32_t>(static_cast<float>(values[1] / 4));
  const uint32_t to = std::bit_cast<uint32_t>(static_cast<float>(values.back() * 2));
  for (uint32_t bits = from; bits < to; bits += 251) check(std::bit_cast<float>(bits));
}

TYPED_TEST(Fp8, NanStaysNan) {
  for (const uint32_t bits : {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xffffffffu}) {
    const TypeParam x(std::bit_cast<float>(bits));
    EXPECT_TRUE(x.is_nan()) << bits;
    EXPECT_EQ(x.bits >> (Format<TypeParam>::kBits - 1), bits >> 31) << bits;
  }
}

TYPED_TEST(Fp8, FitsABf16) {
  for (const double value : magnitudes<TypeParam>()) {
    const float f = static_cast<float>(value);
    ASSERT_EQ(static_cast<float>(Bf16(f)), f) << "every value is exactly a bf16";
  }
}

TEST(E4M3, ProductsAreExactInFp32) {
  for (uint32_t a = 0; a < 256; ++a)
    for (uint32_t b = 0; b < 256; ++b) {
      if (Format<E4M3>::is_nan(a) || Format<E4M3>::is_nan(b)) continue;
      const float product = static_cast<float>(from_code<E4M3>(a)) * static_cast<float>(from_code<E4M3>(b));
      ASSERT_EQ(static_cast<double>(product), value_of<E4M3>(a) * value_of<E4M3>(b)) << a << " times " << b;
    }
}

TEST(Fp8Landmarks, AreConstants) {
  static_assert(float(E4M3::from_bits(0x7e)) == 448 && float(E4M3::from_bits(0x01)) == 0x1p-9f &&
                float(E4M3::from_bits(0x08)) == 0x1p-6f);
  static_assert(float(E5M2::from_bits(0x7b)) == 57344 && float(E5M2::from_bits(0x01)) == 0x1p-16f);
  static_assert(float(E5M6::from_bits(0x7bf)) == 65024 && float(E5M6::from_bits(1)) == 0x1p-20f);
  static_assert(E4M3(1.0f).bits == 0x38 && E5M2(1.0f).bits == 0x3c && E5M6(1.0f).bits == 0x3c0);
  static_assert(E4M3(-1000.0f).bits == 0xfe && E4M3(0x1p-10f).bits == 0 && E4M3(0x1.8p-9f).bits == 2,
                "beyond the largest; a tie to zero; a tie between subnormals");
  static_assert(E4M3(-0.0f).bits == 0x80 && E4M3(0.0f).bits == 0);
}

// All pairs of codes through three bytes, against the layout as the specification words it.
TEST(E5M6, PairsShareThreeBytes) {
  for (uint32_t first = 0; first < 4096; ++first) {
    for (uint32_t second = first % 7; second < 4096; second += 7) {
      uint8_t bytes[3] = {0xaa, 0x55, 0xff};
      from_code<E5M6>(first).write(bytes, 0);
      from_code<E5M6>(second).write(bytes, 1);
      const uint32_t word = bytes[0] | bytes[1] << 8 | bytes[2] << 16;
      ASSERT_EQ(word, first | second << 12);
      ASSERT_EQ(E5M6::read(bytes, 0).bits, first);
      ASSERT_EQ(E5M6::read(bytes, 1).bits, second);
    }
  }
}

TEST(E5M6, WritingOneLeavesItsNeighbours) {
  uint8_t row[9] = {};  // six values
  for (int64_t i = 0; i < 6; ++i) from_code<E5M6>(static_cast<uint32_t>(0x111 * (i + 1))).write(row, i);
  for (const int64_t at : {3, 0, 5, 2}) {
    from_code<E5M6>(0xfff).write(row, at);
    for (int64_t i = 0; i < 6; ++i)
      EXPECT_EQ(E5M6::read(row, i).bits, i == at ? 0xfff : 0x111 * (i + 1)) << "value " << i << " after writing " << at;
    from_code<E5M6>(static_cast<uint32_t>(0x111 * (at + 1))).write(row, at);
  }
}

}  // namespace
}  // namespace rorqual
