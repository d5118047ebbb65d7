// One 128×128 block of a weight on its way to E4M3 (pack_fp8.cc).
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "tensor/scaled_tensor.h"

namespace rorqual::gemm {

// FP32 values [rows, cols] (1 to 128 each) and where their codes go: element (n, k) of the block to `packed` as element (n, k)
// of panels `packed_stride` bytes apart, and to `transposed` as element (k, n) of panels `transposed_stride` apart; one of the
// two may be null. Steps up to a multiple of 4 and channels up to a multiple of 16 beyond the block's edge become zero.
struct PackBlock {
  const float* source;
  int64_t stride;
  int64_t rows, cols;
  uint8_t* packed;
  int64_t packed_stride;
  uint8_t* transposed;
  int64_t transposed_stride;
  const float* next = nullptr;  // the block that is read next, as many rows of the same stride; or null
  bool past_caches = false;     // codes may go past the caches (common/past_caches.h)
};

// The largest magnitude's bits; 0x7f800000 or more if a value is not finite.
using BlockAmax = uint32_t (*)(const float* source, int64_t stride, int64_t rows, int64_t cols);
// Writes E4M3(x / scale) for each value, or zeros if the scale is NaN, and counts the values that were saturated and flushed;
// amax is the block's own.
struct PackCounts {
  int64_t saturated = 0, flushed = 0;
};
using QuantisePack = PackCounts (*)(const PackBlock& block, float scale, uint32_t amax);

struct QuantiseKernels {
  BlockAmax amax;
  QuantisePack pack;
};
QuantiseKernels quantise_kernels_of(Isa isa);

uint32_t block_amax_reference(const float* source, int64_t stride, int64_t rows, int64_t cols);
PackCounts quantise_pack_reference(const PackBlock& block, float scale, uint32_t amax);
uint32_t block_amax_avx512(const float* source, int64_t stride, int64_t rows, int64_t cols);
PackCounts quantise_pack_avx512(const PackBlock& block, float scale, uint32_t amax);

}  // namespace rorqual::gemm
