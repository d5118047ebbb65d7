// Matrix products on Hopper (gemm.h says what they compute; pointers are to device memory). refuse_…: empty if the kernel takes
// the arguments, else the reason.
#pragma once

#include <span>
#include <string>

#include "kernels/gemm/gemm.h"

namespace rorqual {

// C = A·Bᵀ of E4M3 operands: A with a scale per 128 of a row, weights in Layout::kRows. Per 128 of K the tensor cores' sum from
// zero (13 fraction bits), times (scale of a · scale of b), added in FP32, ascending: the same under both scale rules. Then
// rounded once to C's type, or added to what C holds (F32: denormal results are zero). Problems of one shape are one launch,
// whatever memory they lie in; their elements of C must not be each other's. More rows in use than a problem has are all.
// Alignment: codes and C to 16 bytes; strides of codes and of C are multiples of 16 bytes; k is one of 16.
std::string refuse_linear_sm90a(const LinearArgs& args);
void linear_sm90a(const LinearArgs& args, const Stream& stream);

// C += Aᵀ·B of E4M3 operands, both Group::kColumnTransposed. Per 128 tokens the tensor cores' sum from zero (13 fraction bits),
// times (scale of a · scale of b), added in FP32, ascending; then added to C once (FP32; denormal results are zero).
// Either rule of scales. Tokens of a problem that are no multiple of 128 count as zeros up to one, whatever lies there.
// Problems of the same n and k share a launch, 64 at a time. Alignment: codes and C to 16 bytes; strides of codes and rows of C
// are multiples of 16 bytes; scales of 4 bytes.
std::string refuse_weight_gradient_sm90a(const WeightGradientArgs& args);
void weight_gradient_sm90a(const WeightGradientArgs& args, const Stream& stream);

// Weights from F32 or BF16 into Layout::kRows: F32 and BF16 copies, or E4M3 with the CPU's codes and scales bit for bit (a
// NaN's payload in BF16 may differ). Rows of copies that are no multiple of 16 bytes, and of sources that are none of 4
// elements, take longer. A scale for a whole tensor needs its amax given; statistics are not counted.
std::string refuse_pack_weights_sm90a(std::span<const PackWeightArgs> list);
void pack_weights_sm90a(std::span<const PackWeightArgs> list, const Stream& stream);

}  // namespace rorqual
