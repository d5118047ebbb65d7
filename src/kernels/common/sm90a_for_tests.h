// What tests of the kernels for Hopper share: matrices of which a copy lies in device memory.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "hopper/test_support.h"
#include "kernels/common/quantise_for_tests.h"

namespace rorqual::testing {

// A matrix in host memory, and from its first element to its last, gaps between rows included, in device memory: between
// margins that nobody may write, of ordinary values, for arithmetic leaves a NaN as it is. Every byte of the matrix begins as
// 0xff.
class Mirrored {
 public:
  // Rows begin at multiples of 16 bytes (8 for E5M6), `gap` elements apart or a few more.
  Mirrored(DType dtype, int64_t rows, int64_t cols, int64_t gap = 16)
      : Mirrored(Matrix(dtype, rows, cols, (16 - cols % 16) % 16 + gap, 16)) {}
  // Rows begin where the matrix says.
  explicit Mirrored(const Matrix& m)
      : matrix_(m), place_(kMargin + host_place()), device_(static_cast<size_t>(place_ + extent() + kMargin)) {
    device_.fill(kMarginByte);
    upload();
  }
  Mirrored(const Mirrored& other) : Mirrored(other.matrix_) {}
  Mirrored& operator=(const Mirrored&) = delete;

  const Matrix& matrix() const { return matrix_; }
  const Tensor& host() const { return matrix_.tensor(); }
  Tensor device() const {
    Tensor t = host();
    t.data = device_.as<std::byte>() + place_;
    t.device = Device::kGpu;
    return t;
  }
  int64_t rows() const { return matrix_.rows(); }
  int64_t cols() const { return matrix_.cols(); }
  double at(int64_t r, int64_t c) const { return matrix_.at(r, c); }
  const std::vector<std::byte>& bytes() const { return matrix_.bytes(); }

  // In host memory alone.
  void set(int64_t r, int64_t c, double value) { matrix_.set(r, c, value); }
  // Sets all values, here and there.
  Mirrored& fill(const std::function<double(int64_t, int64_t)>& value) {
    matrix_.fill(value);
    upload();
    return *this;
  }
  Mirrored& fill_normal(uint64_t seed, double scale = 1) {
    matrix_.fill_normal(seed, scale);
    upload();
    return *this;
  }
  Mirrored& fill_random_bytes(uint64_t seed) {
    for (int64_t r = 0; r < rows(); ++r)
      for (int64_t b = 0; b < bytes_of(host().dtype, (cols() + 1) / 2 * 2); ++b)
        host().raw_row(r)[b] = static_cast<std::byte>(random_words({.seed = seed}, static_cast<uint64_t>(r * 65536 + b))[0]);
    upload();
    return *this;
  }
  void upload() {
    if (extent() > 0) device_.copy_from(host().data, static_cast<size_t>(extent()), static_cast<size_t>(place_));
  }
  void download() { fetch(matrix_); }
  // What the device holds, into a matrix of the same layout; a test failure if margins were written.
  void fetch(Matrix& m) const {
    const auto all = hopper::to_host<uint8_t>(device_);
    for (int64_t i = 0; i < static_cast<int64_t>(all.size()); ++i) {
      if (i == place_) i += extent();
      ASSERT_EQ(all[static_cast<size_t>(i)], kMarginByte) << "byte " << i - place_ << " from the start of " << extent();
    }
    if (extent() > 0) std::memcpy(m.tensor().data, all.data() + place_, static_cast<size_t>(extent()));
  }
  // "(r, c)" of a byte of the matrix and what lies around it.
  std::string place_of(size_t byte) const {
    const auto at = static_cast<int64_t>(byte) - host_place();
    const int64_t row = bytes_of(host().dtype, host().stride);
    return fmt::format("row {}, byte {} of {}x{}", at < 0 ? -1 : at / row, at < 0 ? at : at % row, rows(), cols());
  }

