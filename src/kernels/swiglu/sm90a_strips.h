// Strips of gate_up and of what SwiGLU makes of it: a warp takes 512 columns of h, all values in registers (sm90a_rows.h).
#pragma once

#include <type_traits>

#include "kernels/common/sm90a_codes.h"
#include "kernels/common/sm90a_quantise.h"
#include "kernels/common/sm90a_rows.h"
#include "kernels/swiglu/sm90a_job.h"

namespace rorqual::swiglu_sm90a_detail {

using namespace hopper;  // NOLINT: the language of device code

inline constexpr int kThreads = 256, kWarps = kThreads / kWarp;

template <class X>
inline constexpr bool kIsCode = std::is_same_v<X, E4M3> || std::is_same_v<X, E5M2>;
// Values of a lane that lie together: 16 bytes of F32 and BF16, 8 of codes.
template <class X>
inline constexpr int kWideOf = std::is_same_v<X, float> ? 4 : 8;

// Columns [column, column + valid) of a row, valid at most a strip's; 0 beyond. A chunk of codes lies in one group.
template <class X, bool kWritten>
HOPPER_DEVICE void read_strip(float (&v)[kStripValues], const Rows& from, int row, int column, int valid) {
  constexpr int kWide = kWideOf<X>;
  if constexpr (kIsCode<X>) {
    const uint8_t* codes = from.coded.codes + row * from.coded.row_bytes;
    const float* scales = from.coded.scales + row * from.coded.scales_stride;
    HOPPER_UNROLL
    for (int j = 0; j < kStripValues / kWide; ++j) {
      const int at = chunk_begin<kWide>(lane_index(), j);
      const bool inside = at < valid;
      const auto words = inside ? load_codes<X, kWide>(codes + column + at, kWide) : Codes<X, kWide>{};
      const float scale = inside ? load(scales + (column + at) / kGroup) : 0.0f;
      decode(v + j * kWide, words);
      HOPPER_UNROLL
      for (int i = 0; i < kWide; ++i) v[j * kWide + i] *= scale;
    }
  } else {
    load_strip<kWide, kWritten>(v, static_cast<const X*>(from.plain.data) + row * from.plain.stride + column, valid);
  }
}

template <class Y, int kWide>
HOPPER_DEVICE void quantise_to(const CodedRows& to, ScaleRule rule, int row, int column, int cols,
                               const float (&v)[kStripValues]) {
  Piece<Y> piece;
  const float scale = rule == ScaleRule::kPow2 ? quantise_strip<Y, ScaleRule::kPow2, kWide>(v, piece)
                                               : quantise_strip<Y, ScaleRule::kFp32, kWide>(v, piece);
  store_strip_codes<Y, kWide>(to, row, column, cols, piece, scale);
}

// Columns [column, end) of a row, as far as the strip goes.
template <class Y, int kWide>
HOPPER_DEVICE void write_strip(const Rows& to, ScaleRule rule, int row, int column, int end, const float (&v)[kStripValues]) {
  if constexpr (kIsCode<Y>)
    quantise_to<Y, kWide>(to.coded, rule, row, column, end, v);
  else
    store_strip<kWide>(static_cast<Y*>(to.plain.data) + row * to.plain.stride + column, v, end - column);
}

// sigmoid(x) and 1 − sigmoid(x), each to relative accuracy.
struct Sigmoid {
  float value, complement;
};
HOPPER_DEVICE Sigmoid sigmoid(float x) {
  const float e = exponential(bits_to_float(float_to_bits(x) | 0x80000000u));
  const float large = reciprocal_fast(1.0f + e), small = e * large;
  return x < 0 ? Sigmoid{small, large} : Sigmoid{large, small};
}

// Calls body with an element of the matrix's type.
template <bool kE5M2, class Body>
void by_type(const Rows& rows, const Body& body) {
  if (rows.code == Code::kE4M3)
    body(E4M3{});
  else if (kE5M2 && rows.code == Code::kE5M2)
    body(std::conditional_t<kE5M2, E5M2, E4M3>{});
  else if (rows.plain.bf16)
    body(Bf16{});
  else
    body(float{});
}

}  // namespace rorqual::swiglu_sm90a_detail
