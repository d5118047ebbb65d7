// AVX-512: tiles of 12 rows × 32 columns, 24 accumulators. bf16 is widened to FP32, since vdpbf16ps runs at about half the rate
// of an FP32 fused multiply-add here and would round pairs differently.
#include <immintrin.h>

#include "base/threads.h"
#include "kernels/gemm/codes.h"
#include "kernels/gemm/kernels.h"

namespace rorqual::gemm {
namespace {

using Vec = __m512;
constexpr int kWidth = 16, kTileRows = 12, kVecs = 2;

__mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>((1u << count) - 1);
}
Vec zero() {
  return _mm512_setzero_ps();
}
Vec broadcast(const float* p) {
  return _mm512_set1_ps(*p);
}
Vec multiply_add(Vec a, Vec b, Vec c) {
  return _mm512_fmadd_ps(a, b, c);
}
Vec multiply(Vec a, Vec b) {
  return _mm512_mul_ps(a, b);
}
Vec add(Vec a, Vec b) {
  return _mm512_add_ps(a, b);
}
Vec load(const float* p) {
  return _mm512_loadu_ps(p);
}
Vec load(const float* p, int64_t count) {
  return _mm512_maskz_loadu_ps(first_lanes(count), p);
}
void store(float* p, Vec v) {
  _mm512_storeu_ps(p, v);
}
void store(float* p, Vec v, int64_t count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), v);
}

Vec widen(__m256i bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}
Vec load(const uint16_t* p) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
Vec load(const uint16_t* p, int64_t count) {
  return widen(_mm256_maskz_loadu_epi16(first_lanes(count), p));
}
// To nearest even; denormals are kept and NaN stays NaN, as Bf16 has it (vcvtneps2bf16 would flush).
__m256i narrow(Vec v) {
  const __m512i u = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet));
}
void store(uint16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v));
}
void store(uint16_t* p, Vec v, int64_t count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count), narrow(v));
}
// 16 pairs of bf16: the lower or the upper half of each 32-bit lane.
Vec load_even(const uint16_t* pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16));
}
Vec load_odd(const uint16_t* pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pairs), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

// Each needs those before it.
// clang-format off
#include "kernels/gemm/fp8_avx512.inc"
#include "kernels/gemm/vector.inc"
#include "kernels/gemm/gradient.inc"
#include "kernels/gemm/few_rows.inc"
// clang-format on

// Steps `step` and `step` + 1 of up to 16 columns as 16 pairs.
__m512i pair_of_steps(const uint16_t* in, int64_t stride, int64_t step, int64_t steps, __mmask16 columns) {
  __m512i pairs = _mm512_setzero_si512();
  if (step < steps) pairs = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(columns, in + step * stride));
  if (step + 1 < steps) {
    const __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(columns, in + (step + 1) * stride));
    pairs = _mm512_or_si512(pairs, _mm512_slli_epi32(odd, 16));
  }
  return pairs;
}

// Transposes 16 × 16 lanes of 32 bits: 4 × 4 within 128-bit quarters, then the quarters.
void transpose(__m512i (&v)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  // v[4i + j], quarter q: column 4q + j of rows 4i to 4i + 3.
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i low_a = _mm512_shuffle_i32x4(v[j], v[4 + j], 0x44), high_a = _mm512_shuffle_i32x4(v[j], v[4 + j], 0xee);
    const __m512i low_b = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0x44);
    const __m512i high_b = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0xee);
    t[j] = _mm512_shuffle_i32x4(low_a, low_b, 0x88);
    t[4 + j] = _mm512_shuffle_i32x4(low_a, low_b, 0xdd);
    t[8 + j] = _mm512_shuffle_i32x4(high_a, high_b, 0x88);
    t[12 + j] = _mm512_shuffle_i32x4(high_a, high_b, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}

#include "kernels/gemm/fp8_bf16_avx512.inc"

__m512i join(__m256i low, __m256i high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// 16 output channels, rows of `source`; pairs of steps as 32-bit lanes, transposed into the panel's rows.
void pack_channels(const float* source, int64_t stride, int64_t k, uint16_t* out) {
  __m512i v[16];
#pragma GCC unroll 16
  for (int n = 0; n < 16; ++n) {
    const float* from = source + n * stride + k;
    v[n] = join(narrow(load(from)), narrow(load(from + 16)));
  }
  transpose(v);
#pragma GCC unroll 16
  for (int p = 0; p < 16; ++p) _mm512_storeu_si512(out + (k / 2 + p) * 32, v[p]);
}
void pack_channels(const float* source, int64_t stride, int64_t k, float* out) {
  for (int64_t half = k; half < k + 32; half += 16) {
    __m512i v[16];
#pragma GCC unroll 16
    for (int n = 0; n < 16; ++n) v[n] = _mm512_castps_si512(load(source + n * stride + half));
    transpose(v);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + (half + i) * 16, v[i]);
  }
}

