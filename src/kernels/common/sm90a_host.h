// What the host sides of the kernels for Hopper share.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "kernels/common/quantise_rows.h"
#include "kernels/common/sm90a_job.h"

namespace rorqual::hopper {

// Whether every row begins at a multiple of `bytes`.
inline bool rows_aligned(const Tensor& x, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(x.data) % static_cast<uintptr_t>(bytes) == 0 &&
         (x.rows <= 1 || bytes_of(x.dtype, x.stride) % bytes == 0);
}
inline bool is_f32_or_bf16(DType type) {
  return type == DType::kF32 || type == DType::kBF16;
}

// Why kernels for Hopper do not take a matrix of this name, or "".
inline std::string refuse_rows(const char* name, const Tensor& x, int64_t alignment = 16) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (x.rows > kMost || x.cols > kMost - 1024) return fmt::format("{} is [{}, {}]", name, x.rows, x.cols);
  if (x.count() != 0 && !rows_aligned(x, alignment)) return fmt::format("rows of {} are not {}-byte aligned", name, alignment);
  return "";
}
inline std::string refuse_plain(const char* name, const Tensor& x) {
  if (!is_f32_or_bf16(x.dtype)) return fmt::format("{} is {}", name, dtype_name(x.dtype));
  return refuse_rows(name, x);
}
// The strips of all rows are numbered with 32 bits.
inline std::string refuse_count(int64_t rows, int64_t cols) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  return rows * ((cols + 511) / 512) > kMost - 1024 ? fmt::format("[{}, {}] is too much for one call", rows, cols) : "";
}
inline std::string refuse_quantiser(const Quantiser& quantiser) {
  if (quantiser.granularity != Granularity::kGroup) return "a scale of more than one group";
  if (quantiser.statistics != nullptr) return "statistics are not counted";
  return "";
}

inline std::string refuse_codes(const char* name, const ScaledTensor& y) {
  if (!is_coded(y.dtype())) return fmt::format("{} is {}", name, dtype_name(y.dtype()));
  return refuse_rows(name, y.codes, y.dtype() == DType::kE5M6 ? 8 : 16);
}

// The first reason of several.
template <class... Reasons>
std::string first_reason(const Reasons&... reasons) {
  std::string first;
  const auto take = [&](const std::string& reason) {
    if (first.empty()) first = reason;
  };
  (take(reasons), ...);
  return first;
}

inline void check_taken(const std::string& refused) {
  CHECK(refused.empty(), "{}", refused);
}

inline PlainRows plain_rows(const Tensor& x) {
  return {.data = x.data, .stride = x.stride, .bf16 = x.dtype == DType::kBF16};
}
inline CodedRows coded_rows(const ScaledTensor& y) {
  if (!y || y.codes.count() == 0) return {};
  return {.codes = static_cast<uint8_t*>(y.codes.data),
          .row_bytes = bytes_of(y.dtype(), y.codes.stride),
          .scales = y.scales.ptr<float>(),
          .scales_stride = y.scales.stride};
}

}  // namespace rorqual::hopper
