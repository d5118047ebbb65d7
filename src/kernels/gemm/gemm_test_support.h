// What the tests of the matrix products share: operands in poisoned memory, exact results, and the comparison with its bound.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/gemm/block.h"
#include "kernels/gemm/gemm.h"

namespace rorqual {
enum class Transposed { kNo, kYes };
}  // namespace rorqual

namespace rorqual::gemm_test {

inline double get(const Tensor& t, int64_t r, int64_t c) {
  return visit_float(t.dtype, [&](auto zero) { return static_cast<double>(t.row<decltype(zero)>(r)[c]); });
}
inline void set(const Tensor& t, int64_t r, int64_t c, double value) {
  visit_float(t.dtype, [&](auto zero) { t.row<decltype(zero)>(r)[c] = static_cast<decltype(zero)>(value); });
}

// A matrix in memory of which every byte is 0xff (NaN in every type), with gaps between the rows and before and after.
class Matrix {
 public:
  Matrix(DType dtype, int64_t rows, int64_t cols, int64_t gap = 0)
      : bytes_(static_cast<size_t>((rows * (cols + gap) + 2 * kGuard) * size_of(dtype)), std::byte{0xff}) {
    tensor_ = Tensor(bytes_.data() + kGuard * size_of(dtype), dtype, rows, cols, cols + gap);
  }
  Matrix(Matrix&&) = default;  // the elements stay where they are
  Matrix copy() const {
    Matrix out(tensor_.dtype, tensor_.rows, tensor_.cols, tensor_.stride - tensor_.cols);
    out.bytes_ = bytes_;
    out.tensor_.data = out.bytes_.data() + kGuard * size_of(tensor_.dtype);
    return out;
  }
  const Tensor& tensor() const { return tensor_; }

  // Values of [-1, 1), a function of (seed, position).
  void fill(uint64_t seed) const {
    const RandomKey key{.seed = seed};
    for (int64_t r = 0; r < tensor_.rows; ++r)
      for (int64_t c = 0; c < tensor_.cols; ++c)
        set(tensor_, r, c, 2 * random_uniform(key, static_cast<uint64_t>(r * tensor_.cols + c)) - 1);
  }
  // True if every byte outside the elements is as it was.
  bool gaps_untouched() const {
    std::vector<std::byte> rest = bytes_;
    for (int64_t r = 0; r < tensor_.rows; ++r) {
      const int64_t at = (kGuard + r * tensor_.stride) * size_of(tensor_.dtype);
      std::memset(rest.data() + at, 0xff, static_cast<size_t>(tensor_.cols * size_of(tensor_.dtype)));
    }
    for (const std::byte b : rest)
      if (b != std::byte{0xff}) return false;
    return true;
  }
  friend bool operator==(const Matrix& x, const Matrix& y) { return x.bytes_ == y.bytes_; }

 private:
  static constexpr int64_t kGuard = 67;  // odd: elements are not aligned to vectors
  std::vector<std::byte> bytes_;
  Tensor tensor_;
};

class Packed {
 public:
  Packed(const Tensor& source, Transposed transposed, DType dtype, const Stream& stream) {
    const bool swap = transposed == Transposed::kYes;
    weight_ = {nullptr, dtype, swap ? source.cols : source.rows, swap ? source.rows : source.cols};
    const int64_t bytes = PackedWeight::bytes(dtype, weight_.n, weight_.k);
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64 + 64))));
    std::memset(data_.get(), 0xff, static_cast<size_t>(bytes));
    weight_.data = data_.get();
    const PackWeightArgs args{source, swap ? PackedWeight{} : weight_, swap ? weight_ : PackedWeight{}, {}};
    pack_weights({&args, 1}, stream);
  }
  const PackedWeight& weight() const { return weight_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte[], Free> data_;
  PackedWeight weight_;
};

// An exact element and how far a kernel may be from it.
struct Expected {
  double value = 0;
  double bound = 0;
};

