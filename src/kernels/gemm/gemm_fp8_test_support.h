// What the tests of products with FP8 operands share: operands with scales in poisoned memory, weights laid out by the header's
// formula, and each product by its definition.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/gemm/gemm_test_support.h"

namespace rorqual::gemm_test {

inline float decode(DType dtype, uint8_t bits) {
  return dtype == DType::kE4M3 ? static_cast<float>(E4M3::from_bits(bits)) : static_cast<float>(E5M2::from_bits(bits));
}

// How the codes and scales of an operand are drawn.
struct Fill {
  ScaleRule rule = ScaleRule::kPow2;
  int smallest_exponent = -12, largest_exponent = -4;  // of the scales
  bool zero_groups = true;                             // one group of codes in seven is all zero
};

// Codes of every value but NaN and infinity, [rows, cols] with gaps, and scales with gaps of their own.
class Scaled {
 public:
  using Group = ScaledTensor::Group;
  Scaled(DType dtype, int64_t rows, int64_t cols, Group group, uint64_t seed, const Fill& fill, int64_t gap = 0)
      : codes_(dtype, rows, cols, gap),
        scales_(DType::kF32, group == Group::kRow ? rows : scale_groups(rows), group == Group::kRow ? scale_groups(cols) : cols,
                gap % 3) {
    const RandomKey key{.seed = seed};
    tensor_ = {codes_.tensor(), scales_.tensor(), group};
    uint64_t at = 0;
    for (int64_t r = 0; r < tensor_.scales.rows; ++r)
      for (int64_t c = 0; c < tensor_.scales.cols; ++c) {
        const auto words = random_words(key, at++);
        const auto range = static_cast<uint32_t>(fill.largest_exponent - fill.smallest_exponent + 1);
        const float power = power_of_two(fill.smallest_exponent + static_cast<int>(words[0] % range));
        const float factor = 1 + static_cast<float>(words[1] >> 9) * 0x1p-23f;  // [1, 2)
        tensor_.scales.row<float>(r)[c] = fill.rule == ScaleRule::kPow2 ? power : power * factor;
      }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) {
        const uint32_t word = random_words(key, at++)[0];
        const int64_t g = group == Group::kRow ? r + c / kScaleGroup : c + r / kScaleGroup;
        auto bits = static_cast<uint8_t>(word);
        if (dtype == DType::kE4M3 && (bits & 0x7f) == 0x7f) bits ^= 1;
        if (dtype == DType::kE5M2 && (bits & 0x7c) == 0x7c) bits ^= 0x40;
        if (fill.zero_groups && g % 7 == 3) bits &= 0x80;
        code(r, c) = bits;
      }
  }
  const ScaledTensor& tensor() const { return tensor_; }
  uint8_t& code(int64_t r, int64_t c) const { return reinterpret_cast<uint8_t&>(tensor_.codes.raw_row(r)[c]); }
  float& scale(int64_t r, int64_t c) const {
    const bool row = tensor_.group == Group::kRow;
    return tensor_.scales.row<float>(row ? r : r / kScaleGroup)[row ? c / kScaleGroup : c];
  }
  float value(int64_t r, int64_t c) const { return decode(tensor_.dtype(), code(r, c)); }

 private:
  Matrix codes_, scales_;
  ScaledTensor tensor_;
};

// A weight [n, k] of random codes with scales per 128×128, laid out by gemm.h's formula.
class Fp8Weight {
 public:
  Fp8Weight(int64_t n, int64_t k, uint64_t seed, const Fill& fill)
      : blocks_(DType::kE4M3, n, k, ScaledTensor::Group::kRow, seed, fill),
        scales_(static_cast<size_t>(PackedWeight::scale_count(n, k))) {
    const int64_t bytes = PackedWeight::bytes(DType::kE4M3, n, k);
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>(bytes + 64) / 64 * 64)));
    weight_ = {data_.get(), DType::kE4M3, n, k, scales_.data()};
    for (int64_t r = 0; r < n; ++r)
      for (int64_t g = 0; g < scale_groups(k); ++g) scale(r, g * kScaleGroup) = blocks_.scale(r / kScaleGroup, g * kScaleGroup);
    lay_out();
  }
  // After codes were changed.
  void lay_out() {
    std::memset(data_.get(), 0, static_cast<size_t>(PackedWeight::bytes(DType::kE4M3, weight_.n, weight_.k)));
    for (int64_t n = 0; n < weight_.n; ++n)
      for (int64_t k = 0; k < weight_.k; ++k) static_cast<uint8_t*>(weight_.data)[place(n, k)] = code(n, k);
  }
  int64_t place(int64_t n, int64_t k) const {
    const int64_t panel = n / 16 * 16 * ((weight_.k + 3) / 4 * 4);
    return panel + k / 4 * 64 + (n % 16) / 4 * 16 + (k % 4) / 2 * 8 + (n % 4) * 2 + k % 2;
  }
  const PackedWeight& weight() const { return weight_; }
  uint8_t& code(int64_t n, int64_t k) const { return blocks_.code(n, k); }
  float& scale(int64_t n, int64_t k) {
    return scales_[static_cast<size_t>(n / kScaleGroup * scale_groups(weight_.k) + k / kScaleGroup)];
  }
  float scale(int64_t n, int64_t k) const { return const_cast<Fp8Weight&>(*this).scale(n, k); }
  float value(int64_t n, int64_t k) const { return decode(DType::kE4M3, code(n, k)); }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  Scaled blocks_;
  std::vector<float> scales_;
  std::unique_ptr<std::byte[], Free> data_;
  PackedWeight weight_;
};

