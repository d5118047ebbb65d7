// The block kernels of every instruction set. Only select.cc and tests call them.
#pragma once

#include "kernels/gemm/block.h"

namespace rorqual::gemm {

void linear_reference(const LinearBlock& block);
void gradient_reference(const GradientBlock& block);

void linear_avx512_f32(const LinearBlock& block);
void linear_avx512_bf16(const LinearBlock& block);
void gradient_avx512_f32(const GradientBlock& block);
void gradient_avx512_bf16(const GradientBlock& block);

void linear_avx2_f32(const LinearBlock& block);
void linear_avx2_bf16(const LinearBlock& block);
void gradient_avx2_f32(const GradientBlock& block);
void gradient_avx2_bf16(const GradientBlock& block);

// The inner instruction alone, from registers, `rounds` times; returns the floating-point operations done.
double peak_reference(int64_t rounds);
double peak_avx2(int64_t rounds);
double peak_avx512(int64_t rounds);
double peak_amx(int64_t rounds);

}  // namespace rorqual::gemm