// `terms` products whose magnitudes sum to `magnitude`, added in any order in the compute type (unit roundoff u), plus what
// was there before (`initial`), rounded to `out`. Standard bound of a sum of n terms in any order: (n + 1)·u·Σ|terms| (Higham,
// "Accuracy and stability", §4.2), where a rounded product and the addition of `initial` cost one rounding more each; 1% covers
// the second-order terms. A bf16 result is rounded once more, by at most 2^-8 of the value (ties and binade edges included).
// The last term covers denormals: AMX flushes them (2^-126 each).
inline Expected expected(double sum, double magnitude, double initial, int64_t terms, DType compute, DType out) {
  const double u = compute == DType::kF64 ? 0x1p-53 : 0x1p-24;
  const double value = initial + sum;
  double bound = 1.01 * u * static_cast<double>(terms + 3) * (magnitude + std::fabs(initial));
  if (out == DType::kBF16) bound += 0x1p-8 * (std::fabs(value) + bound);
  return {value, bound + 0x1p-126 * static_cast<double>(terms)};
}

// Empty if every element of `actual` is within its bound (NaN never is), else the worst element in words.
inline std::string compare(const Tensor& actual, const std::vector<Expected>& want) {
  double worst = 1;
  std::string message;
  for (int64_t r = 0; r < actual.rows; ++r) {
    for (int64_t c = 0; c < actual.cols; ++c) {
      const Expected& e = want[static_cast<size_t>(r * actual.cols + c)];
      const double got = get(actual, r, c), error = std::fabs(got - e.value);
      const double ratio = error <= e.bound ? 0 : error > e.bound ? error / e.bound : HUGE_VAL;
      if (ratio > worst) {
        worst = ratio;
        message = fmt::format("element [{}, {}] of [{}, {}] is {} instead of {}: error {:.3g}, allowed {:.3g}", r, c,
                              actual.rows, actual.cols, got, e.value, error, e.bound);
      }
    }
  }
  return message;
}

inline std::vector<double> values_of(const Tensor& t) {
  std::vector<double> out;
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t c = 0; c < t.cols; ++c) out.push_back(get(t, r, c));
  return out;
}

// Σ over s of x[s·x_step]·y[s·y_step] + initial, exact but for the rounding of long double: sums of 64 significant bits.
inline Expected exact_sum(const double* x, int64_t x_step, const double* y, int64_t y_step, int64_t terms, double initial,
                          DType compute, DType out) {
  long double sum = 0, magnitude = 0;
  for (int64_t s = 0; s < terms; ++s) {
    const long double product = static_cast<long double>(x[s * x_step]) * y[s * y_step];
    sum += product;
    magnitude += std::fabs(product);
  }
  return expected(static_cast<double>(sum), static_cast<double>(magnitude), initial, terms, compute, out);
}

// A · Bᵀ (+ c).
inline std::vector<Expected> exact_linear(const Tensor& a, const Tensor& b, const Tensor& c, bool accumulate) {
  const std::vector<double> x = values_of(a), y = values_of(b);
  std::vector<Expected> out;
  for (int64_t m = 0; m < a.rows; ++m)
    for (int64_t n = 0; n < b.rows; ++n)
      out.push_back(exact_sum(x.data() + m * a.cols, 1, y.data() + n * a.cols, 1, a.cols, accumulate ? get(c, m, n) : 0,
                              a.dtype, c.dtype));
  return out;
}

// Aᵀ · B + c.
inline std::vector<Expected> exact_gradient(const Tensor& a, const Tensor& b, const Tensor& c) {
  const std::vector<double> x = values_of(a), y = values_of(b);
  std::vector<Expected> out;
  for (int64_t n = 0; n < a.cols; ++n)
    for (int64_t k = 0; k < b.cols; ++k)
      out.push_back(exact_sum(x.data() + n, a.cols, y.data() + k, b.cols, a.rows, get(c, n, k), a.dtype, c.dtype));
  return out;
}

}  // namespace rorqual::gemm_test
