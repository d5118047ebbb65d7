// Quantising over vectors of AVX-512: the integer functions that vec_quantise.inc is written in, and that file. For files
// compiled with these flags alone, in place of vec_avx512.h.
#pragma once

#include "kernels/common/vec_avx512.h"
// The vector header first: the code below is written in its names.
#include "kernels/common/vec_rows.inc"

namespace rorqual {
namespace {

using Ints = __m512i;

inline Ints ints(Vec x) {
  return _mm512_castps_si512(x);
}
inline Vec floats(Ints x) {
  return _mm512_castsi512_ps(x);
}
inline Ints set32(uint32_t x) {
  return _mm512_set1_epi32(static_cast<int>(x));
}
inline Ints bits_and(Ints a, Ints b) {
  return _mm512_and_si512(a, b);
}
inline Ints add32(Ints a, Ints b) {
  return _mm512_add_epi32(a, b);
}
inline Ints max32(Ints a, Ints b) {  // signed
  return _mm512_max_epi32(a, b);
}
template <int kBits>
inline Ints shift_right(Ints x) {
  return _mm512_srli_epi32(x, kBits);
}
inline Ints load32(const uint32_t* p) {
  return _mm512_loadu_si512(p);
}
inline void store32(uint32_t* p, Ints x) {
  _mm512_storeu_si512(p, x);
}
inline Mask equal(Vec a, Vec b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
inline int64_t count_lanes(Mask mask) {
  return __builtin_popcount(mask);
}

// The largest magnitude of 128 values, in bits.
[[gnu::always_inline]] inline uint32_t vectors_amax(const Vec (&x)[8]) {
  Ints a = ints(abs(x[0])), b = ints(abs(x[1]));
#pragma GCC unroll 8
  for (int i = 2; i < 8; i += 2) {
    a = max32(a, ints(abs(x[i])));
    b = max32(b, ints(abs(x[i + 1])));
  }
  return static_cast<uint32_t>(_mm512_reduce_max_epi32(max32(a, b)));
}
[[gnu::always_inline]] inline uint32_t group_amax(const float* x) {
  Ints largest = ints(abs(load(x)));
  for (int64_t i = kLanes; i < 128; i += kLanes) largest = max32(largest, ints(abs(load(x + i))));
  return static_cast<uint32_t>(_mm512_reduce_max_epi32(largest));
}
[[gnu::always_inline]] inline uint32_t group_amax(const Bf16* x) {
  const Ints magnitude = _mm512_set1_epi16(0x7fff);
  const auto at = [&](int64_t i) { return _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude); };
  const Ints words = _mm512_max_epu16(_mm512_max_epu16(at(0), at(32)), _mm512_max_epu16(at(64), at(96)));
  const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(words), _mm512_extracti64x4_epi64(words, 1));
  const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  const __m128i smallest = _mm_minpos_epu16(_mm_xor_si128(eight, _mm_set1_epi16(-1)));
  return (static_cast<uint32_t>(_mm_cvtsi128_si32(smallest)) ^ 0xffffu) << 16;
}

// A line, or 64 bytes anywhere.
[[gnu::always_inline]] inline void store_bytes(uint8_t* to, __m512i bytes, bool past_caches) {
  if (past_caches)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), bytes);
  else
    _mm512_storeu_si512(to, bytes);
}

// Codes of eight bits, signs from the values; how many are zero.
[[gnu::always_inline]] inline int64_t store_eight(uint8_t* codes, const Ints (&magnitudes)[4], const Vec (&y)[4],
                                                  bool past_caches) {
  const __m512i magnitude_bits = set32(0x7f);
  __m512i code[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k)  // (a & c) | (b & ~c): clean bytes, which packing does not saturate
    code[k] = _mm512_ternarylogic_epi32(magnitudes[k], _mm512_srli_epi32(ints(y[k]), 24), magnitude_bits, 0xe4);
  const __m512i words = _mm512_packus_epi32(code[0], code[1]), more = _mm512_packus_epi32(code[2], code[3]);
  // Packing goes by 128 bits: four codes of each vector in turn.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(words, more));
  store_bytes(codes, bytes, past_caches);
  return __builtin_popcountll(_mm512_testn_epi8_mask(bytes, _mm512_set1_epi8(0x7f)));
}

