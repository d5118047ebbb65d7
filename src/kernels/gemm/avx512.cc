// AVX-512: tiles of 12 rows × 32 columns, 24 accumulators. bf16 is widened to FP32, since vdpbf16ps runs at about half the rate
// of an FP32 fused multiply-add here and would round pairs differently.
#include <immintrin.h>

#include "base/threads.h"
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
// `count` of kTileRows elements; writes up to 16, which the next step overwrites.
template <class T>
void store_tile_rows(float* to, const T* from, int64_t count) {
  store(to, load(from, count));
}

#include "kernels/gemm/vector.inc"

}  // namespace

void linear_avx512_f32(const LinearBlock& block) {
  linear_block<float, float>(block);
}
void linear_avx512_bf16(const LinearBlock& block) {
  if (block.out == DType::kF32) return linear_block<uint16_t, float>(block);
  linear_block<uint16_t, uint16_t>(block);
}
void gradient_avx512_f32(const GradientBlock& block) {
  gradient_block<float>(block);
}
void gradient_avx512_bf16(const GradientBlock& block) {
  gradient_block<uint16_t>(block);
}
double peak_avx512(int64_t rounds) {
  return multiply_add_loop(rounds);
}

}  // namespace rorqual::gemm
