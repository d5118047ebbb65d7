// What tests of quantising kernels share: coded matrices with poisoned surroundings, the scalar truth written a second time
// from numerics/, and comparisons that name the first difference.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/common/matrix_for_tests.h"
#include "tensor/scaled_tensor.h"

namespace rorqual::testing {

inline constexpr DType kCodedTypes[] = {DType::kE4M3, DType::kE5M2, DType::kE5M6};
inline constexpr ScaleRule kRules[] = {ScaleRule::kPow2, ScaleRule::kFp32};

// Codes and scales in memory that begins as 0xff; rows start at odd addresses (after whole pairs for E5M6).
class Coded {
 public:
  Coded(DType type, int64_t rows, int64_t cols, ScaledTensor::Group group = ScaledTensor::Group::kRow, int64_t gap = 3)
      : scales_(DType::kF32, group == ScaledTensor::Group::kRow ? rows : scale_groups(rows),
                group == ScaledTensor::Group::kRow ? scale_groups(cols) : cols, 2),
        type_(type),
        rows_(rows),
        cols_(cols),
        stride_(type == DType::kE5M6 ? (cols + 1) / 2 * 2 + 2 * gap : cols + gap),
        group_(group),
        bytes_(static_cast<size_t>(bytes_of(type, rows * stride_) + 7), std::byte{0xff}) {}

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  DType type() const { return type_; }
  Matrix& scales() { return scales_; }
  ScaledTensor tensor() const {
    return {Tensor(const_cast<std::byte*>(bytes_.data()) + 1, type_, rows_, cols_, stride_), scales_.tensor(), group_};
  }
  operator ScaledTensor() const { return tensor(); }

  uint32_t code(int64_t r, int64_t c) const {
    const auto* row = reinterpret_cast<const uint8_t*>(tensor().codes.raw_row(r));
    return type_ == DType::kE5M6 ? E5M6::read(row, c).bits : row[c];
  }
  void set_code(int64_t r, int64_t c, uint32_t bits) {
    auto* row = reinterpret_cast<uint8_t*>(tensor().codes.raw_row(r));
    if (type_ == DType::kE5M6)
      E5M6::from_bits(static_cast<uint16_t>(bits)).write(row, c);
    else
      row[c] = static_cast<uint8_t>(bits);
  }
  float scale(int64_t r, int64_t c) const {
    return group_ == ScaledTensor::Group::kRow ? static_cast<float>(scales_.at(r, c / kScaleGroup))
                                               : static_cast<float>(scales_.at(r / kScaleGroup, c));
  }
  float decoded(int64_t r, int64_t c) const {
    const uint32_t bits = code(r, c);
    return type_ == DType::kE4M3   ? static_cast<float>(E4M3::from_bits(static_cast<uint8_t>(bits)))
           : type_ == DType::kE5M2 ? static_cast<float>(E5M2::from_bits(static_cast<uint8_t>(bits)))
                                   : static_cast<float>(E5M6::from_bits(static_cast<uint16_t>(bits)));
  }
  float value(int64_t r, int64_t c) const { return decoded(r, c) * scale(r, c); }

  // Empty if nothing but codes (a half pair of E5M6 among them) and scales was written.
  std::string written_outside() const {
    std::vector<bool> inside(bytes_.size());
    const int64_t row = type_ == DType::kE5M6 ? (cols_ + 1) / 2 * 3 : cols_;
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t b = 0; b < row; ++b) inside[static_cast<size_t>(1 + bytes_of(type_, r * stride_) + b)] = true;
    for (size_t b = 0; b < bytes_.size(); ++b)
      if (!inside[b] && bytes_[b] != std::byte{0xff}) return fmt::format("byte {} outside the codes was written", b);
    return scales_.written_outside();
  }

 private:
  Matrix scales_;
  DType type_;
  int64_t rows_, cols_, stride_;
  ScaledTensor::Group group_;
  std::vector<std::byte> bytes_;
};

