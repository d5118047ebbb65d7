// What sm90a_forward.cc hands to the kernel of sm90a_forward.cu.
#pragma once

#include <cstdint>

#include "hopper/launch.h"
#include "hopper/types.h"
#include "kernels/attention/sm90a_sizes.h"

namespace rorqual::attention::forward_sm90a {

inline constexpr int kQueries = 128, kKeys = 128;  // of a tile
inline constexpr int kMostSequences = 40;          // of a launch

// One sequence. The maps begin with its first row and end with its last one: rows behind read as zero. Boxes of 64 columns and
// a tile's rows, swizzled.
struct Sequence {
  hopper::TensorMap q, k, k_rope, v;
  int q_begin, k_begin;  // rows
  int queries, keys;     // keys ≥ queries > 0: query i sees keys up to keys - queries + i
  bool paired;           // a block takes a heavy tile of queries and a light one together
};
HOPPER_BOTH constexpr int tiles_of(int rows, int tile) {
  return (rows + tile - 1) / tile;
}
// What blocks take at a time, per head.
HOPPER_BOTH constexpr int units_of(const Sequence& s) {
  const int tiles = tiles_of(s.queries, kQueries);
  return s.paired ? (tiles + 1) / 2 : tiles;
}

struct Job {
  uint16_t* o;
  int64_t o_stride;
  float* lse;  // or null
  int64_t lse_stride;
  const int64_t* segment_start;  // or null
  float scale, scale_log2e;
  int heads;
  int k_head_stride, v_head_stride;
  int sequences;
  Sequence sequence[kMostSequences];
};
static_assert(sizeof(Job) <= 32000, "kernels take at most 32,000 bytes of parameters");

void launch(const Job& job, int blocks, hopper::DeviceStream stream);

}  // namespace rorqual::attention::forward_sm90a
