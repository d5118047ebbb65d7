// What a kernel computes in one task, with everything it needs; filled by select.cc, which is compiled without ISA flags.
#pragma once

#include <cstdint>

#include "numerics/accumulator.h"
#include "numerics/scale.h"
#include "tensor/dtype.h"

namespace rorqual::gemm {

// Scales of an FP8 operand, one per 128 of the sum; no data for plain operands.
struct BlockScales {
  const float* data = nullptr;
  int64_t stride = 0;
};

// C[rows, cols] (+)= A[rows, depth] · Bᵀ, B from panels of 16 columns. Strides in elements.
struct LinearBlock {
  const void* a;  // [rows, depth]
  int64_t a_stride;
  const void* b;  // the panel of the block's first column, which is a multiple of 16
  int64_t panel_stride;
  void* c;  // [rows, cols]
  int64_t c_stride;
  int64_t rows, cols, depth;
  DType operands, out;  // operands: A's; B's is the same, or E4M3 for E5M2
  bool accumulate;
  BlockScales a_scales = {};  // [rows, ceil(depth/128)]
  BlockScales b_scales = {};  // [ceil(n/128), ceil(depth/128)] of the whole weight
  int64_t col_begin = 0;      // of the block in the weight: column c of the block has the scales of (col_begin + c)/128
  ScaleRule rule = ScaleRule::kPow2;
  Accumulator accumulator = {};
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
  DType operands;             // A's; B's is the same, or E4M3 for E5M2
  BlockScales a_scales = {};  // [ceil(depth/128), rows]
  BlockScales b_scales = {};  // [ceil(depth/128), cols]
  ScaleRule rule = ScaleRule::kPow2;
  Accumulator accumulator = {};
};

// Where element (n, k) of a panel of elements of type T stands (gemm.h).
template <class T>
constexpr int64_t panel_index(int64_t n, int64_t k) {
  if (sizeof(T) == 1) return k / 4 * 64 + n / 4 * 16 + k % 4 / 2 * 8 + n % 4 * 2 + k % 2;
  return sizeof(T) == 2 ? ((k / 2) * 16 + n) * 2 + k % 2 : k * 16 + n;
}
constexpr int64_t panel_elements(DType dtype, int64_t k) {
  const int64_t step = dtype == DType::kE4M3 ? 4 : 2;
  return 16 * ((k + step - 1) / step * step);
}

}  // namespace rorqual::gemm
