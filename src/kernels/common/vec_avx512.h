// Sixteen FP32 lanes of AVX-512, under the names that vec_avx2.h gives eight: code that includes one of the two is written
// once. For files compiled with AVX-512 flags alone; everything has internal linkage, so that no other file can link to it.
//
// Vec: the lanes; + - * / are GCC's. Mask: a truth per lane. Loads and stores take any alignment; those with a count n
// (0 <= n <= kLanes) touch n elements and give zero in the other lanes. Bf16 is widened exactly, and rounded to nearest even
// with denormals kept, as numerics/bf16.h does.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "numerics/bf16.h"

namespace rorqual {
namespace {

constexpr int64_t kLanes = 16;
using Vec = __m512;
using Mask = __mmask16;

inline Vec zeros() {
  return _mm512_setzero_ps();
}
inline Vec set1(float x) {
  return _mm512_set1_ps(x);
}
inline Mask first_lanes(int64_t n) {
  return static_cast<Mask>((1u << n) - 1u);
}

inline Vec widen(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline __m256i round_to_bf16(Vec x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
  rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
  // The upper halves of the lanes, as one shuffle.
  const __m512i upper = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 31, 29, 27, 25, 23, 21, 19,
                                         17, 15, 13, 11, 9, 7, 5, 3, 1);
  const __m512i words = _mm512_permutexvar_epi16(upper, rounded);
  return __builtin_shufflevector(words, words, 0, 1, 2, 3);
}
// The FP32 value of each lane's bf16 rounding.
inline Vec through_bf16(Vec x) {
  return widen(round_to_bf16(x));
}

inline Vec load(const float* p) {
  return _mm512_loadu_ps(p);
}
inline Vec load(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
inline Vec load(const Bf16* p) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec load(const Bf16* p, int64_t n) {
  return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
inline void store(float* p, Vec x) {
  _mm512_storeu_ps(p, x);
}
inline void store(float* p, Vec x, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), x);
}
inline void store(Bf16* p, Vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), round_to_bf16(x));
}
inline void store(Bf16* p, Vec x, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), round_to_bf16(x));
}

// a·b + c and c − a·b, rounded once.
inline Vec fma(Vec a, Vec b, Vec c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline Vec fnma(Vec a, Vec b, Vec c) {
  return _mm512_fnmadd_ps(a, b, c);
}
// A NaN in the second operand comes out.
inline Vec min(Vec a, Vec b) {
  return _mm512_min_ps(a, b);
}
inline Vec max(Vec a, Vec b) {
  return _mm512_max_ps(a, b);
}
inline Vec abs(Vec x) {
  return _mm512_abs_ps(x);
}
// −|x|.
inline Vec minus_abs(Vec x) {
  return _mm512_or_ps(x, _mm512_set1_ps(-0.0f));
}
inline Vec sqrt(Vec x) {
  return _mm512_sqrt_ps(x);
}
inline Mask less(Vec a, Vec b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
// Lanes whose sign is negative.
inline Mask negative(Vec x) {
  return _mm512_movepi32_mask(_mm512_castps_si512(x));
}
inline Vec select(Mask mask, Vec if_true, Vec if_false) {
  return _mm512_mask_blend_ps(mask, if_false, if_true);
}

// The halves. (GCC 12's intrinsics for these warn of their own uninitialised variables.)
inline __m256 low_half(Vec x) {
  return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
}
inline __m256 high_half(Vec x) {
  return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
}

// Lanes i and i + 8, then i and i + 4, i and i + 2, i and i + 1.
inline float sum(Vec x) {
  const __m256 eight = _mm256_add_ps(low_half(x), high_half(x));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest(Vec x) {
  const __m256 eight = _mm256_max_ps(low_half(x), high_half(x));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// 2^n of the integers n in each lane, times x, rounded once (also to a denormal, to zero and to infinity).
inline Vec times_power_of_two(Vec x, Vec n) {
  return _mm512_scalef_ps(x, n);
}

// For pairs in neighbouring lanes (a0, b0, a1, b1, …).
// The first kLanes/2 elements, each twice; with a count n <= kLanes/2, zero beyond it.
inline Vec load_twice(const float* p, int64_t n = kLanes / 2) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(first_lanes(n), p));
}
inline Vec swap_pairs(Vec x) {
  return _mm512_permute_ps(x, 0xb1);
}
// x·y − z in even lanes, x·y + z in odd ones, x·y not rounded.
inline Vec fma_subtract_add(Vec x, Vec y, Vec z) {
  return _mm512_fmaddsub_ps(x, y, z);
}

}  // namespace
}  // namespace rorqual

#include "kernels/common/vec_math.inc"
