// Quantising rows in registers, groups of 1×128: bit for bit the codes and scales of kernels/common/quantise_reference.cc.
//
//   float v[kStripValues];                                              // a strip, four groups (sm90a_rows.h)
//   Piece<E4M3> piece;                                                  // 16 consecutive codes of this lane
//   const float scale = quantise_strip<E4M3, kRule, kWide>(v, piece);   // of group strip_group<kWide>(lane)
//   store_strip_codes<E4M3, kWide>(y, row, column, cols, piece, scale);
//
// All lanes of a warp take part; values beyond the end of a row are 0. kWide: 4 or 8, as the values were read.
#pragma once

#include <type_traits>

#include "kernels/common/sm90a_codes.h"
#include "kernels/common/sm90a_job.h"
#include "kernels/common/sm90a_rows.h"
#include "numerics/scale.h"

namespace rorqual::hopper {

inline constexpr int kGroup = 128;
HOPPER_BOTH constexpr int groups_of(int cols) {
  return (cols + kGroup - 1) / kGroup;
}

HOPPER_DEVICE uint32_t larger(uint32_t a, uint32_t b) {
  return a > b ? a : b;
}
// Ordered as the magnitudes are, infinity and NaN above all.
HOPPER_DEVICE uint32_t magnitude_bits(float x) {
  return float_to_bits(x) & 0x7fffffffu;
}

// x / scale, rounded once, for values of a group with this scale: times the exact inverse of a power of two; other scales by
// the reciprocal of their significand, computed once, and two corrections with exact remainders (Markstein, "Computation of
// elementary functions on the IBM RISC System/6000 processor", 1990). Where a remainder is too small to be exact, so is the
// quotient to have a code that is not zero.
template <ScaleRule kRule>
struct GroupDivision {
  float unit;  // kPow2: 1 / scale; kFp32: the power of two that takes the scale into [1, 2)
  float divisor = 1, inverse = 1;

