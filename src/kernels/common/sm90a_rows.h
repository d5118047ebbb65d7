// Rows of F32 and BF16 values in the registers of a warp: 16-byte accesses, whole where a row is long enough, value by value at
// its ragged end. Rows begin at multiples of 16 bytes.
#pragma once

#include <type_traits>

#include "hopper/device.h"
#include "numerics/bf16.h"

namespace rorqual::hopper {

// A strip: 512 consecutive values of a row, 16 per lane, in chunks of kWide (4 or 8) consecutive values: v[j·kWide + i] of
// `lane` is value (32·j + lane)·kWide + i of the strip, so that a warp reads or writes a chunk as one piece of memory.
inline constexpr int kStrip = 512, kStripValues = 16;
HOPPER_BOTH constexpr int strips_of(int cols) {
  return (cols + kStrip - 1) / kStrip;
}
// The width at which a chunk of X fills 16 bytes.
template <class X>
inline constexpr int kChunk = 16 / static_cast<int>(sizeof(X));
template <int kWide>
HOPPER_BOTH constexpr int chunk_begin(int lane, int j) {
  return (32 * j + lane) * kWide;
}

// 16 or 8 bytes of memory that the kernel does not write, or that it does (kWritten). kAgain: their sector of 32 bytes is asked
// for once more, so it is to stay in the first-level cache.
template <bool kWritten, bool kAgain = false, class Words>
HOPPER_DEVICE Words read_words(const Words* p) {
  if constexpr (kWritten)
    return *p;
  else if constexpr (kAgain)
    return load(p);
  else
    return load_once(p);
}
// kWide values at p, 8 to 32 bytes.
template <int kWide, bool kWritten = false>
HOPPER_DEVICE void load_chunk(float* v, const float* p) {
  HOPPER_UNROLL
  for (int k = 0; k < kWide; k += 4) {
    const Float4 four = read_words<kWritten, (kWide > 4)>(reinterpret_cast<const Float4*>(p + k));
    HOPPER_UNROLL
    for (int i = 0; i < 4; ++i) v[k + i] = four.v[i];
  }
}
template <int kWide, bool kWritten = false>
HOPPER_DEVICE void load_chunk(float* v, const Bf16* p) {
  using Words = std::conditional_t<kWide == 8, Words4, Words2>;
  const Words words = read_words<kWritten>(reinterpret_cast<const Words*>(p));
  HOPPER_UNROLL
  for (int i = 0; i < kWide / 2; ++i) {
    v[2 * i] = bf16_low(words.w[i]);
    v[2 * i + 1] = bf16_high(words.w[i]);
  }
}
HOPPER_DEVICE float load_value(const float* p) {
  return *p;
}
HOPPER_DEVICE float load_value(const Bf16* p) {
  return from_bf16(p->bits);
}

template <int kWide>
HOPPER_DEVICE void store_chunk(float* p, const float* v) {
  HOPPER_UNROLL
  for (int k = 0; k < kWide; k += 4) store_once(reinterpret_cast<Float4*>(p + k), Float4{{v[k], v[k + 1], v[k + 2], v[k + 3]}});
}
template <int kWide>
HOPPER_DEVICE void store_chunk(Bf16* p, const float* v) {
  using Words = std::conditional_t<kWide == 8, Words4, Words2>;
  Words words;
  HOPPER_UNROLL
  for (int i = 0; i < kWide / 2; ++i) words.w[i] = to_bf16x2(v[2 * i], v[2 * i + 1]);
  store_once(reinterpret_cast<Words*>(p), words);
}
HOPPER_DEVICE void store_value(float* p, float value) {
  *p = value;
}
HOPPER_DEVICE void store_value(Bf16* p, float value) {
  p->bits = to_bf16(value);
}

template <int kWide, bool kWritten = false, class X>
HOPPER_DEVICE void load_whole_strip(float (&v)[kStripValues], const X* strip) {
  HOPPER_UNROLL
  for (int j = 0; j < kStripValues / kWide; ++j)
    load_chunk<kWide, kWritten>(v + j * kWide, strip + chunk_begin<kWide>(lane_index(), j));
}
// The strip at `strip`, of which `valid` values are there; those beyond are 0.
template <int kWide, bool kWritten = false, class X>
HOPPER_DEVICE void load_strip(float (&v)[kStripValues], const X* strip, int valid) {
  const int lane = lane_index();
  if (valid >= kStrip) return load_whole_strip<kWide, kWritten>(v, strip);
  HOPPER_UNROLL
  for (int j = 0; j < kStripValues / kWide; ++j) {
    const int begin = chunk_begin<kWide>(lane, j);
    if (begin + kWide <= valid) {
      load_chunk<kWide, kWritten>(v + j * kWide, strip + begin);
    } else {
      HOPPER_UNROLL
      for (int i = 0; i < kWide; ++i) v[j * kWide + i] = begin + i < valid ? load_value(strip + begin + i) : 0.0f;
    }
  }
}
template <int kWide, class Y>
HOPPER_DEVICE void store_strip(Y* strip, const float (&v)[kStripValues], int valid) {
  const int lane = lane_index();
  HOPPER_UNROLL
  for (int j = 0; j < kStripValues / kWide; ++j) {
    const int begin = chunk_begin<kWide>(lane, j);
    if (begin + kWide <= valid) {
      store_chunk<kWide>(strip + begin, v + j * kWide);
    } else {
      HOPPER_UNROLL
      for (int i = 0; i < kWide; ++i)
        if (begin + i < valid) store_value(strip + begin + i, v[j * kWide + i]);
    }
  }
}

}  // namespace rorqual::hopper
