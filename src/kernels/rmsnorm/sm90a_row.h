// A row in the registers of a block, and its sums.
#pragma once

#include "kernels/common/sm90a_rows.h"

namespace rorqual::rmsnorm_sm90a_detail {

// Warp w holds strips [w·kPer, (w + 1)·kPer) of the row. How many a warp holds depends on the columns alone.
constexpr int strips_per_warp(int cols) {
  return hopper::strips_of(cols) > 8 ? 2 : 1;
}
constexpr uint32_t row_threads(int cols) {
  const int per = strips_per_warp(cols);
  return static_cast<uint32_t>((hopper::strips_of(cols) + per - 1) / per * hopper::kWarp);
}
inline constexpr int kMostThreads = 512;
inline constexpr uint32_t kSumBytes = 2 * kMostThreads / hopper::kWarp * 4;  // shared memory of row_sums

// The block's sums, in all threads: lanes in a butterfly, then the warps in order. Once per kernel.
template <int kCount>
HOPPER_DEVICE void row_sums(float (&sum)[kCount]) {
  using namespace hopper;  // NOLINT: device code is written in it
  auto* of_warps = reinterpret_cast<float*>(shared_memory());
  const int warp = warp_index(), warps = block_threads() / kWarp;
  HOPPER_UNROLL
  for (int i = 0; i < kCount; ++i) {
    HOPPER_UNROLL
    for (int mask = 16; mask >= 1; mask /= 2) sum[i] += shuffle_xor(sum[i], mask);
    if (lane_index() == 0) of_warps[warp * kCount + i] = sum[i];
  }
  sync_threads();
  HOPPER_UNROLL
  for (int i = 0; i < kCount; ++i) {
    sum[i] = of_warps[i];
    for (int w = 1; w < warps; ++w) sum[i] += of_warps[w * kCount + i];
  }
}

// The sum of squares of this thread's values.
template <int kPer>
HOPPER_DEVICE float sum_of_squares(const float (&x)[kPer][hopper::kStripValues]) {
  float sum = 0;
  HOPPER_UNROLL
  for (int s = 0; s < kPer; ++s) {
    HOPPER_UNROLL
    for (int i = 0; i < hopper::kStripValues; ++i) sum = hopper::fma(x[s][i], x[s][i], sum);
  }
  return sum;
}
HOPPER_DEVICE float inverse_rms(float squares, int cols, float eps) {
  return hopper::divide(1.0f, hopper::square_root(hopper::divide(squares, static_cast<float>(cols)) + eps));
}

// The strips of this warp from the first of them on; those beyond the end of the row are 0.
template <int kWide, int kPer, class X>
HOPPER_DEVICE void load_whole(float (&x)[kPer][hopper::kStripValues], const X* p) {
  HOPPER_UNROLL
  for (int i = 0; i < kPer * hopper::kStripValues; i += kWide) {
    const int s = i / hopper::kStripValues, v = i % hopper::kStripValues;
    hopper::load_chunk<kWide>(x[s] + v, p + s * hopper::kStrip + hopper::chunk_begin<kWide>(hopper::lane_index(), v / kWide));
  }
}
template <int kWide, int kPer, class X>
HOPPER_DEVICE void load_ragged(float (&x)[kPer][hopper::kStripValues], const X* p, int valid) {
  HOPPER_UNROLL
  for (int s = 0; s < kPer; ++s) hopper::load_strip<kWide>(x[s], p + s * hopper::kStrip, valid - s * hopper::kStrip);
}
template <int kWide, int kPer, class X>
HOPPER_DEVICE void load_row(float (&x)[kPer][hopper::kStripValues], const X* row, int cols) {
  const int first = hopper::warp_index() * kPer * hopper::kStrip;
  if (first + kPer * hopper::kStrip <= cols)
    load_whole<kWide>(x, row + first);
  else
    load_ragged<kWide>(x, row + first, cols - first);
}

// A strip of the weight, which all rows read.
template <int kWide>
HOPPER_DEVICE void load_weight(float (&w)[hopper::kStripValues], const float* strip, int valid) {
  HOPPER_UNROLL
  for (int j = 0; j < hopper::kStripValues / kWide; ++j) {
    const int begin = hopper::chunk_begin<kWide>(hopper::lane_index(), j);
    HOPPER_UNROLL
    for (int k = 0; k < kWide; k += 4) {
      hopper::Float4 four = {};
      if (begin + k + 4 <= valid) {
        four = hopper::load(reinterpret_cast<const hopper::Float4*>(strip + begin + k));
      } else {
        HOPPER_UNROLL
        for (int i = 0; i < 4; ++i)
          if (begin + k + i < valid) four.v[i] = hopper::load(strip + begin + k + i);
      }
      HOPPER_UNROLL
      for (int i = 0; i < 4; ++i) w[j * kWide + k + i] = four.v[i];
    }
  }
}

// A strip to a row of F32 or BF16.
template <int kWide>
HOPPER_DEVICE void store_row_strip(void* rows, int64_t stride, bool bf16, int row, int column, int cols,
                                   const float (&v)[hopper::kStripValues]) {
  if (bf16)
    hopper::store_strip<kWide>(static_cast<Bf16*>(rows) + row * stride + column, v, cols - column);
  else
    hopper::store_strip<kWide>(static_cast<float*>(rows) + row * stride + column, v, cols - column);
}

}  // namespace rorqual::rmsnorm_sm90a_detail