// 32 codes of twelve bits in 16-bit lanes, two in three bytes: code i of them is in lane kOrder of i, pairs side by side.
// Writes 64 bytes, of which 48 count, or with kLast those alone.
template <bool kPacked, bool kLast>
[[gnu::always_inline]] inline void store_pairs(uint8_t* codes, __m512i words) {
  // kPacked: as packing two vectors of 32-bit lanes leaves them, 4 of the first and 4 of the second in turn.
  alignas(64) static constexpr auto kIndex = [] {
    struct {
      uint8_t at[64];
    } index{};
    for (int i = 0; i < 48; ++i) {
      const int pair = i / 3, lane = kPacked ? pair % 8 / 2 * 4 + pair / 8 * 2 + pair % 2 : pair;
      index.at[i] = static_cast<uint8_t>(lane * 4 + i % 3);
    }
    return index;
  }();
  const __m512i pairs = _mm512_madd_epi16(words, _mm512_set1_epi32((4096 << 16) + 1));
  const __m512i bytes = _mm512_permutexvar_epi8(_mm512_load_si512(kIndex.at), pairs);
  if (kLast)
    _mm512_mask_storeu_epi8(codes, (uint64_t{1} << 48) - 1, bytes);
  else
    _mm512_storeu_si512(codes, bytes);
}

// The 128 codes of bf16 values over 2^exponent that do not saturate, in 16-bit integers: kDrop bits of a magnitude are rounded
// off, and its exponent is counted from the code's. False if a value other than zero has a subnormal code, or the exponent is
// too small for that.
template <DType kType>
[[gnu::always_inline]] inline bool encode_words(const Bf16* x, int exponent, uint8_t* codes,
                                                [[maybe_unused]] bool past_caches) {
  constexpr int kBias = kType == DType::kE4M3 ? 7 : 15, kDrop = kType == DType::kE4M3 ? 4 : 1;
  if (exponent + 127 - kBias < 1) return false;
  const __m512i one = _mm512_set1_epi16(1), magnitude_bits = _mm512_set1_epi16(0x7fff);
  const __m512i base = _mm512_set1_epi16(static_cast<int16_t>(((exponent + 127 - kBias) << 7) - ((1 << (kDrop - 1)) - 1)));
  const __m512i first = _mm512_set1_epi16(static_cast<int16_t>(((exponent + 128 - kBias) << 7) - 1));
  const __m512i code_bits = _mm512_set1_epi16(kType == DType::kE4M3 ? 0x7f : 0x7ff);
  __m512i code[4], least = _mm512_set1_epi16(-1);
  for (int64_t i = 0; i < 4; ++i) {
    const __m512i word = _mm512_loadu_si512(x + 32 * i), magnitude = _mm512_and_si512(word, magnitude_bits);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(word, kDrop), one);
    const __m512i rounded = _mm512_srli_epi16(_mm512_subs_epu16(_mm512_add_epi16(magnitude, odd), base), kDrop);
    least = _mm512_min_epu16(least, _mm512_sub_epi16(magnitude, one));  // zeros become the largest
    // (a & c) | (b & ~c): the sign above the magnitude.
    const __m512i sign = _mm512_srli_epi16(word, kType == DType::kE4M3 ? 8 : 4);
    code[i] = _mm512_ternarylogic_epi32(rounded, sign, code_bits, 0xe4);
  }
  if (_mm512_cmplt_epu16_mask(least, first) != 0) return false;
  if constexpr (kType == DType::kE4M3) {
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    for (int64_t i = 0; i < 4; i += 2)
      store_bytes(codes + 32 * i, _mm512_permutexvar_epi64(order, _mm512_packus_epi16(code[i], code[i + 1])), past_caches);
  } else {
    for (int64_t i = 0; i < 3; ++i) store_pairs<false, false>(codes + 48 * i, code[i]);
    store_pairs<false, true>(codes + 144, code[3]);
  }
  return true;
}