// One factor of a sum: code and scale.
struct Term {
  float code, scale;
};

// The sum that gemm.h defines: chains over ascending steps, every operation rounded to FP32 and every product kept exact.
inline float defined_sum(const std::function<Term(int64_t)>& a, const std::function<Term(int64_t)>& b, int64_t depth,
                         ScaleRule rule) {
  float sum = 0;
  if (rule == ScaleRule::kPow2) {
    for (int64_t s = 0; s < depth; ++s) sum = std::fma(a(s).code * a(s).scale, b(s).code * b(s).scale, sum);
    return sum;
  }
  for (int64_t begin = 0; begin < depth; begin += 128) {
    float partial = 0;
    for (int64_t s = begin; s < std::min(begin + 128, depth); ++s) partial += a(s).code * b(s).code;
    const float scale = a(begin).scale * b(begin).scale;
    sum = std::fma(partial, scale, sum);
  }
  return sum;
}

// The same sum in long double, with the sum of the magnitudes.
inline Expected exact_scaled_sum(const std::function<Term(int64_t)>& a, const std::function<Term(int64_t)>& b, int64_t depth,
                                 double initial, DType out) {
  long double sum = 0, magnitude = 0;
  for (int64_t s = 0; s < depth; ++s) {
    const long double product =
        static_cast<long double>(a(s).code) * a(s).scale * static_cast<long double>(b(s).code) * b(s).scale;
    sum += product, magnitude += std::fabs(product);
  }
  return expected(static_cast<double>(sum), static_cast<double>(magnitude), initial, depth, DType::kF32, out);
}

inline void put(const Tensor& c, int64_t r, int64_t n, float sum, bool accumulate) {
  set(c, r, n, accumulate ? static_cast<float>(get(c, r, n)) + sum : sum);
}

// want (+)= A · Bᵀ as defined.
inline void defined_linear(const Scaled& a, const Fp8Weight& b, const Tensor& want, ScaleRule rule, bool accumulate) {
  for (int64_t m = 0; m < want.rows; ++m)
    for (int64_t n = 0; n < want.cols; ++n)
      put(want, m, n,
          defined_sum(
              [&](int64_t k) {
                return Term{a.value(m, k), a.scale(m, k)};
              },
              [&](int64_t k) {
                return Term{b.value(n, k), b.scale(n, k)};
              },
              a.tensor().cols(), rule),
          accumulate);
}
// want += Aᵀ · B as defined.
inline void defined_gradient(const Scaled& a, const Scaled& b, const Tensor& want, ScaleRule rule) {
  for (int64_t n = 0; n < want.rows; ++n)
    for (int64_t k = 0; k < want.cols; ++k)
      put(want, n, k,
          defined_sum(
              [&](int64_t m) {
                return Term{a.value(m, n), a.scale(m, n)};
              },
              [&](int64_t m) {
                return Term{b.value(m, k), b.scale(m, k)};
              },
              a.tensor().rows(), rule),
          true);
}

// Empty if every element has the same bits (any NaN is NaN), else the first that differs.
inline std::string differing(const Tensor& got, const Tensor& want) {
  for (int64_t r = 0; r < got.rows; ++r)
    for (int64_t c = 0; c < got.cols; ++c) {
      const int64_t at = c * size_of(got.dtype);
      if (std::isnan(get(got, r, c)) && std::isnan(get(want, r, c))) continue;
      if (std::memcmp(got.raw_row(r) + at, want.raw_row(r) + at, static_cast<size_t>(size_of(got.dtype))) != 0)
        return fmt::format("element [{}, {}] of [{}, {}] is {} instead of {}", r, c, got.rows, got.cols, get(got, r, c),
                           get(want, r, c));
    }
  return {};
}

}  // namespace rorqual::gemm_test
