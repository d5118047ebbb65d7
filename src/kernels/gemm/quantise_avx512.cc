// Weights to E4M3 with AVX-512: 16 values at a time to codes in a buffer in L1, from which both copies are shuffled.
#include "kernels/common/vec_quantise_avx512.h"
// The vector code first, which the next is written in.
#include "kernels/gemm/quantise_pack.h"

namespace rorqual::gemm {
namespace {

constexpr int64_t kSide = 128;
struct alignas(64) Codes {
  uint8_t at[kSide][kSide];
};

__mmask16 lanes_of(int64_t count) {
  return count >= kLanes ? __mmask16{0xffff} : first_lanes(count < 0 ? 0 : count);
}

// Codes of the block, zero beyond its edges up to multiples of 16 rows and 64 columns. Every argument takes a value to its code
// as quantising rows does; General cuts off what saturates, which Folded never sees.
template <class Argument>
PackCounts encode_block(const PackBlock& b, const Argument& argument, Codes& out) {
  PackCounts counts;
  const Argument arguments[4] = {argument, argument, argument, argument};
  const int64_t cols = (b.cols + kUnit - 1) / kUnit * kUnit;
  for (int64_t n = 0; n < b.rows; ++n)
    for (int64_t k = 0; k < cols; k += kUnit) {
      const float* from = b.source + n * b.stride + k;
      Vec x[4];
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; ++i) {
        if (b.next != nullptr) __builtin_prefetch(b.next + n * b.stride + k + i * kLanes, 0, 2);
        x[i] = _mm512_maskz_loadu_ps(lanes_of(b.cols - k - i * kLanes), from + i * kLanes);
      }
      int64_t zero_codes = encode_unit<DType::kE4M3>(x, arguments, &out.at[n][k], false);
      if (zero_codes != 0) {
        for (const Vec& v : x) zero_codes -= count_lanes(equal(v, zeros()));
        counts.flushed += zero_codes;
      }
      if constexpr (requires { argument.scale; })
        for (const Vec& v : x)
          counts.saturated += count_lanes(less(set1(Format<DType::kE4M3>::kLargest), abs(v / argument.scale)));
    }
  for (int64_t n = b.rows; n < (b.rows + 15) / 16 * 16; ++n) __builtin_memset(out.at[n], 0, static_cast<size_t>(cols));
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
        store_bytes(out + s * 64, _mm512_shuffle_epi8(fours[s], pairs), b.past_caches);
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
      const __m512i part0 = _mm512_unpacklo_epi64(low01, low23), part1 = _mm512_unpackhi_epi64(low01, low23);
      const __m512i part2 = _mm512_unpacklo_epi64(high01, high23), part3 = _mm512_unpackhi_epi64(high01, high23);
      const __m512i even01 = _mm512_shuffle_i32x4(part0, part1, 0x88), odd01 = _mm512_shuffle_i32x4(part0, part1, 0xdd);
      const __m512i even23 = _mm512_shuffle_i32x4(part2, part3, 0x88), odd23 = _mm512_shuffle_i32x4(part2, part3, 0xdd);
      const __m512i panels[4] = {_mm512_shuffle_i32x4(even01, even23, 0x88), _mm512_shuffle_i32x4(odd01, odd23, 0x88),
                                 _mm512_shuffle_i32x4(even01, even23, 0xdd), _mm512_shuffle_i32x4(odd01, odd23, 0xdd)};
      for (int64_t p = 0; p < 4 && k + p * 16 < b.cols; ++p)
        store_bytes(b.transposed + (k / 16 + p) * b.transposed_stride + n * 16, panels[p], b.past_caches);
    }
  }
}

}  // namespace

uint32_t block_amax_avx512(const float* source, int64_t stride, int64_t rows, int64_t cols) {
  Ints largest[4] = {set32(0), set32(0), set32(0), set32(0)};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; c += 4 * kLanes)
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t at = c + i * kLanes;
        largest[i] = max32(largest[i], ints(abs(_mm512_maskz_loadu_ps(lanes_of(cols - at), source + r * stride + at))));
      }
  return static_cast<uint32_t>(_mm512_reduce_max_epi32(max32(max32(largest[0], largest[1]), max32(largest[2], largest[3]))));
}

PackCounts quantise_pack_avx512(const PackBlock& b, float scale, uint32_t amax) {
  Codes codes;
  PackCounts counts;
  if (scale == scale) {
    using R = Rounding<DType::kE4M3>;
    const uint32_t bits = bits_of(scale);
    const int exponent = static_cast<int>(bits >> 23) - 127;
    const bool saturates = float_of(amax) > Format<DType::kE4M3>::kLargest * scale;
    if ((bits & 0x7fffffu) == 0 && bits >= 0x00800000u && !saturates && R::takes(exponent, amax))
      counts = encode_block(b, Folded{set32(R::smallest(exponent)), set32(R::addend(exponent))}, codes);
    else
      counts = encode_block(b, General{set1(scale)}, codes);
  } else {
    __builtin_memset(&codes, 0, sizeof(codes));
  }
  if (b.packed != nullptr) write_packed(b, codes);
  if (b.transposed != nullptr) write_transposed(b, codes);
  return counts;
}

}  // namespace rorqual::gemm
