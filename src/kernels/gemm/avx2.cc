// AVX2 with FMA: tiles of 6 rows × 16 columns, 12 accumulators.
#include <immintrin.h>

#include "base/threads.h"
#include "kernels/gemm/codes.h"
#include "kernels/gemm/kernels.h"

namespace rorqual::gemm {
namespace {

using Vec = __m256;
constexpr int kWidth = 8, kTileRows = 6, kVecs = 2;

// All ones in the first `count` 32-bit lanes.
__m256i first_lanes(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
Vec zero() {
  return _mm256_setzero_ps();
}
Vec broadcast(const float* p) {
  return _mm256_broadcast_ss(p);
}
Vec multiply_add(Vec a, Vec b, Vec c) {
  return _mm256_fmadd_ps(a, b, c);
}
Vec multiply(Vec a, Vec b) {
  return _mm256_mul_ps(a, b);
}
Vec add(Vec a, Vec b) {
  return _mm256_add_ps(a, b);
}
Vec load(const float* p) {
  return _mm256_loadu_ps(p);
}
Vec load(const float* p, int64_t count) {
  return _mm256_maskload_ps(p, first_lanes(count));
}
void store(float* p, Vec v) {
  _mm256_storeu_ps(p, v);
}
void store(float* p, Vec v, int64_t count) {
  _mm256_maskstore_ps(p, first_lanes(count), v);
}

Vec load(const uint16_t* p) {
  const __m128i bf16 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16));
}
Vec load(const uint16_t* p, int64_t count) {
  alignas(16) uint16_t lanes[8] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(count) * 2);
  return load(lanes);
}
// To nearest even; denormals are kept and NaN stays NaN, as Bf16 has it.
__m128i narrow(Vec v) {
  const __m256i u = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i halves = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}
void store(uint16_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(v));
}
void store(uint16_t* p, Vec v, int64_t count) {
  alignas(16) uint16_t lanes[8];
  store(lanes, v);
  __builtin_memcpy(p, lanes, static_cast<size_t>(count) * 2);
}
// 8 pairs of bf16: the lower or the upper half of each 32-bit lane.
Vec load_even(const uint16_t* pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs)), 16));
}
Vec load_odd(const uint16_t* pairs) {
  const __m256i lanes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs));
  return _mm256_castsi256_ps(_mm256_and_si256(lanes, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

// Each needs those before it.
// clang-format off
#include "kernels/gemm/fp8_avx2.inc"
#include "kernels/gemm/vector.inc"
#include "kernels/gemm/gradient.inc"
// clang-format on

template <class A, class B, bool kFold>
bool few_rows(const LinearBlock&) {
  return false;
}

}  // namespace

void linear_avx2_f32(const LinearBlock& block) {
  linear_block<float, float>(block);
}
void linear_avx2_bf16(const LinearBlock& block) {
  linear_block<uint16_t, uint16_t>(block);
}
void linear_avx2_fp8(const LinearBlock& block) {
  linear_block_fp8(block);
}
void gradient_avx2_f32(const GradientBlock& block) {
  gradient_block<float, float>(block);
}
void gradient_avx2_bf16(const GradientBlock& block) {
  gradient_block<uint16_t, uint16_t>(block);
}
void gradient_avx2_fp8(const GradientBlock& block) {
  gradient_block_fp8(block);
}
double peak_avx2(int64_t rounds) {
  return multiply_add_loop(rounds);
}

}  // namespace rorqual::gemm
