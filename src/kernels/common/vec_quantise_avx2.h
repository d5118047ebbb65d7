// Quantising over vectors of AVX2: the integer functions that vec_quantise.inc is written in, and that file. For files compiled
// with these flags alone, in place of vec_avx2.h.
#pragma once

#include "kernels/common/vec_avx2.h"
// The vector header first: the code below is written in its names.
#include "kernels/common/vec_rows.inc"

namespace rorqual {
namespace {

using Ints = __m256i;

inline Ints ints(Vec x) {
  return _mm256_castps_si256(x);
}
inline Vec floats(Ints x) {
  return _mm256_castsi256_ps(x);
}
inline Ints set32(uint32_t x) {
  return _mm256_set1_epi32(static_cast<int>(x));
}
inline Ints bits_and(Ints a, Ints b) {
  return _mm256_and_si256(a, b);
}
inline Ints add32(Ints a, Ints b) {
  return _mm256_add_epi32(a, b);
}
inline Ints max32(Ints a, Ints b) {  // signed
  return _mm256_max_epi32(a, b);
}
template <int kBits>
inline Ints shift_right(Ints x) {
  return _mm256_srli_epi32(x, kBits);
}
inline Ints load32(const uint32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline void store32(uint32_t* p, Ints x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
}
inline Mask equal(Vec a, Vec b) {
  return _mm256_cmp_ps(a, b, _CMP_EQ_OQ);
}
inline int64_t count_lanes(Mask mask) {
  return __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(mask)));
}
[[gnu::always_inline]] inline int64_t count_zero_bytes(__m256i bytes) {
  const __m256i zero = _mm256_cmpeq_epi8(bytes, _mm256_setzero_si256());
  return __builtin_popcount(static_cast<unsigned>(_mm256_movemask_epi8(zero)));
}

// The largest magnitude of 128 values, in bits.
[[gnu::always_inline]] inline uint32_t reduce_largest(Ints a) {
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(four));
}
[[gnu::always_inline]] inline uint32_t vectors_amax(const Vec (&x)[16]) {
  Ints a = ints(abs(x[0])), b = ints(abs(x[1]));
#pragma GCC unroll 8
  for (int i = 2; i < 16; i += 2) {
    a = max32(a, ints(abs(x[i])));
    b = max32(b, ints(abs(x[i + 1])));
  }
  return reduce_largest(max32(a, b));
}
[[gnu::always_inline]] inline uint32_t group_amax(const float* x) {
  Ints a = ints(abs(load(x))), b = ints(abs(load(x + kLanes)));
  for (int64_t i = 2 * kLanes; i < 128; i += 2 * kLanes) {
    a = max32(a, ints(abs(load(x + i))));
    b = max32(b, ints(abs(load(x + i + kLanes))));
  }
  return reduce_largest(max32(a, b));
}
[[gnu::always_inline]] inline uint32_t group_amax(const Bf16* x) {
  const __m256i magnitude = _mm256_set1_epi16(0x7fff);
  __m256i words = _mm256_setzero_si256();
  for (int64_t i = 0; i < 128; i += 16) {
    const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    words = _mm256_max_epu16(words, _mm256_and_si256(at, magnitude));
  }
  const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  const __m128i smallest = _mm_minpos_epu16(_mm_xor_si128(eight, _mm_set1_epi16(-1)));
  return ((static_cast<uint32_t>(_mm_cvtsi128_si32(smallest)) & 0xffffu) ^ 0xffffu) << 16;
}

// Magnitudes in `bits`, and the sign of y just above them.
template <int kBits>
[[gnu::always_inline]] inline Ints with_sign(Ints magnitude, Vec y) {
  const Ints sign = _mm256_and_si256(_mm256_srli_epi32(ints(y), 31 - kBits), set32(1u << kBits));
  return _mm256_or_si256(_mm256_and_si256(magnitude, set32((1u << kBits) - 1)), sign);
}

// Codes of eight bits, signs from the values; how many are zero.
[[gnu::always_inline]] inline int64_t store_eight(uint8_t* codes, const Ints (&magnitudes)[4], const Vec (&y)[4],
                                                  bool past_caches) {
  Ints code[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) code[k] = with_sign<7>(magnitudes[k], y[k]);
  const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(code[0], code[1]), _mm256_packus_epi32(code[2], code[3]));
  const __m256i ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  if (past_caches)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(codes), ordered);
  else
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), ordered);
  return count_zero_bytes(_mm256_and_si256(ordered, _mm256_set1_epi8(0x7f)));
}

