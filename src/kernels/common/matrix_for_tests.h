// What kernel tests share: matrices with poisoned surroundings, and comparisons that name the worst element.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/common/registry.h"
#include "tensor/tensor.h"

namespace rorqual::testing {

inline Stream one_thread() {
  static ThreadPool pool(1);
  return Stream(pool);
}

// A matrix with `gap` elements between rows and `offset` elements (at least one) before the first, so that rows start at odd
// addresses. Every byte begins as 0xff, a NaN in every format; what a kernel does not write stays poison.
class Matrix {
 public:
  Matrix(DType dtype, int64_t rows, int64_t cols, int64_t gap = 3, int64_t offset = 1)
      : offset_(bytes_of(dtype, offset)),
        bytes_(static_cast<size_t>(bytes_of(dtype, rows * (cols + gap) + 2 * offset)), std::byte{0xff}) {
    view_ = {bytes_.data() + offset_, dtype, rows, cols, cols + gap};
  }
  Matrix(const Matrix& other) : offset_(other.offset_), bytes_(other.bytes_), view_(other.view_) {
    view_.data = bytes_.data() + offset_;
  }
  Matrix& operator=(const Matrix&) = delete;

  const Tensor& tensor() const { return view_; }
  operator Tensor() const { return view_; }
  int64_t rows() const { return view_.rows; }
  int64_t cols() const { return view_.cols; }
  const std::vector<std::byte>& bytes() const { return bytes_; }  // of the matrix and what lies around it

  double at(int64_t r, int64_t c) const {
    return visit_float(view_.dtype, [&](auto zero) { return static_cast<double>(view_.row<decltype(zero)>(r)[c]); });
  }
  void set(int64_t r, int64_t c, double value) {
    visit_float(view_.dtype, [&](auto zero) { view_.row<decltype(zero)>(r)[c] = static_cast<decltype(zero)>(value); });
  }
  Matrix& fill(const std::function<double(int64_t, int64_t)>& value) {
    for (int64_t r = 0; r < rows(); ++r)
      for (int64_t c = 0; c < cols(); ++c) set(r, c, value(r, c));
    return *this;
  }
  Matrix& fill_normal(uint64_t seed, double scale = 1.0) {
    return fill(
        [&](int64_t r, int64_t c) { return scale * random_normal({.seed = seed}, static_cast<uint64_t>(r * cols() + c)); });
  }

  // Empty if only elements differ from poison, else where something else was written.
  std::string written_outside() const {
    std::vector<bool> inside(bytes_.size());
    const int64_t size = size_of(view_.dtype);
    for (int64_t r = 0; r < rows(); ++r)
      for (int64_t b = 0; b < cols() * size; ++b) inside[static_cast<size_t>(offset_ + r * view_.stride * size + b)] = true;
    for (size_t b = 0; b < bytes_.size(); ++b)
      if (!inside[b] && bytes_[b] != std::byte{0xff}) return fmt::format("byte {} outside the matrix was written", b);
    return {};
  }

 private:
  int64_t offset_;
  std::vector<std::byte> bytes_;
  Tensor view_;
};

inline Matrix in_double(const Matrix& m) {
  Matrix wide(DType::kF64, m.rows(), m.cols());
  wide.fill([&](int64_t r, int64_t c) { return m.at(r, c); });
  return wide;
}

// Empty if all elements have the same bits (NaNs are equal whatever their payload), else the first that differs.
inline std::string difference(const Matrix& expected, const Matrix& actual) {
  if (expected.rows() != actual.rows() || expected.cols() != actual.cols()) return "shapes differ";
  for (int64_t r = 0; r < expected.rows(); ++r) {
    for (int64_t c = 0; c < expected.cols(); ++c) {
      const double e = expected.at(r, c), a = actual.at(r, c);
      if (std::isnan(e) && std::isnan(a)) continue;
      if (std::bit_cast<uint64_t>(e) != std::bit_cast<uint64_t>(a))
        return fmt::format("element ({}, {}) of {}x{}: expected {:.17g}, found {:.17g}", r, c, expected.rows(), expected.cols(),
                           e, a);
    }
  }
  return {};
}

// Empty if |expected − actual| <= bound(r, c) everywhere, else the element that exceeds its bound most. NaN equals only NaN.
inline std::string difference(const Matrix& expected, const Matrix& actual,
                              const std::function<double(int64_t, int64_t)>& bound) {
  if (expected.rows() != actual.rows() || expected.cols() != actual.cols()) return "shapes differ";
  double worst = 1;
  std::string message;
  for (int64_t r = 0; r < expected.rows(); ++r) {
    for (int64_t c = 0; c < expected.cols(); ++c) {
      const double e = expected.at(r, c), a = actual.at(r, c), limit = bound(r, c);
      if ((std::isnan(e) && std::isnan(a)) || e == a) continue;
      double excess = std::abs(e - a) / limit;
      if (std::isnan(excess)) excess = INFINITY;
      if (excess <= worst) continue;
      worst = excess;
      message = fmt::format("element ({}, {}) of {}x{}: expected {:.9g}, found {:.9g}, bound {:.3g}", r, c, expected.rows(),
                            expected.cols(), e, a, limit);
    }
  }
  return message;
}

// The i-th of mixed sizes: every remainder of the vector widths, and a few larger.
inline const std::vector<int64_t>& mixed_sizes() {
  static const std::vector<int64_t> sizes = [] {
    std::vector<int64_t> s;
    for (int64_t i = 1; i <= 40; ++i) s.push_back(i);
    for (int64_t i : {63, 64, 65, 100, 127, 129, 255, 256, 320, 1000}) s.push_back(i);
    return s;
  }();
  return sizes;
}

// Names of test cases made from table rows.
struct RowName {
  template <class Info>
  std::string operator()(const Info& info) const {
    return std::string(info.param.name);
  }
};

}  // namespace rorqual::testing

// First line of a test over table rows.
#define SKIP_IF_CPU_LACKS(row)                                                                                            \
  do {                                                                                                                    \
    if ((row).isa > ::rorqual::cpu_isa())                                                                                 \
      GTEST_SKIP() << "this CPU lacks " << ::rorqual::isa_name((row).isa) << ", which kernel " << (row).name << " needs"; \
  } while (false)
