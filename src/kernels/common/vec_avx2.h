// Eight FP32 lanes of AVX2 and FMA, under the names of vec_avx512.h, which says what they mean. For files compiled with AVX2
// flags alone; everything has internal linkage.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "numerics/bf16.h"

namespace rorqual {
namespace {

constexpr int64_t kLanes = 8;
using Vec = __m256;
using Mask = __m256;  // all ones or all zeros in a lane

inline Vec zeros() {
  return _mm256_setzero_ps();
}
inline Vec set1(float x) {
  return _mm256_set1_ps(x);
}
inline __m256i first_lanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline Vec widen(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline __m128i round_to_bf16(Vec x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
  const __m256i high = _mm256_srli_epi32(chosen, 16);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08));
}
inline Vec through_bf16(Vec x) {
  return widen(round_to_bf16(x));
}

inline Vec load(const float* p) {
  return _mm256_loadu_ps(p);
}
inline Vec load(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, first_lanes(n));
}
inline Vec load(const Bf16* p) {
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vec load(const Bf16* p, int64_t n) {
  alignas(16) uint16_t lanes[kLanes] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * sizeof(uint16_t));
  return widen(_mm_load_si128(reinterpret_cast<const __m128i*>(lanes)));
}
inline void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x);
}
inline void store(float* p, Vec x, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), x);
}
inline void store(Bf16* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), round_to_bf16(x));
}
inline void store(Bf16* p, Vec x, int64_t n) {
  alignas(16) uint16_t lanes[kLanes];
  _mm_store_si128(reinterpret_cast<__m128i*>(lanes), round_to_bf16(x));
  __builtin_memcpy(static_cast<void*>(p), lanes, static_cast<size_t>(n) * sizeof(uint16_t));
}

inline Vec fma(Vec a, Vec b, Vec c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline Vec fnma(Vec a, Vec b, Vec c) {
  return _mm256_fnmadd_ps(a, b, c);
}
inline Vec min(Vec a, Vec b) {
  return _mm256_min_ps(a, b);
}
inline Vec max(Vec a, Vec b) {
  return _mm256_max_ps(a, b);
}
inline Vec abs(Vec x) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}
inline Vec minus_abs(Vec x) {
  return _mm256_or_ps(x, _mm256_set1_ps(-0.0f));
}
inline Vec sqrt(Vec x) {
  return _mm256_sqrt_ps(x);
}
inline Mask less(Vec a, Vec b) {
  return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
// Lanes whose sign is negative: select looks at nothing else.
inline Mask negative(Vec x) {
  return x;
}
inline Vec select(Mask mask, Vec if_true, Vec if_false) {
  return _mm256_blendv_ps(if_false, if_true, mask);
}

// Lanes i and i + 4, then i and i + 2, i and i + 1.
inline float sum(Vec x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest(Vec x) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// In two steps, so that each power is a normal number; the first product is exact for |x| near 1 and |n| <= 150.
inline Vec times_power_of_two(Vec x, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return x * _mm256_castsi256_ps(low) * _mm256_castsi256_ps(high);
}

inline Vec load_twice(const float* p, int64_t n = kLanes / 2) {
  const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  return _mm256_permutevar8x32_ps(_mm256_maskload_ps(p, first_lanes(n)), twice);
}
inline Vec swap_pairs(Vec x) {
  return _mm256_permute_ps(x, 0xb1);
}
inline Vec fma_subtract_add(Vec x, Vec y, Vec z) {
  return _mm256_fmaddsub_ps(x, y, z);
}

}  // namespace
}  // namespace rorqual

#include "kernels/common/vec_math.inc"