// The 128 E4M3 codes of bf16 values over 2^exponent in 16-bit integers: a magnitude less `base` is (k + 11) · 128 + m for the
// value 2^k · (1 + m / 128), which is rounded to three of m's seven bits. False if a value other than zero lies below 2^-6,
// where codes are subnormal, or the exponent is too small; and for E5M6.
template <DType kType>
[[gnu::always_inline]] inline bool encode_words(const Bf16* x, int exponent, uint8_t* codes, bool) {
  if (kType != DType::kE4M3 || exponent < -115) return false;
  const __m256i base = _mm256_set1_epi16(static_cast<int16_t>(((exponent + 116) << 7) - 7));
  const __m256i first = _mm256_set1_epi16((5 << 7) + 7), magnitude_bits = _mm256_set1_epi16(0x7fff);
  __m256i small = _mm256_setzero_si256();
  alignas(32) uint8_t buffer[128];
  for (int64_t i = 0; i < 128; i += 32) {
    __m256i code[2], sign[2];
    for (int64_t k = 0; k < 2; ++k) {
      const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i + 16 * k));
      const __m256i magnitude = _mm256_and_si256(words, magnitude_bits), from_base = _mm256_subs_epu16(magnitude, base);
      const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(magnitude, 4), _mm256_set1_epi16(1));
      code[k] = _mm256_subs_epu16(_mm256_srli_epi16(_mm256_add_epi16(from_base, odd), 4), _mm256_set1_epi16(32));
      sign[k] = _mm256_srai_epi16(words, 15);
      const __m256i zero = _mm256_cmpeq_epi16(magnitude, _mm256_setzero_si256());
      small = _mm256_or_si256(small, _mm256_andnot_si256(zero, _mm256_cmpgt_epi16(first, from_base)));
    }
    const __m256i signs = _mm256_and_si256(_mm256_packs_epi16(sign[0], sign[1]), _mm256_set1_epi8(-128));
    const __m256i bytes = _mm256_or_si256(_mm256_packus_epi16(code[0], code[1]), signs);
    _mm256_store_si256(reinterpret_cast<__m256i*>(buffer + i), _mm256_permute4x64_epi64(bytes, 0xd8));
  }
  if (!_mm256_testz_si256(small, small)) return false;
  __builtin_memcpy(codes, buffer, 128);
  return true;
}

// Codes of twelve bits, two in three bytes.
[[gnu::always_inline]] inline int64_t store_twelve(uint8_t* codes, const Ints (&magnitudes)[4], const Vec (&y)[4]) {
  int64_t zero_codes = 0;
  alignas(32) uint8_t buffer[48 + 16];
  for (int k = 0; k < 4; ++k) {
    const Ints code = with_sign<11>(magnitudes[k], y[k]);
    const Ints zero = _mm256_cmpeq_epi32(_mm256_and_si256(code, set32(0x7ff)), _mm256_setzero_si256());
    zero_codes += count_lanes(floats(zero));
    // Pairs of codes in 64 bits: the upper one comes down beside the lower. Then three bytes of each.
    const Ints pairs = _mm256_or_si256(code, _mm256_srli_epi64(code, 20));
    const Ints bytes = _mm256_shuffle_epi8(pairs, _mm256_setr_epi8(0, 1, 2, 8, 9, 10, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0,
                                                                   1, 2, 8, 9, 10, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(buffer + 12 * k), _mm256_castsi256_si128(bytes));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(buffer + 12 * k + 6), _mm256_extracti128_si256(bytes, 1));
  }
  __builtin_memcpy(codes, buffer, 48);
  return zero_codes;
}

// 16 codes as FP16.
template <DType kType>
[[gnu::always_inline]] inline __m256i halves(const uint8_t* codes) {
  const __m256i magnitude = _mm256_set1_epi16(0x7fff);
  if constexpr (kType == DType::kE5M6) {
    // 24 bytes, 12 to each half; then pairs of codes in 32 bits.
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 8));
    const __m256i pairs = _mm256_shuffle_epi8(
        _mm256_set_m128i(high, low), _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1, 4, 5, 6, -1, 7, 8,
                                                      9, -1, 10, 11, 12, -1, 13, 14, 15, -1));
    const __m256i even = _mm256_and_si256(_mm256_slli_epi32(pairs, 4), set32(0xfff0));
    const __m256i odd = _mm256_and_si256(_mm256_slli_epi32(pairs, 8), set32(0xfff00000u));
    const __m256i words = _mm256_or_si256(even, odd);
    // Exponent 31 is NaN, whatever the mantissa.
    const __m256i nan = _mm256_cmpgt_epi16(_mm256_and_si256(words, magnitude), _mm256_set1_epi16(0x7bff));
    return _mm256_or_si256(words, _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00)));
  }
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  if constexpr (kType == DType::kE5M2) return _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 8);
  const __m256i words =
      _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), _mm256_set1_epi16(static_cast<int16_t>(0xbf80)));
  const __m256i nan = _mm256_cmpeq_epi16(_mm256_and_si256(words, magnitude), _mm256_set1_epi16(0x3f80));
  return _mm256_or_si256(words, _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00)));
}
template <DType kType>
[[gnu::always_inline]] inline void load_halves(const uint8_t* codes, Vec (&x)[4]) {
  const __m256i low = halves<kType>(codes), high = halves<kType>(codes + (kType == DType::kE5M6 ? 24 : 16));
  x[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(low));
  x[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(low, 1));
  x[2] = _mm256_cvtph_ps(_mm256_castsi256_si128(high));
  x[3] = _mm256_cvtph_ps(_mm256_extracti128_si256(high, 1));
}
// How many of kUnit codes of eight bits are zero.
[[gnu::always_inline]] inline int64_t zero_bytes(const uint8_t* codes) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  return count_zero_bytes(_mm256_and_si256(bytes, _mm256_set1_epi8(0x7f)));
}

}  // namespace
}  // namespace rorqual

#include "kernels/common/vec_quantise.inc"
