// How the host hands matrices of device memory to kernels.
#pragma once

#include <cstdint>

namespace rorqual::hopper {

// F32 or BF16 values; data null: absent.
struct PlainRows {
  void* data = nullptr;
  int64_t stride = 0;  // elements
  bool bf16 = false;
};
// Codes with a scale per 128 columns; codes null: absent.
struct CodedRows {
  uint8_t* codes = nullptr;
  int64_t row_bytes = 0;
  float* scales = nullptr;
  int64_t scales_stride = 0;
};

}  // namespace rorqual::hopper
