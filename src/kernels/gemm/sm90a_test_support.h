// What tests of FP8 products on Hopper share: operands, and what an element of a product must be.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <span>

#include "base/rng.h"
#include "numerics/accumulator.h"
#include "numerics/fp8.h"
#include "numerics/scale.h"
#include "tensor/scaled_tensor.h"

namespace rorqual::gemm {

inline constexpr uint8_t kNanCode = 0x7f;
inline const float kNan = std::bit_cast<float>(0x7fc00000u);

// An E4M3 code that is a number.
inline uint8_t random_code(uint64_t seed, uint64_t at) {
  const auto bits = static_cast<uint8_t>(random_words({.seed = seed}, at)[0] >> 8);
  return (bits & 0x7f) == kNanCode ? static_cast<uint8_t>(bits ^ 1) : bits;
}
inline float code_value(uint8_t bits) {
  return static_cast<float>(E4M3::from_bits(bits));
}
inline float random_scale(uint64_t seed, uint64_t at, ScaleRule rule) {
  const auto words = random_words({.seed = seed, .layer = 1}, at);
  const float power = power_of_two(static_cast<int>(words[0] % 12) - 14);
  return rule == ScaleRule::kPow2 ? power : power * (1 + static_cast<float>(words[1] >> 9) * 0x1p-23f);
}

// What the tensor cores keep of a sum (spec 2.3), the worse of two readings; the emulator keeps just that.
inline constexpr Accumulator kTensorCores{.fraction_bits = 13, .promote = 128};

struct ExpectedSum {
  float model = 0;            // exactly, on tensor cores as the emulator's
  double sum = 0, bound = 0;  // within the bound on any that keep 13 bits
  double size = 0;            // Σ |terms|
};

// Σ over blocks of 128 of (Σ x·y) · scale(block), added to `before`.
inline ExpectedSum expected_sum(std::span<const float> x, std::span<const float> y, const std::function<float(int64_t)>& scale,
                                float before) {
  ExpectedSum out;
  double partial_sizes = 0;
  for (size_t begin = 0; begin < x.size(); begin += 128) {
    const size_t end = std::min(begin + 128, x.size());
    const float s = scale(static_cast<int64_t>(begin / 128));
    const float partial = accumulate_products(kTensorCores, x.subspan(begin, end - begin), y.subspan(begin, end - begin));
    out.model = std::fma(partial, s, out.model);
    // Of 32 products and the running sum each loses what lies below the largest one's 13th fraction bit, the result likewise.
    double exact = 0, bound = 0;
    for (size_t step = begin; step < end; step += 32) {
      double largest = std::abs(exact) + bound;
      for (size_t t = step; t < std::min(step + 32, end); ++t) {
        const double product = static_cast<double>(x[t]) * static_cast<double>(y[t]);
        largest = std::max(largest, std::abs(product));
        exact += product;
        out.size += std::abs(product) * static_cast<double>(s);
      }
      bound += 33 * 0x1p-13 * largest;
      bound += 0x1p-13 * (std::abs(exact) + bound);
    }
    out.sum += exact * static_cast<double>(s);
    out.bound += bound * static_cast<double>(s);
    partial_sizes += (std::abs(exact) + bound) * static_cast<double>(s);
  }
  out.bound += static_cast<double>(scale_groups(static_cast<int64_t>(x.size())) + 2) * 0x1p-23 * partial_sizes;
  out.model += before;
  out.sum += static_cast<double>(before);
  out.bound += 0x1p-23 * (std::abs(static_cast<double>(before)) + partial_sizes) + 0x1p-126;
  return out;
}

}  // namespace rorqual::gemm
