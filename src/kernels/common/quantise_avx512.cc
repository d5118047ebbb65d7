#include "kernels/common/vec_avx512.h"
// The vector header first: the code below is written in its names.
#include "kernels/common/vec_rows.inc"

namespace rorqual {
namespace {

using Ints = __m512i;

Ints ints(Vec x) {
  return _mm512_castps_si512(x);
}
Vec floats(Ints x) {
  return _mm512_castsi512_ps(x);
}
Ints set32(uint32_t x) {
  return _mm512_set1_epi32(static_cast<int>(x));
}
Ints bits_and(Ints a, Ints b) {
  return _mm512_and_si512(a, b);
}
Ints add32(Ints a, Ints b) {
  return _mm512_add_epi32(a, b);
}
Ints max32(Ints a, Ints b) {  // signed
  return _mm512_max_epi32(a, b);
}
template <int kBits>
Ints shift_right(Ints x) {
  return _mm512_srli_epi32(x, kBits);
}
Ints load32(const uint32_t* p) {
  return _mm512_loadu_si512(p);
}
void store32(uint32_t* p, Ints x) {
  _mm512_storeu_si512(p, x);
}
Mask equal(Vec a, Vec b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
int64_t count_lanes(Mask mask) {
  return __builtin_popcount(mask);
}

// The largest magnitude of 128 values, in bits.
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

// Byte kByte of each lane of four vectors, in order.
template <int kByte>
[[gnu::always_inline]] inline __m512i bytes_of_lanes(Ints a, Ints b, Ints c, Ints d) {
  alignas(64) static constexpr auto kIndex = [] {
    struct {
      uint8_t at[64];
    } index{};
    for (int i = 0; i < 64; ++i) index.at[i] = static_cast<uint8_t>(4 * (i % 32) + kByte);
    return index;
  }();
  const __m512i index = _mm512_load_si512(kIndex.at);
  return _mm512_mask_blend_epi64(0xf0, _mm512_permutex2var_epi8(a, index, b), _mm512_permutex2var_epi8(c, index, d));
}

// Codes of eight bits, signs from the values; how many are zero.
[[gnu::always_inline]] inline int64_t store_eight(uint8_t* codes, const Ints (&magnitudes)[4], const Vec (&y)[4]) {
  const __m512i magnitude = bytes_of_lanes<0>(magnitudes[0], magnitudes[1], magnitudes[2], magnitudes[3]);
  const __m512i sign = bytes_of_lanes<3>(ints(y[0]), ints(y[1]), ints(y[2]), ints(y[3]));
  _mm512_storeu_si512(codes, _mm512_ternarylogic_epi32(magnitude, sign, _mm512_set1_epi8(-128), 0xf8));  // a | (b & c)
  return __builtin_popcountll(_mm512_testn_epi8_mask(magnitude, magnitude));
}

// The 128 E4M3 codes of bf16 values over 2^exponent, exponent >= -115, in 16-bit integers: a magnitude less `base` is
// (k + 11) · 128 + m for the value 2^k · (1 + m / 128), which is rounded to three of m's seven bits. False if a value other
// than zero lies below 2^-6, where codes are subnormal.
[[gnu::always_inline]] inline bool encode_words(const Bf16* x, int exponent, uint8_t* codes) {
  const __m512i base = _mm512_set1_epi16(static_cast<int16_t>(((exponent + 116) << 7) - 7));  // 7: just below a half
  const __m512i first = _mm512_set1_epi16((5 << 7) + 7), magnitude_bits = _mm512_set1_epi16(0x7fff);
  __m512i words[4], code[4];
  __mmask32 small = 0;
  for (int64_t i = 0; i < 4; ++i) {
    words[i] = _mm512_loadu_si512(x + 32 * i);
    const __m512i magnitude = _mm512_and_si512(words[i], magnitude_bits), from_base = _mm512_subs_epu16(magnitude, base);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(magnitude, 4), _mm512_set1_epi16(1));
    code[i] = _mm512_subs_epu16(_mm512_srli_epi16(_mm512_add_epi16(from_base, odd), 4), _mm512_set1_epi16(32));
    small |= _mm512_mask_test_epi16_mask(_mm512_cmplt_epu16_mask(from_base, first), magnitude, magnitude);
  }
  if (small != 0) return false;
  alignas(64) static constexpr auto kIndex = [] {
    struct {
      uint8_t at[64];
    } index{};
    for (int i = 0; i < 64; ++i) index.at[i] = static_cast<uint8_t>(2 * i);
    return index;
  }();
  const __m512i low = _mm512_load_si512(kIndex.at), high = _mm512_add_epi8(low, _mm512_set1_epi8(1));
  for (int64_t i = 0; i < 4; i += 2) {
    const __m512i magnitudes = _mm512_permutex2var_epi8(code[i], low, code[i + 1]);
    const __m512i signs = _mm512_permutex2var_epi8(words[i], high, words[i + 1]);
    _mm512_storeu_si512(codes + 32 * i, _mm512_ternarylogic_epi32(magnitudes, signs, _mm512_set1_epi8(-128), 0xf8));
  }
  return true;
}

// Codes of twelve bits, two in three bytes.
[[gnu::always_inline]] inline int64_t store_twelve(uint8_t* codes, const Ints (&magnitudes)[4], const Vec (&y)[4]) {
  alignas(64) static constexpr auto kIndex = [] {
    struct {
      uint8_t at[64];
    } index{};
    for (int i = 0; i < 48; ++i) index.at[i] = static_cast<uint8_t>(i / 3 * 8 + i % 3);
    return index;
  }();
  const __m512i index = _mm512_load_si512(kIndex.at), magnitude_bits = set32(0x7ff);
  int64_t zero_codes = 0;
  __m512i pairs[4];
  for (int k = 0; k < 4; ++k) {
    zero_codes += count_lanes(_mm512_testn_epi32_mask(magnitudes[k], magnitude_bits));
    // (a & c) | (b & ~c), also below: the sign of y lands in bit 11; what lies above is cut off.
    const __m512i code = _mm512_ternarylogic_epi32(magnitudes[k], _mm512_srli_epi32(ints(y[k]), 20), magnitude_bits, 0xe4);
    pairs[k] = _mm512_ternarylogic_epi32(code, _mm512_srli_epi64(code, 20), _mm512_set1_epi64(0xfff), 0xe4);
  }
  constexpr __mmask64 kBytes = (uint64_t{1} << 48) - 1;
  _mm512_mask_storeu_epi8(codes, kBytes, _mm512_permutex2var_epi8(pairs[0], index, pairs[1]));
  _mm512_mask_storeu_epi8(codes + 48, kBytes, _mm512_permutex2var_epi8(pairs[2], index, pairs[3]));
  return zero_codes;
}

Vec widen_half(__m256i words) {
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
// The vector code first, which the next falls back to.
#include "kernels/common/requantise_codes_avx512.inc"

namespace rorqual {

const QuantiseKernels kQuantiseAvx512 = {vector_row_amax, vector_quantise_row, vector_dequantise_row, column_amax_avx512,
                                         columns_avx512};

}  // namespace rorqual
