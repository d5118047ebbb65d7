// Tensor maps: how the copy engine (TMA) sees a matrix of global memory.
#pragma once

#include <cstdint>

#include "hopper/types.h"

namespace rorqual::hopper {

enum class Element { kU8, kBF16, kF32 };  // what a map moves; FP8 codes are kU8
HOPPER_BOTH constexpr int64_t size_of(Element element) {
  return element == Element::kU8 ? 1 : element == Element::kBF16 ? 2 : 4;
}

// A stack of matrices [depth][rows][columns]. What lies outside reads as zero and is not written.
struct TensorMapShape {
  const void* data = nullptr;  // device memory, 16-byte aligned
  Element element = Element::kU8;
  int64_t columns = 0, rows = 0, depth = 1;  // at least 1 each
  int64_t row_bytes = 0, matrix_bytes = 0;   // strides, multiples of 16; matrix_bytes only if depth > 1
  int32_t box_columns = 0, box_rows = 0;     // of one copy, at most 256 each
  bool swizzle = false;                      // 128-byte swizzle (hopper/layout.h): box_columns fill 128 bytes
};

// An Error says what the copy engine cannot take.
void check_tensor_map(const TensorMapShape& shape);
TensorMap make_tensor_map(const TensorMapShape& shape);

}  // namespace rorqual::hopper
