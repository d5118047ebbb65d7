// What a kernel computes in one task, with everything it needs; filled by select.cc, which is compiled without ISA flags.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace rorqual::gemm {

// C[rows, cols] (+)= A[rows, depth] · Bᵀ, B from panels of 16 columns. Strides in elements.
struct LinearBlock {
  const void* a;  // [rows, depth]
  int64_t a_stride;
  const void* b;  // the panel of the block's first column, which is a multiple of 16
  int64_t panel_stride;
  void* c;  // [rows, cols]
  int64_t c_stride;
  int64_t rows, cols, depth;
  DType operands, out;
  bool accumulate;
};

// C[rows, cols] += Aᵀ · B. Strides in elements.
struct GradientBlock {
  const void* a;  // [depth, rows]
  int64_t a_stride;
  const void* b;  // [depth, cols]
  int64_t b_stride;
  void* c;  // [rows, cols]
  int64_t c_stride;
  int64_t rows, cols, depth;
  DType operands;
};

// Where element (n, k) of a panel of elements of type T stands (gemm.h).
template <class T>
constexpr int64_t panel_index(int64_t n, int64_t k) {
  return sizeof(T) == 2 ? ((k / 2) * 16 + n) * 2 + k % 2 : k * 16 + n;
}
constexpr int64_t panel_elements(int64_t k) {
  return 16 * ((k + 1) / 2 * 2);
}

}  // namespace rorqual::gemm
