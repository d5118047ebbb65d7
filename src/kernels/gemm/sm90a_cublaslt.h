// Matrix products by cuBLASLt: BF16, and block-scaled FP8 to compare ours with. In CUDA programs alone, not in the emulator's.
//
// The algorithm is cuBLASLt's first choice for a shape, asked for once; none that splits the sum over K is allowed. Which one
// it is may depend on M, so a row's last bits may too. Scratch is one static buffer, had at the first call (which no graph may
// be recording): one stream at a time.
#pragma once

#include <string>

#include "kernels/gemm/gemm.h"

namespace rorqual {

// BF16 operands, weights in Layout::kRows, C BF16 or F32, sums in FP32. All rows of C are computed, whatever rows_in_use says.
std::string refuse_linear_cublaslt(const LinearArgs& args);
void linear_cublaslt(const LinearArgs& args, const Stream& stream);

// BF16 operands, C F32.
std::string refuse_weight_gradient_cublaslt(const WeightGradientArgs& args);
void weight_gradient_cublaslt(const WeightGradientArgs& args, const Stream& stream);

// C [m, n] (+)= A·Bᵀ of E4M3 codes with FP32 scales per 128 of K, in the layouts that cuBLASLt asks for (cuBLAS documentation,
// "128-element 1D and 128x128 2D Block Scaling"): m and n are multiples of 4, k of 16; data and scales are aligned to 16 bytes.
struct Fp8ProductCublaslt {
  Tensor a;              // [m, k] codes
  const float* a_scale;  // [ceil(k/128), m]
  Tensor b;              // [n, k] codes
  const float* b_scale;  // b_blocks: [ceil(n/128), round_up(ceil(k/128), 4)], one per 128×128; else [ceil(k/128), n]
  bool b_blocks = true;  // a weight; false: an operand of a weight gradient, k being tokens
  Tensor c;              // BF16 or F32
  bool accumulate = false;
};
void multiply_fp8_cublaslt(const Fp8ProductCublaslt& product, const Stream& stream);

}  // namespace rorqual
