// What the host hands to the elementwise kernels of Hopper.
#pragma once

#include <cstdint>

#include "hopper/launch.h"
#include "kernels/common/sm90a_job.h"

namespace rorqual::elementwise_sm90a_detail {

using hopper::PlainRows;

// Row i of y from row source[i] of x (i itself without a source; negative: none). With more than one row, rows × pieces of a
// row stay below 2^31.
struct CopyJob {
  const uint8_t* x = nullptr;
  uint8_t* y = nullptr;
  int64_t x_row_bytes = 0, y_row_bytes = 0;
  const int32_t* source = nullptr;
  int rows = 0;
  int64_t bytes = 0;  // of a row
};
void launch_copy(const CopyJob& job, int alignment, hopper::DeviceStream stream);  // 16 or 4

// The same with conversion, or added to y.
struct ConvertJob {
  PlainRows x = {}, y = {};
  const int32_t* source = nullptr;
  int rows = 0;
  int64_t cols = 0;
  bool accumulate = false;
};
void launch_convert(const ConvertJob& job, hopper::DeviceStream stream);

struct CombineJob {
  PlainRows x = {}, base = {}, y = {};
  const int32_t* row = nullptr;
  const int32_t* node = nullptr;
  int top_k = 0;
  bool payload_bf16 = false;
  int rows = 0, cols = 0;
};
void launch_combine(const CombineJob& job, hopper::DeviceStream stream);

}  // namespace rorqual::elementwise_sm90a_detail
