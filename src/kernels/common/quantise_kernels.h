// What each instruction set gives for quantising: rows, and blocks of columns. Every operation that quantises, fused or not,
// calls these through quantise_rows.h, so the codes come from one place. Equal bits on every instruction set.
#pragma once

#include <cstdint>

#include "tensor/scaled_tensor.h"

namespace rorqual {

// A row of n values, groups of 128 from its first.
// A group's scale is scale_of(amax): of its own values, or of `amax` (bits of the largest magnitude, one per group) if given.
// Codes are E4M3(x / scale) and so on, F64 rounded to FP32 before. A group that holds a NaN or an infinity, or whose given
// amax is one, gets a NaN scale and codes 0. An odd row of E5M6 ends in a half pair of zeros.
struct QuantiseRow {
  const void* x = nullptr;
  DType x_type = DType::kF32;  // F32 or BF16; F64 in the reference
  int64_t n = 0;
  ScaleRule rule = ScaleRule::kPow2;
  DType type = DType::kE4M3;
  const uint32_t* amax = nullptr;  // [groups] or null
  uint8_t* codes = nullptr;
  float* scales = nullptr;           // [groups]
  QuantiseCounts* counts = nullptr;  // added to; null: nothing is counted
  bool past_caches = false;          // codes of eight bits may go past the caches (past_caches.h); they begin a line
};

struct DequantiseRow {
  const void* codes = nullptr;
  DType type = DType::kE4M3;
  const float* scales = nullptr;  // [groups]
  int64_t n = 0;
  void* y = nullptr;
  DType y_type = DType::kF32;  // F32 or BF16; F64 in the reference
};

// Up to 128 rows and kLargestStrip columns of a matrix whose values get one scale per column. Coded columns begin at a group.
inline constexpr int64_t kLargestStrip = 1024;
struct ColumnBlock {
  const std::byte* x = nullptr;
  DType x_type = DType::kF32;  // coded, F32 or BF16; F64 in the reference
  int64_t x_stride = 0;        // bytes from row to row
  const float* x_scales = nullptr;
  int64_t x_scales_stride = 0;  // floats
  int64_t rows = 0, cols = 0;
  ScaleRule rule = ScaleRule::kPow2;
  DType type = DType::kE4M3;  // or E5M2
  uint8_t* codes = nullptr;
  int64_t codes_stride = 0;
  float* scales = nullptr;  // [cols]
  QuantiseCounts* counts = nullptr;
  const std::byte* next = nullptr;  // where as many rows and columns lie that are read next, or null
  bool past_caches = false;         // as in QuantiseRow; every row begins a line
};

struct QuantiseKernels {
  // Raises amax[g] to the bits of the largest magnitude of group g.
  void (*row_amax)(const void* x, DType x_type, int64_t n, uint32_t* amax);
  void (*row)(const QuantiseRow& row);
  void (*dequantise)(const DequantiseRow& row);
  // own[c] = the bits of the largest magnitude of column c.
  void (*column_amax)(const ColumnBlock& block, uint32_t* own);
  // Codes and scales of the block, each column's scale chosen from used[c] (not finite if own[c] is not).
  void (*columns)(const ColumnBlock& block, const uint32_t* own, const uint32_t* used);
};

extern const QuantiseKernels kQuantiseReference, kQuantiseAvx2, kQuantiseAvx512;

// What a value's magnitude must exceed to count as saturated: the format's largest times the scale; not less than the amax
// that an FP32 scale was chosen from, whose quotient may round to a last bit beyond.
constexpr float saturation_limit(float amax, float scale, float largest, ScaleRule rule) {
  const float product = largest * scale;
  return rule == ScaleRule::kFp32 && amax > product ? amax : product;
}

}  // namespace rorqual
