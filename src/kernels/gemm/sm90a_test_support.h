// What an element of an FP8 product must be on Hopper.
#pragma once

#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include "numerics/accumulator.h"
#include "tensor/scaled_tensor.h"

namespace rorqual::gemm {

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