// Codes of twelve bits, two in three bytes.
[[gnu::always_inline]] inline int64_t store_twelve(uint8_t* codes, const Ints (&magnitudes)[4], const Vec (&y)[4]) {
  const __m512i magnitude_bits = set32(0x7ff);
  int64_t zero_codes = 0;
  __m512i code[4];
  for (int k = 0; k < 4; ++k)  // (a & c) | (b & ~c): the sign of y lands in bit 11
    code[k] = _mm512_ternarylogic_epi32(magnitudes[k], _mm512_srli_epi32(ints(y[k]), 20), magnitude_bits, 0xe4);
  for (int k = 0; k < 4; k += 2) {
    const __m512i words = _mm512_packus_epi32(code[k], code[k + 1]);
    zero_codes += __builtin_popcount(_mm512_testn_epi16_mask(words, _mm512_set1_epi16(0x7ff)));
    if (k == 0)
      store_pairs<true, false>(codes, words);
    else
      store_pairs<true, true>(codes + 48, words);
  }
  return zero_codes;
}

inline Vec widen_half(__m256i words) {
  return _mm512_cvtph_ps(words);
}

// 32 codes as FP16.
template <DType kType>
[[gnu::always_inline]] inline __m512i halves(const uint8_t* codes) {
  if constexpr (kType == DType::kE5M6) {
    alignas(64) static constexpr auto kIndex = [] {
      struct {
        uint8_t at[64];
      } index{};
      for (int i = 0; i < 64; ++i) index.at[i] = static_cast<uint8_t>(i / 4 * 3 + i % 4);
      return index;
    }();
    const __m512i bytes = _mm512_maskz_loadu_epi8((uint64_t{1} << 48) - 1, codes);
    const __m512i pairs = _mm512_permutexvar_epi8(_mm512_load_si512(kIndex.at), bytes);
    const __m512i words = _mm512_and_si512(
        _mm512_ternarylogic_epi32(_mm512_slli_epi32(pairs, 4), _mm512_slli_epi32(pairs, 8), _mm512_set1_epi32(0xffff), 0xe4),
        _mm512_set1_epi16(static_cast<int16_t>(0xfff0)));
    // Exponent 31 is NaN, whatever the mantissa.
    const __mmask32 nan =
        _mm512_cmpge_epu16_mask(_mm512_and_si512(words, _mm512_set1_epi16(0x7fff)), _mm512_set1_epi16(0x7c00));
    return _mm512_mask_mov_epi16(words, nan, _mm512_set1_epi16(0x7e00));
  }
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  if constexpr (kType == DType::kE5M2) return _mm512_slli_epi16(_mm512_cvtepu8_epi16(bytes), 8);
  const __m512i words =
      _mm512_and_si512(_mm512_slli_epi16(_mm512_cvtepi8_epi16(bytes), 7), _mm512_set1_epi16(static_cast<int16_t>(0xbf80)));
  const __mmask32 nan = _mm512_cmpeq_epi16_mask(_mm512_and_si512(words, _mm512_set1_epi16(0x7fff)), _mm512_set1_epi16(0x3f80));
  return _mm512_mask_mov_epi16(words, nan, _mm512_set1_epi16(0x7e00));
}
template <DType kType>
[[gnu::always_inline]] inline void load_halves(const uint8_t* codes, Vec (&x)[4]) {
  const __m512i low = halves<kType>(codes), high = halves<kType>(codes + (kType == DType::kE5M6 ? 48 : 32));
  x[0] = widen_half(_mm512_castsi512_si256(low));
  x[1] = widen_half(_mm512_extracti64x4_epi64(low, 1));
  x[2] = widen_half(_mm512_castsi512_si256(high));
  x[3] = widen_half(_mm512_extracti64x4_epi64(high, 1));
}
// How many of kUnit codes of eight bits are zero.
[[gnu::always_inline]] inline int64_t zero_bytes(const uint8_t* codes) {
  return __builtin_popcountll(_mm512_testn_epi8_mask(_mm512_loadu_si512(codes), _mm512_set1_epi8(0x7f)));
}

}  // namespace
}  // namespace rorqual

#include "kernels/common/vec_quantise.inc"
