// AVX-512: 16 lanes, tiles of 6 rows × 64 columns. BF16 operands are widened and multiplied as floats.
#include <immintrin.h>
#include <math.h>

#include "kernels/attention/job.h"

// GCC 12 calls the undefined vectors inside its own intrinsics uninitialised.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace rorqual::attention {
namespace {

using V = __m512;
constexpr int64_t kLanes = 16;
constexpr int64_t kMaxVectors = 4;

__mmask16 first_lanes(int64_t n) {
  return static_cast<__mmask16>(n >= kLanes ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
}

V load(const float* p) {
  return _mm512_loadu_ps(p);
}
void store(float* p, V x) {
  _mm512_storeu_ps(p, x);
}
V load_part(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
void store_part(float* p, V x, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), x);
}
V set1(float x) {
  return _mm512_set1_ps(x);
}
V zero() {
  return _mm512_setzero_ps();
}
V fma(V a, V b, V c) {
  return _mm512_fmadd_ps(a, b, c);
}
V add(V a, V b) {
  return _mm512_add_ps(a, b);
}
V sub(V a, V b) {
  return _mm512_sub_ps(a, b);
}
V mul(V a, V b) {
  return _mm512_mul_ps(a, b);
}
V div(V a, V b) {
  return _mm512_div_ps(a, b);
}
V max(V a, V b) {
  return _mm512_max_ps(a, b);
}  // b if a is NaN
float first_lane(V x) {
  return _mm512_cvtss_f32(x);
}

// Lanes [begin, end) of x, the others of `other`.
V keep_lanes(V x, int64_t begin, int64_t end, V other) {
  return _mm512_mask_blend_ps(static_cast<__mmask16>(first_lanes(end) & ~first_lanes(begin)), other, x);
}

float reduce_max(V x) {
  return _mm512_reduce_max_ps(x);
}

// Lane i with lane i + 8, then + 4, + 2, + 1.
float reduce_add(V x) {
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

// 2^x within 1.5 ulp: 2^round(x) times a polynomial (minimax of degree 6 with value 1 at 0, relative error 2e-9) of the rest.
// Exactly 1 for 0; 0 below 2^-126; NaN stays NaN.
V exp2(V x) {
  const V n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const V f = _mm512_sub_ps(x, n);
  V y = set1(0x1.41fbbcp-13f);
  y = fma(y, f, set1(0x1.5f3e54p-10f));
  y = fma(y, f, set1(0x1.3b2d4cp-7f));
  y = fma(y, f, set1(0x1.c6aee8p-5f));
  y = fma(y, f, set1(0x1.ebfbdcp-3f));
  y = fma(y, f, set1(0x1.62e430p-1f));
  y = fma(y, f, set1(1.0f));
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, set1(-126.0f), _CMP_NLT_UQ), y, n);
}

// To nearest, ties to even, in the upper half of each lane.
__m512i rounded_bits(V x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
}
V round_bf16(V x) {
  return _mm512_castsi512_ps(_mm512_and_si512(rounded_bits(x), _mm512_set1_epi32(-65536)));
}
V load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}
V load_bf16_part(const uint16_t* p, int64_t n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(n), p)), 16));
}
void store_bf16_part(uint16_t* p, V x, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_bits(x), 16)));
}

// Rows to columns, 16 × 16: pairs, quads, then 128-bit quarters.
void transpose(V x[16]) {
  V y[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(y[i]), _mm512_castps_pd(y[i + 2])));
    x[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(y[i]), _mm512_castps_pd(y[i + 2])));
    x[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(y[i + 1]), _mm512_castps_pd(y[i + 3])));
    x[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(y[i + 1]), _mm512_castps_pd(y[i + 3])));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    y[i] = _mm512_shuffle_f32x4(x[i], x[i + 4], 0x88);
    y[i + 4] = _mm512_shuffle_f32x4(x[i], x[i + 4], 0xdd);
    y[i + 8] = _mm512_shuffle_f32x4(x[i + 8], x[i + 12], 0x88);
    y[i + 12] = _mm512_shuffle_f32x4(x[i + 8], x[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm512_shuffle_f32x4(y[i], y[i + 8], 0x88);
    x[i + 4] = _mm512_shuffle_f32x4(y[i + 4], y[i + 12], 0x88);
    x[i + 8] = _mm512_shuffle_f32x4(y[i], y[i + 8], 0xdd);
    x[i + 12] = _mm512_shuffle_f32x4(y[i + 4], y[i + 12], 0xdd);
  }
}

#include "kernels/attention/vector.inc"
// needs the blocks above
#include "kernels/attention/backward.inc"
#include "kernels/attention/forward.inc"

}  // namespace

void forward_avx512(const ForwardJob& job) {
  forward_job(job);
}
void backward_avx512(const BackwardJob& job) {
  backward_job(job);
}
void exp2_avx512(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store_part(y + i, exp2(load_part(x + i, n - i)), n - i);
}

}  // namespace rorqual::attention