// Empty if codes and scales are equal bit for bit (NaN scales whatever their payload), else the first that differ.
inline std::string difference(const Coded& expected, const Coded& actual) {
  if (expected.rows() != actual.rows() || expected.cols() != actual.cols()) return "shapes differ";
  for (int64_t r = 0; r < expected.rows(); ++r) {
    for (int64_t c = 0; c < expected.cols(); ++c) {
      const float e = expected.scale(r, c), a = actual.scale(r, c);
      if (!(std::isnan(e) && std::isnan(a)) && std::bit_cast<uint32_t>(e) != std::bit_cast<uint32_t>(a))
        return fmt::format("scale of ({}, {}): expected {:g}, found {:g}", r, c, e, a);
      if (expected.code(r, c) != actual.code(r, c))
        return fmt::format("code ({}, {}) of {}x{}: expected {:#x}, found {:#x}, scale {:g}", r, c, expected.rows(),
                           expected.cols(), expected.code(r, c), actual.code(r, c), e);
    }
    if (actual.type() == DType::kE5M6 && actual.cols() % 2 == 1 && actual.code(r, actual.cols()) != 0)
      return fmt::format("the last half pair of row {} is {:#x}", r, actual.code(r, actual.cols()));
  }
  return {};
}

inline std::string difference(const QuantiseCounts& e, const QuantiseCounts& a) {
  if (e.values == a.values && e.saturated == a.saturated && e.flushed == a.flushed && e.amax == a.amax &&
      e.smallest_scale == a.smallest_scale && e.largest_scale == a.largest_scale && e.not_finite == a.not_finite)
    return {};
  const auto text = [](const QuantiseCounts& c) {
    return fmt::format("{} values, {} saturated, {} flushed, amax {:g}, scales {:g} to {:g}, {}", c.values, c.saturated,
                       c.flushed, c.amax, c.smallest_scale, c.largest_scale, c.not_finite ? "not finite" : "finite");
  };
  return fmt::format("expected {}; found {}", text(e), text(a));
}

// ---- the truth

// Code bits of x / scale.
inline uint32_t code_of(DType type, float x, float scale) {
  const float y = scaled(x, scale);
  return type == DType::kE4M3 ? E4M3(y).bits : type == DType::kE5M2 ? E5M2(y).bits : E5M6(y).bits;
}
inline float largest_of(DType type) {
  return type == DType::kE4M3 ? E4M3::kLargest : type == DType::kE5M2 ? E5M2::kLargest : E5M6::kLargest;
}

// Values of one group and where they stand; the scale is chosen from `amax`, or from the group if that is negative.
struct TruthGroup {
  std::vector<std::pair<int64_t, int64_t>> at;
  float amax = -1;
};
// value(r, c) in FP32. Writes codes, and the scale through set_scale(group's first element, scale).
template <class Value, class SetScale>
void quantise_truth(const TruthGroup& group, const Value& value, ScaleRule rule, Coded& y, const SetScale& set_scale,
                    QuantiseCounts& counts) {
  float own = 0;
  bool finite = true;
  for (const auto& [r, c] : group.at) {
    finite = finite && std::isfinite(value(r, c));
    own = std::max(own, std::abs(value(r, c)));
  }
  const float amax = group.amax < 0 ? own : group.amax;
  finite = finite && std::isfinite(amax);
  const float scale = finite ? scale_of(amax, largest_of(y.type()), rule) : NAN;
  set_scale(group.at.front(), scale);
  QuantiseCounts mine;
  mine.values = static_cast<int64_t>(group.at.size());
  mine.not_finite = !finite;
  if (finite) mine.amax = own;
  if (finite && own > 0) mine.smallest_scale = mine.largest_scale = scale;
  for (const auto& [r, c] : group.at) {
    const float x = value(r, c);
    const uint32_t code = finite ? code_of(y.type(), x, scale) : 0;
    y.set_code(r, c, code);
    if (!finite) continue;
    const bool beyond_amax = rule == ScaleRule::kPow2 || std::abs(x) > amax;
    mine.saturated += std::abs(x) > largest_of(y.type()) * scale && beyond_amax ? 1 : 0;
    mine.flushed += x != 0 && (code & (y.type() == DType::kE5M6 ? 0x7ffu : 0x7fu)) == 0 ? 1 : 0;
  }
  counts.merge(mine);
}

