// Weights to E4M3 with AVX-512: 16 values at a time to codes in a buffer in L1, from which both copies are shuffled.
#include <immintrin.h>

#include "kernels/gemm/quantise_pack.h"

namespace rorqual::gemm {
namespace {

__mmask16 first_lanes(int64_t count) {
  return count >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << (count < 0 ? 0 : count)) - 1u);
}

// Magnitudes of finite values to the magnitude of their codes, as E4M3 rounds (numerics/fp8.h).
__m512i encode(__m512 magnitude) {
  const __m512 limited = _mm512_min_ps(magnitude, _mm512_set1_ps(448));
  const __m512 magic = _mm512_set1_ps(0x1p14f);  // its last bit weighs as much as a subnormal's
  const __m512i small = _mm512_sub_epi32(_mm512_castps_si512(_mm512_add_ps(limited, magic)), _mm512_castps_si512(magic));
  const __m512i bits = _mm512_castps_si512(limited);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 20), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7ffff)));
  const __m512i normal = _mm512_sub_epi32(_mm512_srli_epi32(rounded, 20), _mm512_set1_epi32(120 << 3));
  return _mm512_mask_mov_epi32(normal, _mm512_cmp_ps_mask(limited, _mm512_set1_ps(0x1p-6f), _CMP_LT_OQ), small);
}

constexpr int64_t kSide = 128;
struct alignas(64) Codes {
  uint8_t at[kSide][kSide];
};

// Codes of the block, zero beyond its edges up to multiples of 16 rows and 64 columns.
template <bool kPow2>
PackCounts encode_block(const PackBlock& b, float scale, Codes& out) {
  PackCounts counts;
  const __m512 divisor = _mm512_set1_ps(scale), factor = _mm512_set1_ps(1 / scale);
  for (int64_t n = 0; n < (b.rows + 15) / 16 * 16; ++n) {
    for (int64_t k = 0; k < (b.cols + 63) / 64 * 64; k += 16) {
      const __mmask16 lanes = n < b.rows ? first_lanes(b.cols - k) : __mmask16{0};
      const __m512 x = lanes != 0 ? _mm512_maskz_loadu_ps(lanes, b.source + n * b.stride + k) : _mm512_setzero_ps();
      const __m512 y = kPow2 ? _mm512_mul_ps(x, factor) : _mm512_div_ps(x, divisor);
      const __m512 magnitude = _mm512_abs_ps(y);
      const __m512i code = encode(magnitude);
      const __m512i sign = _mm512_slli_epi32(_mm512_srli_epi32(_mm512_castps_si512(x), 31), 7);
      _mm_store_si128(reinterpret_cast<__m128i*>(&out.at[n][k]), _mm512_cvtepi32_epi8(_mm512_or_si512(code, sign)));
      counts.saturated += __builtin_popcount(_mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(448), _CMP_GT_OQ));
      counts.flushed +=
          __builtin_popcount(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NEQ_OQ) & _mm512_testn_epi32_mask(code, code));
    }
  }
  return counts;
}

// Rows 4j + i of 16, 16 columns each, in quarter j.
__m512i quarter_rows(const Codes& codes, int64_t n, int64_t k, int i) {
  __m512i out = _mm512_castsi128_si512(_mm_load_si128(reinterpret_cast<const __m128i*>(&codes.at[n + i][k])));
  out = _mm512_inserti32x4(out, _mm_load_si128(reinterpret_cast<const __m128i*>(&codes.at[n + 4 + i][k])), 1);
  out = _mm512_inserti32x4(out, _mm_load_si128(reinterpret_cast<const __m128i*>(&codes.at[n + 8 + i][k])), 2);
  return _mm512_inserti32x4(out, _mm_load_si128(reinterpret_cast<const __m128i*>(&codes.at[n + 12 + i][k])), 3);
}

