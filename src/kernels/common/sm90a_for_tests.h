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

// A matrix with gaps between its rows, which begin at multiples of 16 bytes (8 for E5M6), in host memory and in device memory.
// Every byte begins as 0xff.
class Mirrored {
 public:
  Mirrored(DType dtype, int64_t rows, int64_t cols, int64_t gap = 16)
      : offset_(bytes_of(dtype, 16)),
        bytes_(static_cast<size_t>(bytes_of(dtype, rows * stride_of(cols, gap)) + 2 * offset_), std::byte{0xff}),
        device_(bytes_.size()),
        view_(bytes_.data() + offset_, dtype, rows, cols, stride_of(cols, gap)) {}
  Mirrored(const Mirrored& other)
      : offset_(other.offset_), bytes_(other.bytes_), device_(bytes_.data(), bytes_.size()), view_(other.view_) {
    view_.data = bytes_.data() + offset_;
  }
  Mirrored& operator=(const Mirrored&) = delete;

  const Tensor& host() const { return view_; }
  Tensor device() const {
    Tensor t = view_;
    t.data = device_.as<std::byte>() + offset_;
    t.device = Device::kGpu;
    return t;
  }
  int64_t rows() const { return view_.rows; }
  int64_t cols() const { return view_.cols; }

  double at(int64_t r, int64_t c) const {
    return visit_float(view_.dtype, [&](auto zero) { return static_cast<double>(view_.row<decltype(zero)>(r)[c]); });
  }
  // Sets all values, here and there.
  Mirrored& fill(const std::function<double(int64_t, int64_t)>& value) {
    visit_float(view_.dtype, [&](auto zero) {
      for (int64_t r = 0; r < rows(); ++r)
        for (int64_t c = 0; c < cols(); ++c) view_.row<decltype(zero)>(r)[c] = static_cast<decltype(zero)>(value(r, c));
    });
    upload();
    return *this;
  }
  Mirrored& fill_normal(uint64_t seed, double scale = 1) {
    return fill(
        [&](int64_t r, int64_t c) { return scale * random_normal({.seed = seed}, static_cast<uint64_t>(r * cols() + c)); });
  }
  Mirrored& fill_random_bytes(uint64_t seed) {
    for (int64_t r = 0; r < rows(); ++r)
      for (int64_t b = 0; b < bytes_of(view_.dtype, (cols() + 1) / 2 * 2); ++b)
        view_.raw_row(r)[b] = static_cast<std::byte>(random_words({.seed = seed}, static_cast<uint64_t>(r * 65536 + b))[0]);
    upload();
    return *this;
  }
  void upload() { device_.copy_from(bytes_.data(), bytes_.size()); }
  void download() {
    hopper::synchronise();
    device_.copy_to(bytes_.data(), bytes_.size());
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }
  // "(r, c)" of a byte of the matrix and its gaps.
  std::string place_of(size_t byte) const {
    const auto at = static_cast<int64_t>(byte) - offset_;
    const int64_t row = bytes_of(view_.dtype, view_.stride);
    return fmt::format("row {}, byte {} of {}x{}", at < 0 ? -1 : at / row, at < 0 ? at : at % row, rows(), cols());
  }

 private:
  static int64_t stride_of(int64_t cols, int64_t gap) { return (cols + 15) / 16 * 16 + gap; }

  int64_t offset_;
  std::vector<std::byte> bytes_;
  hopper::DeviceBuffer device_;
  Tensor view_;
};

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
