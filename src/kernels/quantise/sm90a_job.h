// What the host hands to the quantising kernels of Hopper.
#pragma once

#include <cstdint>

#include "hopper/launch.h"
#include "kernels/common/sm90a_job.h"
#include "numerics/scale.h"

namespace rorqual::quantise_sm90a_detail {

enum class Format { kF32, kBF16, kE4M3, kE5M2, kE5M6 };

using hopper::CodedRows;

// x [rows, cols] to `own`, and row t to the rows row_of_choice[t, ·] of y.
struct QuantiseJob {
  const void* x = nullptr;
  int64_t x_stride = 0;  // elements
  int rows = 0, cols = 0;
  CodedRows own = {}, y = {};
  const int32_t* row_of_choice = nullptr;
  int top_k = 0;
};
void launch_quantise(const QuantiseJob& job, Format x, Format code, ScaleRule rule, hopper::DeviceStream stream);

struct DequantiseJob {
  CodedRows x = {};
  void* y = nullptr;
  int64_t y_stride = 0;  // elements
  int rows = 0, cols = 0;
};
void launch_dequantise(const DequantiseJob& job, Format code, Format y, hopper::DeviceStream stream);

// One matrix whose columns are quantised in groups of 128 rows.
struct ColumnProblem {
  const uint8_t* x = nullptr;
  int64_t x_row_bytes = 0;
  const float* x_scales = nullptr;  // of coded x
  int64_t x_scales_stride = 0;
  uint8_t* codes = nullptr;  // [rows, cols], or [cols, rows]
  int64_t codes_stride = 0;
  float* scales = nullptr;  // [ceil(rows/128), cols]
  int64_t scales_stride = 0;
  int rows = 0, cols = 0;
  int first_tile = 0;  // of 128×128
};
inline constexpr int kMostProblems = 128;
struct ColumnsJob {
  ColumnProblem problems[kMostProblems];
  int count = 0, tiles = 0;
  bool transposed = false;  // codes [cols, rows]
};
void launch_columns(const ColumnsJob& job, Format x, Format code, ScaleRule rule, hopper::DeviceStream stream);

}  // namespace rorqual::quantise_sm90a_detail
