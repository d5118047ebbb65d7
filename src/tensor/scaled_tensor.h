// A matrix of low-precision codes with scales per group of 128, and how a matrix becomes one (report §3.3; spec 2.1, 2.2).
#pragma once

#include <atomic>
#include <cstdint>

#include "numerics/scale.h"
#include "tensor/tensor.h"

namespace rorqual {

inline constexpr int64_t kScaleGroup = 128;
constexpr int64_t scale_groups(int64_t n) {
  return (n + kScaleGroup - 1) / kScaleGroup;
}

// value(r, c) = code(r, c) · scale; a plain tensor (F64, F32, BF16) has no scales.
struct ScaledTensor {
  enum class Group {
    kRow,               // 1×128: scales [rows, ceil(cols/128)]
    kColumn,            // 128×1: scales [ceil(rows/128), cols], the operands of a weight gradient
    kColumnTransposed,  // the same scales; codes [cols, rows], so that a channel's rows are contiguous: what a GPU's products
                        // read
  };
  Tensor codes;   // [rows, cols] (transposed: [cols, rows]) E4M3, E5M2 or E5M6, or plain values
  Tensor scales;  // F32, any row stride
  Group group = Group::kRow;

  ScaledTensor() = default;
  ScaledTensor(const Tensor& plain) : codes(plain) {}  // NOLINT: a plain tensor is one without scales
  ScaledTensor(const Tensor& c, const Tensor& s, Group g = Group::kRow) : codes(c), scales(s), group(g) {}

  explicit operator bool() const { return static_cast<bool>(codes); }
  bool is_plain() const { return !scales; }
  DType dtype() const { return codes.dtype; }
  bool is_transposed() const { return group == Group::kColumnTransposed; }
  int64_t rows() const { return is_transposed() ? codes.cols : codes.rows; }
  int64_t cols() const { return is_transposed() ? codes.rows : codes.cols; }
  int64_t bytes() const { return codes.bytes() + scales.bytes(); }

  // `begin` is a multiple of 128 where the range cuts across groups.
  ScaledTensor row_range(int64_t begin, int64_t n) const {
    if (is_plain()) return codes.row_range(begin, n);
    if (group == Group::kRow) return {codes.row_range(begin, n), scales.row_range(begin, n), group};
    CHECK(begin % kScaleGroup == 0, "row {} is inside a group", begin);
    return {is_transposed() ? codes.col_range(begin, n) : codes.row_range(begin, n),
            scales.row_range(begin / kScaleGroup, scale_groups(n)), group};
  }
};

// Over what values one scale is chosen. However wide, every group of a ScaledTensor stores its scale, so that products need not
// know.
enum class Granularity {
  kGroup,   // 1×128 of activations and gradients, 128×128 of weights, 128×1 of a weight gradient's operands
  kBlock,   // 128×128
  kTensor,  // one scale
};

// What a quantiser saw. Counting is exact; merging is an integer sum or a maximum, so it does not depend on the order.
struct QuantiseCounts {
  int64_t values = 0;
  int64_t saturated = 0;                        // beyond the format's largest value
  int64_t flushed = 0;                          // not zero, but their code is
  float amax = 0;                               // largest magnitude
  float smallest_scale = 0, largest_scale = 0;  // of groups that are not all zero; 0: none yet
  bool not_finite = false;                      // a NaN or an infinity came in

  void merge(const QuantiseCounts& other);
};

// The counts of one tensor of one layer; kernels merge theirs once per task.
class QuantiseStatistics {
 public:
  void merge(const QuantiseCounts& counts);
  QuantiseCounts read() const;
  void reset();

 private:
  std::atomic<int64_t> values_{0}, saturated_{0}, flushed_{0};
  std::atomic<uint32_t> amax_{0}, smallest_scale_{0}, largest_scale_{0};  // bits: positive floats are ordered as integers
  std::atomic<bool> not_finite_{false};
};

// How to quantise.
struct Quantiser {
  ScaleRule rule = ScaleRule::kPow2;
  Granularity granularity = Granularity::kGroup;
  float amax = 0;  // Granularity::kTensor: the tensor's, if known before (delayed scaling); 0: measured
  QuantiseStatistics* statistics = nullptr;  // or none
};

}  // namespace rorqual
