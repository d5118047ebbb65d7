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

void linear_amx_bf16(const LinearBlock& block);
void gradient_amx_bf16(const GradientBlock& block);

// Up to 32 steps of up to 16 columns of bf16, `in` [steps, cols] with `stride` elements from step to step, as one tile of AMX;
// zeros beyond. pairs: out[16 pairs of steps][16 columns][2]. transposed: out[16 columns][32 steps].
void pack_pairs_avx512(const uint16_t* in, int64_t stride, int64_t steps, int64_t cols, uint16_t* out);
void pack_transposed_avx512(const uint16_t* in, int64_t stride, int64_t steps, int64_t cols, uint16_t* out);

// The inner instruction alone, from registers, `rounds` times; returns the floating-point operations done.
double peak_reference(int64_t rounds);
double peak_avx2(int64_t rounds);
double peak_avx512(int64_t rounds);
double peak_amx(int64_t rounds);

}  // namespace rorqual::gemm
