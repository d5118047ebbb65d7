// What the host side of RoPE hands to its kernels.
#pragma once

#include <cstdint>

#include "hopper/launch.h"

namespace rorqual::rope_sm90a_detail {

struct Job {
  void* x;  // at the rotated part of the first head
  const float* table;
  const int32_t* position;
  int64_t rows, stride, head_stride;  // strides in elements
  int64_t table_stride;
  int heads, dim;
  bool bf16, interleaved, inverse;
  bool aligned;  // x, its strides, the table's rows: 16 bytes; dim: two pieces of 16 bytes
};

void launch(const Job& job, hopper::DeviceStream stream);

}  // namespace rorqual::rope_sm90a_detail
