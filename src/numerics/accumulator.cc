#include "numerics/accumulator.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"

namespace rorqual {
namespace {

constexpr size_t kBlock = 32;

double power(int exponent) {  // -1022 ... 1023
  return std::bit_cast<double>(static_cast<uint64_t>(1023 + exponent) << 52);
}

// The biased exponent of a double without its sign: products of two FP32 are never denormal doubles, so it orders them.
uint32_t biased_exponent(double x) {
  return static_cast<uint32_t>(std::bit_cast<uint64_t>(x) >> 52) & 0x7ffu;
}

// `sum` and a block of at most kBlock exact products (of two FP32 each), as the tensor core adds them.
double add_block(double sum, const double* products, size_t n, int fraction_bits) {
  uint32_t largest = biased_exponent(sum);
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, biased_exponent(products[i]));
  if (largest == 0) return sum;  // all zero
  if (largest == 0x7ff) {
    for (size_t i = 0; i < n; ++i) sum += products[i];  // infinity or NaN, as any addition has it
    return sum;
  }
  // In units of the last bit that is kept every term is below 2^(fraction_bits + 1), and 33 of them fit 32 bits.
  const int last_bit = static_cast<int>(largest) - 1023 - fraction_bits;
  const double to_units = power(-last_bit);
  int32_t units = static_cast<int32_t>(sum * to_units);
  for (size_t i = 0; i < n; ++i) units += static_cast<int32_t>(products[i] * to_units);
  const uint32_t magnitude = static_cast<uint32_t>(std::abs(units));
  const int excess = static_cast<int>(std::bit_width(magnitude)) - (fraction_bits + 1);
  const uint32_t kept = excess > 0 ? magnitude >> excess << excess : magnitude;
  return std::copysign(kept, units) * power(last_bit);
}

double add_values(int fraction_bits, double sum, std::span<const float> a, std::span<const float> b) {
  double products[kBlock];
  for (size_t i = 0; i < a.size(); ++i) products[i] = static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return add_block(sum, products, a.size(), fraction_bits);
}

float limited_chain(int fraction_bits, std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t begin = 0; begin < a.size(); begin += kBlock) {
    const size_t n = std::min(kBlock, a.size() - begin);
    sum = add_values(fraction_bits, sum, a.subspan(begin, n), b.subspan(begin, n));
  }
  return static_cast<float>(sum);
}

float fp32_chain(std::span<const float> a, std::span<const float> b) {
  float sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

float add_products(int fraction_bits, float sum, std::span<const float> a, std::span<const float> b) {
  CHECK(a.size() == b.size() && a.size() <= kBlock, "{} and {} values", a.size(), b.size());
  CHECK(fraction_bits > 0 && fraction_bits <= Accumulator::kMostFractionBits, "{} fraction bits", fraction_bits);
  return static_cast<float>(add_values(fraction_bits, sum, a, b));
}

float accumulate_products(const Accumulator& accumulator, std::span<const float> a, std::span<const float> b) {
  CHECK(a.size() == b.size(), "{} against {} values", a.size(), b.size());
  const int bits = accumulator.fraction_bits;
  CHECK(bits >= 0 && bits <= Accumulator::kMostFractionBits, "{} fraction bits", bits);
  CHECK(accumulator.promote >= 0 && accumulator.promote % static_cast<int>(kBlock) == 0, "promotion every {}",
        accumulator.promote);
  const size_t part = accumulator.promote > 0 ? static_cast<size_t>(accumulator.promote) : a.size();
  float total = 0;
  for (size_t begin = 0; begin < a.size(); begin += part) {
    const size_t n = std::min(part, a.size() - begin);
    const auto x = a.subspan(begin, n), y = b.subspan(begin, n);
    total += bits > 0 ? limited_chain(bits, x, y) : fp32_chain(x, y);
  }
  return total;
}

}  // namespace rorqual
