// AVX2 with FMA: 8 lanes, tiles of 6 rows × 16 columns. BF16 operands are widened and multiplied as floats.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/attention/job.h"

namespace rorqual::attention {
namespace {

using V = __m256;
constexpr int64_t kLanes = 8;
constexpr int64_t kMaxVectors = 2;

// All ones in lanes below n.
__m256i first_lanes(int64_t n) {
  const int lanes = static_cast<int>(n >= kLanes ? kLanes : n <= 0 ? 0 : n);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

V load(const float* p) {
  return _mm256_loadu_ps(p);
}
void store(float* p, V x) {
  _mm256_storeu_ps(p, x);
}
V load_part(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, first_lanes(n));
}
void store_part(float* p, V x, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), x);
}
V set1(float x) {
  return _mm256_set1_ps(x);
}
V zero() {
  return _mm256_setzero_ps();
}
V fma(V a, V b, V c) {
  return _mm256_fmadd_ps(a, b, c);
}
V add(V a, V b) {
  return _mm256_add_ps(a, b);
}
V sub(V a, V b) {
  return _mm256_sub_ps(a, b);
}
V mul(V a, V b) {
  return _mm256_mul_ps(a, b);
}
V div(V a, V b) {
  return _mm256_div_ps(a, b);
}
V max(V a, V b) {
  return _mm256_max_ps(a, b);
}  // b if a is NaN
float first_lane(V x) {
  return _mm256_cvtss_f32(x);
}

// Lanes [begin, end) of x, the others of `other`.
V keep_lanes(V x, int64_t begin, int64_t end, V other) {
  return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(_mm256_andnot_si256(first_lanes(begin), first_lanes(end))));
}

float reduce_max(V x) {
  const __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

// Lane i with lane i + 4, then + 2, + 1.
float reduce_add(V x) {
  const __m128 a = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 b = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

// 2^x within 1.5 ulp, the polynomial of avx512.cc. Exactly 1 for 0; 0 below 2^-125; infinity from 2^128; NaN stays NaN.
V exp2(V x) {
  const V bounded = _mm256_min_ps(set1(128.0f), x);
  const V n = _mm256_round_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const V f = _mm256_sub_ps(bounded, n);
  V y = set1(0x1.41fbbcp-13f);
  y = fma(y, f, set1(0x1.5f3e54p-10f));
  y = fma(y, f, set1(0x1.3b2d4cp-7f));
  y = fma(y, f, set1(0x1.c6aee8p-5f));
  y = fma(y, f, set1(0x1.ebfbdcp-3f));
  y = fma(y, f, set1(0x1.62e430p-1f));
  y = fma(y, f, set1(1.0f));
  // n - 1 in the exponent and a doubling behind it, so that n = 128 with a y below 1 is still finite.
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(126)), 23);
  const V half = _mm256_mul_ps(y, _mm256_castsi256_ps(exponent));
  const V scaled = _mm256_add_ps(half, half);
  return _mm256_and_ps(scaled, _mm256_cmp_ps(x, set1(-125.0f), _CMP_NLT_UQ));
}

// To nearest, ties to even, in the upper half of each lane.
__m256i rounded_bits(V x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
}
V round_bf16(V x) {
  return _mm256_castsi256_ps(_mm256_and_si256(rounded_bits(x), _mm256_set1_epi32(-65536)));
}
V load_bf16(const uint16_t* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
V load_bf16_part(const uint16_t* p, int64_t n) {
  uint16_t lanes[kLanes] = {};
  memcpy(lanes, p, static_cast<size_t>(2 * (n < kLanes ? n : kLanes)));
  return load_bf16(lanes);
}
void store_bf16_part(uint16_t* p, V x, int64_t n) {
  const __m256i upper = _mm256_srli_epi32(rounded_bits(x), 16);
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
  if (n >= kLanes) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
  uint16_t lanes[kLanes];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lanes), packed);
  memcpy(p, lanes, static_cast<size_t>(2 * n));
}

// Rows to columns, 8 × 8: pairs, quads, then 128-bit halves.
void transpose(V x[8]) {
  V y[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    x[i] = _mm256_shuffle_ps(y[i], y[i + 2], 0x44);
    x[i + 1] = _mm256_shuffle_ps(y[i], y[i + 2], 0xee);
    x[i + 2] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0x44);
    x[i + 3] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    y[i] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x20);
    y[i + 4] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) x[i] = y[i];
}

#include "kernels/attention/vector.inc"
// needs the blocks above
#include "kernels/attention/backward.inc"
#include "kernels/attention/forward.inc"
#include "kernels/attention/paged.inc"

}  // namespace

void forward_avx2(const ForwardJob& job) {
  forward_job(job);
}
void backward_avx2(const BackwardJob& job) {
  backward_job(job);
}
void paged_avx2(const PagedJob& job) {
  paged_job(job);
}
void exp2_avx2(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store_part(y + i, exp2(load_part(x + i, n - i)), n - i);
}

}  // namespace rorqual::attention