// The same where a row of `source` is a step.
void pack_steps(const float* source, int64_t stride, int64_t k, uint16_t* out) {
  for (int64_t s = k; s < k + 32; s += 2) {
    const __m512i even = _mm512_cvtepu16_epi32(narrow(load(source + s * stride)));
    const __m512i odd = _mm512_cvtepu16_epi32(narrow(load(source + (s + 1) * stride)));
    _mm512_storeu_si512(out + s * 16, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
  }
}
void pack_steps(const float* source, int64_t stride, int64_t k, float* out) {
  for (int64_t s = k; s < k + 32; ++s) store(out + s * 16, load(source + s * stride));
}

template <class T>
int64_t pack_panel(const float* source, int64_t stride, bool transposed, int64_t depth, T* out) {
  int64_t k = 0;
  for (; k + 32 <= depth; k += 32) {
    if (transposed)
      pack_steps(source, stride, k, out);
    else
      pack_channels(source, stride, k, out);
  }
  return k;
}

}  // namespace

void linear_avx512_f32(const LinearBlock& block) {
  linear_block<float, float>(block);
}
void linear_avx512_bf16(const LinearBlock& block) {
  linear_block<uint16_t, uint16_t>(block);
}
void linear_avx512_fp8(const LinearBlock& block) {
  linear_block_fp8(block);
}
void gradient_avx512_f32(const GradientBlock& block) {
  gradient_block<float, float>(block);
}
void gradient_avx512_bf16(const GradientBlock& block) {
  gradient_block<uint16_t, uint16_t>(block);
}
void gradient_avx512_fp8(const GradientBlock& block) {
  gradient_block_fp8(block);
}
void pack_pairs_avx512(const uint16_t* in, int64_t stride, int64_t steps, int64_t cols, uint16_t* out) {
  for (int64_t p = 0; p < 16; ++p)
    _mm512_storeu_si512(out + p * 32, pair_of_steps(in, stride, 2 * p, steps, first_lanes(cols)));
}
void pack_transposed_avx512(const uint16_t* in, int64_t stride, int64_t steps, int64_t cols, uint16_t* out) {
  __m512i v[16];
#pragma GCC unroll 16
  for (int p = 0; p < 16; ++p) v[p] = pair_of_steps(in, stride, 2 * p, steps, first_lanes(cols));
  transpose(v);
#pragma GCC unroll 16
  for (int n = 0; n < 16; ++n) _mm512_storeu_si512(out + n * 32, v[n]);
}

void decode_row_avx512(DType codes, const uint8_t* in, int64_t depth, const float* scales, int64_t block, uint16_t* out) {
  if (codes == DType::kE4M3) return decode_row<E4M3Code>(in, depth, scales, block, out);
  decode_row<E5M2Code>(in, depth, scales, block, out);
}
void decode_panel_avx512(const uint8_t* in, int64_t depth, const float* scales, uint16_t* out) {
  decode_panel(in, depth, scales, out);
}
void pack_scaled_pairs_avx512(DType codes, const uint8_t* in, int64_t stride, int64_t steps, int64_t cols, const float* scales,
                              uint16_t* out) {
  __m512i v[16];
  scaled_pairs(codes, in, stride, steps, cols, scales, v);
#pragma GCC unroll 16
  for (int p = 0; p < 16; ++p) _mm512_storeu_si512(out + p * 32, v[p]);
}
void pack_scaled_transposed_avx512(DType codes, const uint8_t* in, int64_t stride, int64_t steps, int64_t cols,
                                   const float* scales, uint16_t* out) {
  __m512i v[16];
  scaled_pairs(codes, in, stride, steps, cols, scales, v);
  transpose(v);
#pragma GCC unroll 16
  for (int n = 0; n < 16; ++n) _mm512_storeu_si512(out + n * 32, v[n]);
}

int64_t pack_panel_avx512(const float* source, int64_t stride, bool transposed, int64_t depth, DType to, void* out) {
  if (to == DType::kF32) return pack_panel(source, stride, transposed, depth, static_cast<float*>(out));
  return pack_panel(source, stride, transposed, depth, static_cast<uint16_t*>(out));
}

double peak_avx512(int64_t rounds) {
  return multiply_add_loop(rounds);
}

}  // namespace rorqual::gemm