 private:
  static constexpr int64_t kMargin = 256;
  static constexpr uint8_t kMarginByte = 0x3f;
  int64_t host_place() const { return static_cast<const std::byte*>(host().data) - bytes().data(); }
  // Bytes to the end of the last row, a half pair of E5M6 included.
  int64_t extent() const {
    const int64_t pairs = host().dtype == DType::kE5M6 ? cols() % 2 : 0;
    return host().count() == 0 ? 0 : bytes_of(host().dtype, (rows() - 1) * host().stride + cols() + pairs);
  }

  Matrix matrix_;
  int64_t place_;  // in device memory
  hopper::DeviceBuffer device_;
};

// Empty if |truth − actual| <= bound everywhere and nothing around the rows was written. truth_and_bound(row, column): a pair.
template <class TruthAndBound>
std::string beyond_bounds(const Mirrored& actual, const TruthAndBound& truth_and_bound) {
  for (int64_t r = 0; r < actual.rows(); ++r)
    for (int64_t c = 0; c < actual.cols(); ++c) {
      const auto [truth, bound] = truth_and_bound(r, c);
      if (!(std::abs(truth - actual.at(r, c)) <= bound))
        return fmt::format("({}, {}) of {}x{}: expected {:.9g}, found {:.9g}, bound {:.3g}", r, c, actual.rows(), actual.cols(),
                           truth, actual.at(r, c), bound);
    }
  return actual.matrix().written_outside();
}

// Empty if every byte is equal, gaps included (NaNs whatever their payload), else the first that differs.
inline std::string difference(const Mirrored& expected, const Mirrored& actual) {
  if (expected.bytes().size() != actual.bytes().size()) return "shapes differ";
  const DType type = expected.host().dtype;
  const auto is_nan = [type](const std::byte* p) {
    if (type == DType::kF32) {
      float x;
      std::memcpy(&x, p, 4);
      return std::isnan(x);
    }
    Bf16 x;
    std::memcpy(&x, p, 2);
    return std::isnan(static_cast<float>(x));
  };
  const bool floats = type == DType::kF32 || type == DType::kBF16;
  const auto step = static_cast<size_t>(floats ? size_of(type) : 1);
  for (size_t i = 0; i < expected.bytes().size(); i += step) {
    const std::byte *e = expected.bytes().data() + i, *a = actual.bytes().data() + i;
    if (std::memcmp(e, a, step) == 0 || (floats && is_nan(e) && is_nan(a))) continue;
    uint32_t bits[2] = {};
    std::memcpy(&bits[0], e, step);
    std::memcpy(&bits[1], a, step);
    return fmt::format("{}: expected {:#x}, found {:#x}", expected.place_of(i), bits[0], bits[1]);
  }
  return {};
}

// A coded matrix and its scales.
struct MirroredCodes {
  Mirrored codes, scales;
  ScaledTensor::Group group;

  MirroredCodes(DType type, int64_t rows, int64_t cols, ScaledTensor::Group g = ScaledTensor::Group::kRow)
      : codes(g == ScaledTensor::Group::kColumnTransposed ? Mirrored(type, cols, rows) : Mirrored(type, rows, cols)),
        scales(g == ScaledTensor::Group::kRow ? Mirrored(DType::kF32, rows, scale_groups(cols))
                                              : Mirrored(DType::kF32, scale_groups(rows), cols)),
        group(g) {}
  ScaledTensor host() const { return {codes.host(), scales.host(), group}; }
  ScaledTensor device() const { return {codes.device(), scales.device(), group}; }
  void download() {
    codes.download();
    scales.download();
  }
};
inline std::string difference(const MirroredCodes& expected, const MirroredCodes& actual) {
  const std::string scales = difference(expected.scales, actual.scales);
  if (!scales.empty()) return "scales: " + scales;
  const std::string codes = difference(expected.codes, actual.codes);
  return codes.empty() ? "" : "codes: " + codes;
}

// Positive scales of all sizes, some of them NaN.
inline double awkward_scale(uint64_t seed, int64_t i) {
  const auto words = random_words({.seed = seed}, static_cast<uint64_t>(i));
  if (words[0] % 13 == 0) return NAN;
  return std::ldexp(1 + words[1] % 3 * 0.25, static_cast<int>(words[2] % 40) - 20);
}

}  // namespace rorqual::testing
