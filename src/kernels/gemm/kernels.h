// The block kernels of every instruction set. Only select.cc, pack.cc, peak.cc and tests name them.
#pragma once

#include "base/cpu.h"
#include "kernels/gemm/block.h"

namespace rorqual::gemm {

void linear_reference(const LinearBlock& block);
void gradient_reference(const GradientBlock& block);
void linear_reference_fp8(const LinearBlock& block);
void gradient_reference_fp8(const GradientBlock& block);

void linear_avx512_f32(const LinearBlock& block);
void linear_avx512_bf16(const LinearBlock& block);
void linear_avx512_fp8(const LinearBlock& block);
void gradient_avx512_f32(const GradientBlock& block);
void gradient_avx512_bf16(const GradientBlock& block);
void gradient_avx512_fp8(const GradientBlock& block);

void linear_avx2_f32(const LinearBlock& block);
void linear_avx2_bf16(const LinearBlock& block);
void linear_avx2_fp8(const LinearBlock& block);
void gradient_avx2_f32(const GradientBlock& block);
void gradient_avx2_bf16(const GradientBlock& block);
void gradient_avx2_fp8(const GradientBlock& block);

void linear_amx_bf16(const LinearBlock& block);
void gradient_amx_bf16(const GradientBlock& block);
void linear_amx_fp8(const LinearBlock& block);  // power-of-two scales
void gradient_amx_fp8(const GradientBlock& block);

// Up to 32 steps of up to 16 columns of bf16, `in` [steps, cols] with `stride` elements from step to step, as one tile of AMX;
// zeros beyond. pairs: out[16 pairs of steps][16 columns][2]. transposed: out[16 columns][32 steps].
void pack_pairs_avx512(const uint16_t* in, int64_t stride, int64_t steps, int64_t cols, uint16_t* out);
void pack_transposed_avx512(const uint16_t* in, int64_t stride, int64_t steps, int64_t cols, uint16_t* out);

// Codes as bf16 for AMX's tiles, times power-of-two scales: exact, but that a result below 2^-126 may lose bits, which counts
// as zero there. NaN scales give NaN, also in what fills a tile up. `codes`: E4M3 or E5M2. A row [depth] with a scale per 128:
// step k at out[k/32·block + k%32], zeros up to a multiple of 32.
void decode_row_avx512(DType codes, const uint8_t* in, int64_t depth, const float* scales, int64_t block, uint16_t* out);
// A panel of E4M3 (gemm.h) with a scale per 128 steps: out[pairs][16 columns][2], zeros up to a multiple of 32 steps.
void decode_panel_avx512(const uint8_t* in, int64_t depth, const float* scales, uint16_t* out);
// pack_pairs and pack_transposed of codes with a scale per column.
void pack_scaled_pairs_avx512(DType codes, const uint8_t* in, int64_t stride, int64_t steps, int64_t cols, const float* scales,
                              uint16_t* out);
void pack_scaled_transposed_avx512(DType codes, const uint8_t* in, int64_t stride, int64_t steps, int64_t cols,
                                   const float* scales, uint16_t* out);

// Packs the first steps of a panel of 16 channels from FP32 to F32 or BF16 and returns how many: the multiple of 32 below
// `depth`. `source` is at the panel's first channel: [16 channels, depth], or transposed [depth, 16 channels].
int64_t pack_panel_avx512(const float* source, int64_t stride, bool transposed, int64_t depth, DType to, void* out);

// What packing and the peak measurement use under an instruction set (select.cc names them).
using PackPanel = int64_t (*)(const float* source, int64_t stride, bool transposed, int64_t depth, DType to, void* out);
PackPanel pack_panel_of(Isa isa);  // null: the scalar loop
using PeakLoop = double (*)(int64_t rounds);
PeakLoop peak_loop_of(Isa isa, DType operands);

// The inner instruction alone, from registers, `rounds` times; returns the floating-point operations done.
double peak_reference(int64_t rounds);
double peak_avx2(int64_t rounds);
double peak_avx512(int64_t rounds);
double peak_amx(int64_t rounds);

}  // namespace rorqual::gemm