  HOPPER_DEVICE explicit GroupDivision(float scale) {
    if constexpr (kRule == ScaleRule::kPow2) {
      unit = bits_to_float(0x7f000000u - float_to_bits(scale));
    } else {
      unit = bits_to_float(0x7f000000u - (float_to_bits(scale) & 0x7f800000u));
      divisor = scale * unit;
      inverse = divide(1.0f, divisor);
    }
  }
  HOPPER_DEVICE float operator()(float x) const {
    const float y = x * unit;
    if constexpr (kRule == ScaleRule::kPow2) return y;
    float q = y * inverse;
    q = fma(fma(-q, divisor, y), inverse, q);
    q = fma(fma(-q, divisor, y), inverse, q);
    return bits_to_float(magnitude_bits(q) | (float_to_bits(x) & 0x80000000u));
  }
};

// Codes of kCount values in words: eight-bit ones four a word, E5M6 two a word, in the low 12 bits of each half.
template <class Code>
inline constexpr int kCodesPerWord = std::is_same_v<Code, E5M6> ? 2 : 4;
template <class Code, int kCount>
HOPPER_DEVICE void encode(uint32_t* words, const float* x) {
  constexpr int kPer = kCodesPerWord<Code>;
  HOPPER_UNROLL
  for (int i = 0; i < kCount / kPer; ++i) {
    const float* y = x + i * kPer;
    if constexpr (std::is_same_v<Code, E4M3>)
      words[i] = static_cast<uint32_t>(to_e4m3x2(y[0], y[1])) | static_cast<uint32_t>(to_e4m3x2(y[2], y[3])) << 16;
    else if constexpr (std::is_same_v<Code, E5M2>)
      words[i] = static_cast<uint32_t>(to_e5m2x2(y[0], y[1])) | static_cast<uint32_t>(to_e5m2x2(y[2], y[3])) << 16;
    else
      words[i] = static_cast<uint32_t>(E5M6(y[0]).bits) | static_cast<uint32_t>(E5M6(y[1]).bits) << 16;
  }
}

// 16 consecutive codes as a row holds them: 16 bytes, or 24 of E5M6.
template <class Code>
struct Piece {
  uint32_t w[std::is_same_v<Code, E5M6> ? 6 : 4];
};
// Four pairs of E5M6 codes, one a word, as three words.
HOPPER_DEVICE void pack_pairs(uint32_t* packed, const uint32_t* pairs) {
  uint32_t p[4];
  HOPPER_UNROLL
  for (int i = 0; i < 4; ++i) p[i] = (pairs[i] & 0xfffu) | (pairs[i] >> 4 & 0xfff000u);
  packed[0] = p[0] | p[1] << 24;
  packed[1] = p[1] >> 8 | p[2] << 16;
  packed[2] = p[2] >> 16 | p[3] << 8;
}

// The value of the strip at which a lane's piece begins, and the group whose scale it holds.
template <int kWide>
HOPPER_BOTH constexpr int piece_begin(int lane) {
  return kWide == 4 ? lane % 4 * kGroup + lane / 4 * 16 : lane % 2 * 2 * kGroup + lane / 2 * 16;
}
template <int kWide>
HOPPER_BOTH constexpr int strip_group(int lane) {
  return kWide == 4 ? lane % 4 : lane % 2 * 2 + lane / 16;
}

// A 2×2 transpose of lanes and registers: of lanes l (without the bit `mask`) and l ^ mask, the first gets both a's, the second
// both b's, in the order of the lanes.
HOPPER_DEVICE void swap_across(uint32_t& a, uint32_t& b, int mask) {
  const bool high = (lane_index() & mask) != 0;
  const uint32_t other = shuffle_xor(high ? a : b, mask);
  a = high ? other : a;
  b = high ? b : other;
}

// The magnitude bits of the largest value of group strip_group(lane).
template <int kWide>
HOPPER_DEVICE uint32_t strip_amax(const float (&v)[kStripValues]) {
  constexpr int kChunks = kStripValues / kWide;
  uint32_t amax[kChunks] = {};
  HOPPER_UNROLL
  for (int i = 0; i < kStripValues; ++i) amax[i / kWide] = larger(amax[i / kWide], magnitude_bits(v[i]));
  // Halves the chunks, then the lanes, at each step.
  HOPPER_UNROLL
  for (int step = 1; step < kChunks; step *= 2) {
    HOPPER_UNROLL
    for (int j = 0; j < kChunks; j += 2 * step) {
      swap_across(amax[j], amax[j + step], step);
      amax[j] = larger(amax[j], amax[j + step]);
    }
  }
  HOPPER_UNROLL
  for (int mask = kChunks; mask < (kWide == 4 ? 32 : 16); mask *= 2) amax[0] = larger(amax[0], shuffle_xor(amax[0], mask));
  return amax[0];
}

// From the words of a lane's chunks to those of its piece.
template <int kWide, int kWords>
HOPPER_DEVICE void gather_piece(uint32_t (&words)[kWords]) {
  constexpr int kChunks = kStripValues / kWide, kPer = kWords / kChunks;
  // A transpose of kChunks lanes × kChunks chunks.
  HOPPER_UNROLL
  for (int step = 1; step < kChunks; step *= 2) {
    HOPPER_UNROLL
    for (int j = 0; j < kChunks; ++j) {
      if ((j & step) != 0) continue;
      HOPPER_UNROLL
      for (int k = 0; k < kPer; ++k) swap_across(words[j * kPer + k], words[(j + step) * kPer + k], step);
    }
  }
}

// Codes of a strip by the scales of its groups: `scale` is that of strip_group(lane).
template <class Code, ScaleRule kRule, int kWide>
HOPPER_DEVICE void encode_strip(const float (&v)[kStripValues], float scale, Piece<Code>& piece) {
  constexpr int kChunks = kStripValues / kWide, kPer = kWide / kCodesPerWord<Code>;
  uint32_t words[kChunks * kPer];
  HOPPER_UNROLL
  for (int j = 0; j < kChunks; ++j) {
    const float mine = shuffle(scale, kWide == 4 ? j : (lane_index() & 16) + j);
    const GroupDivision<kRule> division(mine);
    float x[kWide];
    HOPPER_UNROLL
    for (int i = 0; i < kWide; ++i) x[i] = division(v[j * kWide + i]);
    encode<Code, kWide>(words + j * kPer, x);
    const uint32_t finite = mine == mine ? ~0u : 0u;  // a group that is not has codes 0
    HOPPER_UNROLL
    for (int k = 0; k < kPer; ++k) words[j * kPer + k] &= finite;
  }
  gather_piece<kWide>(words);
  if constexpr (std::is_same_v<Code, E5M6>) {
    pack_pairs(piece.w, words);
    pack_pairs(piece.w + 3, words + 4);
  } else {
    HOPPER_UNROLL
    for (int k = 0; k < 4; ++k) piece.w[k] = words[k];
  }
}

// The same with the scales of the strip's own groups; returns that of strip_group(lane).
template <class Code, ScaleRule kRule, int kWide>
HOPPER_DEVICE float quantise_strip(const float (&v)[kStripValues], Piece<Code>& piece) {
  const float scale = scale_of(bits_to_float(strip_amax<kWide>(v)), Code::kLargest, kRule);
  encode_strip<Code, kRule, kWide>(v, scale, piece);
  return scale;
}

// Codes [column, column + 16) of a row of `cols`, as far as the row goes; a half pair of E5M6 at its end is written whole.
// Rows begin at multiples of 16 bytes (8 for E5M6).
template <class Code>
HOPPER_DEVICE void store_piece(uint8_t* row, int column, int cols, const Piece<Code>& piece) {
  constexpr int kBytes = static_cast<int>(sizeof piece);
  if (column >= cols) return;
  uint8_t* to = row + code_bytes<Code>(column);
  const int left = code_bytes<Code>(cols) - code_bytes<Code>(column);
  if (left < kBytes) {
    HOPPER_UNROLL
    for (int b = 0; b < kBytes; ++b)
      if (b < left) to[b] = static_cast<uint8_t>(piece.w[b / 4] >> (8 * (b % 4)));
    return;
  }
  if constexpr (kBytes == 16) {
    store_once(reinterpret_cast<Words4*>(to), Words4{{piece.w[0], piece.w[1], piece.w[2], piece.w[3]}});
  } else {
    HOPPER_UNROLL
    for (int i = 0; i < 3; ++i) store_once(reinterpret_cast<Words2*>(to) + i, Words2{{piece.w[2 * i], piece.w[2 * i + 1]}});
  }
}
// The scales of the strip that begins at `column`.
template <int kWide>
HOPPER_DEVICE void store_strip_scale(float* row, int column, int cols, float scale) {
  const int lane = lane_index(), group = strip_group<kWide>(lane);
  const bool first = kWide == 4 ? lane < 4 : lane % 16 < 2;  // of the lanes that hold it
  if (first && column + group * kGroup < cols) row[column / kGroup + group] = scale;
}

// Codes and scales of the strip that begins at `column`.
template <class Code, int kWide>
HOPPER_DEVICE void store_strip_codes(const CodedRows& to, int row, int column, int cols, const Piece<Code>& piece,
                                     float scale) {
  store_piece(to.codes + row * to.row_bytes, column + piece_begin<kWide>(lane_index()), cols, piece);
  store_strip_scale<kWide>(to.scales + row * to.scales_stride, column, cols, scale);
}

}  // namespace rorqual::hopper