struct Truth {
  Coded y;
  QuantiseCounts counts;
};
// The largest magnitude of rows [r0, r1) and columns [c0, c1); infinity if one is not finite.
template <class Value>
float amax_of(const Value& value, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  float amax = 0;
  for (int64_t r = r0; r < r1; ++r)
    for (int64_t c = c0; c < c1; ++c)
      amax = std::isfinite(value(r, c)) ? std::max(amax, std::abs(value(r, c))) : std::numeric_limits<float>::infinity();
  return amax;
}

// What quantise (Group::kRow) or requantise_columns (Group::kColumn) makes of rows × cols values.
template <class Value>
Truth quantise_truth(const Value& value, int64_t rows, int64_t cols, DType type, const Quantiser& quantiser,
                     ScaledTensor::Group direction = ScaledTensor::Group::kRow) {
  const bool by_row = direction == ScaledTensor::Group::kRow;
  Truth truth{Coded(type, rows, cols, direction, 1), {}};
  const float whole = quantiser.granularity != Granularity::kTensor ? 0
                      : quantiser.amax > 0                          ? quantiser.amax
                                                                    : amax_of(value, 0, rows, 0, cols);
  const int64_t blocks = scale_groups(cols);
  std::vector<float> of_block;  // the largest magnitude of each 128×128
  for (int64_t b = 0; quantiser.granularity == Granularity::kBlock && b < scale_groups(rows) * blocks; ++b) {
    const int64_t r0 = b / blocks * kScaleGroup, c0 = b % blocks * kScaleGroup;
    of_block.push_back(amax_of(value, r0, std::min(rows, r0 + kScaleGroup), c0, std::min(cols, c0 + kScaleGroup)));
  }
  const int64_t high = by_row ? 1 : kScaleGroup, wide = by_row ? kScaleGroup : 1;
  for (int64_t r = 0; r < rows; r += high)
    for (int64_t c = 0; c < cols; c += wide) {
      TruthGroup group;
      for (int64_t i = r; i < std::min(rows, r + high); ++i)
        for (int64_t j = c; j < std::min(cols, c + wide); ++j) group.at.push_back({i, j});
      if (quantiser.granularity == Granularity::kTensor) group.amax = whole;
      if (!of_block.empty()) group.amax = of_block[static_cast<size_t>(r / kScaleGroup * blocks + c / kScaleGroup)];
      quantise_truth(
          group, value, quantiser.rule, truth.y,
          [&](const std::pair<int64_t, int64_t>& at, float scale) {
            truth.y.scales().set(by_row ? at.first : at.first / kScaleGroup, by_row ? at.second / kScaleGroup : at.second,
                                 scale);
          },
          truth.counts);
    }
  if (type == DType::kE5M6 && cols % 2 == 1)
    for (int64_t r = 0; r < rows; ++r) truth.y.set_code(r, cols, 0);
  return truth;
}

// Normal numbers of a size that changes from group to group over all exponents, with zeros of both signs, denormals and values
// far below their group's largest among them; `wild`: some groups also hold what is not finite.
inline double awkward_value(uint64_t seed, int64_t r, int64_t c, bool wild) {
  const RandomKey key{.seed = seed};
  const int64_t group = r * 31 + c / kScaleGroup, i = r * 4099 + c;
  if (group % 11 == 5) return c % 2 == 0 ? 0.0 : -0.0;
  if (wild && group % 5 == 2 && c % kScaleGroup == group % 17) return group % 2 == 0 ? NAN : -HUGE_VAL;
  const int exponent = static_cast<int>((static_cast<uint64_t>(group) * 2654435761u + seed) % 256) - 130;
  const double size = std::ldexp(1.0, group % 3 == 0 ? 0 : std::min(exponent, 121));
  switch (i % 23) {
    case 3:
      return 0.0;
    case 7:
      return -0.0;
    case 11:
      return size * 1e-6 * random_normal(key, static_cast<uint64_t>(i));
    case 15:
      return 1e-41;
    case 19:
      return size * std::ldexp(1.0 + static_cast<double>(i % 16) / 16, static_cast<int>(i % 9) - 10);  // ties, often
    default:
      return size * random_normal(key, static_cast<uint64_t>(i));
  }
}

}  // namespace rorqual::testing
