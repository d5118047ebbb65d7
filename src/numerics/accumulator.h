// How products are summed: in FP32, or as Hopper's FP8 tensor cores do (report §3.3.2, §3.5.2; ISCA 2025 §3.1.1; spec 2.3).
#pragma once

#include <cstdint>
#include <span>

namespace rorqual {

// A sum of products over k. fraction_bits = 0: FP32, one chain over ascending k. Otherwise each block of 32 products (the last
// one may be shorter) is aligned to the largest exponent among them and the running sum, every term cut (toward zero) to
// fraction_bits fraction bits there, added exactly, and the result kept with fraction_bits fraction bits of its own, cut again.
// The exponent of a product is that of its value; the register's exponent is unlimited until the sum becomes an FP32.
// promote > 0 (a multiple of 32): every `promote` of K the running sum goes to FP32, is added there, and starts again at 0;
// with fraction_bits = 0 too, as the products with FP32 scales do every 128.
struct Accumulator {
  static constexpr int kMostFractionBits = 23;
  int fraction_bits = 0;  // 13 ("FP22", 1+8+13) or 14; at most 23, an FP32's
  int promote = 0;
  bool operator==(const Accumulator&) const = default;
};

// One such block: `sum`, which has at most fraction_bits fraction bits, and up to 32 products.
float add_products(int fraction_bits, float sum, std::span<const float> a, std::span<const float> b);

// Σ a[i]·b[i]; a and b have the same size. Infinities and NaN among the products give what FP32 addition gives.
float accumulate_products(const Accumulator& accumulator, std::span<const float> a, std::span<const float> b);

}  // namespace rorqual