void write_packed(const PackBlock& b, const Codes& codes) {
  const __m512i pairs = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  for (int64_t n = 0; n < b.rows; n += 16) {
    for (int64_t k = 0; k < b.cols; k += 16) {
      const __m512i r0 = quarter_rows(codes, n, k, 0), r1 = quarter_rows(codes, n, k, 1);
      const __m512i r2 = quarter_rows(codes, n, k, 2), r3 = quarter_rows(codes, n, k, 3);
      const __m512i low01 = _mm512_unpacklo_epi32(r0, r1), high01 = _mm512_unpackhi_epi32(r0, r1);
      const __m512i low23 = _mm512_unpacklo_epi32(r2, r3), high23 = _mm512_unpackhi_epi32(r2, r3);
      const __m512i fours[4] = {_mm512_unpacklo_epi64(low01, low23), _mm512_unpackhi_epi64(low01, low23),
                                _mm512_unpacklo_epi64(high01, high23), _mm512_unpackhi_epi64(high01, high23)};
      uint8_t* out = b.packed + n / 16 * b.packed_stride + k * 16;
      for (int64_t s = 0; s < 4 && k + s * 4 < b.cols; ++s)
        _mm512_storeu_si512(out + s * 64, _mm512_shuffle_epi8(fours[s], pairs));
    }
  }
}

void write_transposed(const PackBlock& b, const Codes& codes) {
  for (int64_t n = 0; n < b.rows; n += 4) {
    for (int64_t k = 0; k < b.cols; k += 64) {
      const __m512i r0 = _mm512_load_si512(&codes.at[n][k]), r1 = _mm512_load_si512(&codes.at[n + 1][k]);
      const __m512i r2 = _mm512_load_si512(&codes.at[n + 2][k]), r3 = _mm512_load_si512(&codes.at[n + 3][k]);
      const __m512i low01 = _mm512_unpacklo_epi8(r0, r1), high01 = _mm512_unpackhi_epi8(r0, r1);
      const __m512i low23 = _mm512_unpacklo_epi8(r2, r3), high23 = _mm512_unpackhi_epi8(r2, r3);
      // Quarter p of part j: the four channels from 4j on of panel p.
      alignas(64) uint8_t parts[4][4][16];
      _mm512_store_si512(parts[0], _mm512_unpacklo_epi64(low01, low23));
      _mm512_store_si512(parts[1], _mm512_unpackhi_epi64(low01, low23));
      _mm512_store_si512(parts[2], _mm512_unpacklo_epi64(high01, high23));
      _mm512_store_si512(parts[3], _mm512_unpackhi_epi64(high01, high23));
      for (int64_t p = 0; p < 4 && k + p * 16 < b.cols; ++p) {
        uint8_t* out = b.transposed + (k / 16 + p) * b.transposed_stride + n * 16;
        for (int64_t j = 0; j < 4; ++j)
          _mm_storeu_si128(reinterpret_cast<__m128i*>(out + j * 16),
                           _mm_load_si128(reinterpret_cast<const __m128i*>(parts[j][p])));
      }
    }
  }
}

}  // namespace

uint32_t block_amax_avx512(const float* source, int64_t stride, int64_t rows, int64_t cols) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; c += 16) {
      const __m512i x = _mm512_maskz_loadu_epi32(first_lanes(cols - c), source + r * stride + c);
      __m512i& to = largest[c / 16 % 2];
      to = _mm512_max_epu32(to, _mm512_and_si512(x, magnitude));
    }
  return _mm512_reduce_max_epu32(_mm512_max_epu32(largest[0], largest[1]));
}

PackCounts quantise_pack_avx512(const PackBlock& b, float scale) {
  Codes codes;
  PackCounts counts;
  if (scale == scale) {
    uint32_t bits;
    __builtin_memcpy(&bits, &scale, 4);
    // A normal power of two whose inverse is one as well.
    const bool pow2 = (bits & 0x7fffffu) == 0 && bits >= 0x00800000u && bits <= 0x7e800000u;
    counts = pow2 ? encode_block<true>(b, scale, codes) : encode_block<false>(b, scale, codes);
  } else {
    __builtin_memset(&codes, 0, sizeof(codes));
  }
  if (b.packed != nullptr) write_packed(b, codes);
  if (b.transposed != nullptr) write_transposed(b, codes);
  return counts;
}

}  // namespace rorqual::gemm
