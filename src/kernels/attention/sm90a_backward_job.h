// What sm90a_backward.cc hands to the kernels of sm90a_backward*.cu.
#pragma once

#include <cstdint>

#include "hopper/launch.h"
#include "hopper/types.h"
#include "kernels/attention/sm90a_sizes.h"

namespace rorqual::attention::backward_sm90a {

inline constexpr int kQueries = 64, kKeys = 128;    // of a tile
inline constexpr int kMostSequences = 128;          // of a launch
inline constexpr int kTileSums = kQueries * kHead;  // of dq: elements that a tile of queries has in scratch
inline constexpr int kSumColumns = 128;             // a tile of them as the copy engine sees it: rows of this length …
inline constexpr int kSumRows = kTileSums / kSumColumns;

// Rows of one sequence; tiles count from its first row. Scratch is ordered by tiles, those of all sequences of the call behind
// one another.
struct Sequence {
  int q_begin, k_begin;  // rows
  int queries, keys;     // keys ≥ queries: query i sees keys up to keys - queries + i
  int q_tile, k_tile;    // of its first rows among those of the call
};
HOPPER_BOTH constexpr int tiles_of(int rows, int tile) {
  return (rows + tile - 1) / tile;
}

struct Rows {
  const uint16_t* data;
  int64_t stride;       // elements
  int64_t head_stride;  // elements
};
struct MutableRows {
  uint16_t* data;
  int64_t stride, head_stride;
};

// Lowest and highest first key of a tile's queries.
struct Starts {
  int lowest, highest;
};

// Scratch. Rows of tiles that lie behind a sequence's end have lse2 = ∞, so that their weights are 0.
struct Scratch {
  float* lse2;           // [heads, q_tiles·64] log-sum-exp · log2(e)
  float* delta;          // [heads, q_tiles·64] Σ o·do
  int* start;            // [q_tiles·64] first key that the query sees, counted in its sequence
  Starts* starts;        // [q_tiles]; unset without segments
  int* turn;             // [heads, q_tiles] how many tiles of keys have been added to the tile's dq
  float* d_q;            // [heads, q_tiles, 64·192] without scale, in the order of the registers that sum it
  float* d_k_rope;       // [heads, k_tiles·128, 64] without scale, of each head
  int q_tiles, k_tiles;  // of the call
};

struct Job {
  hopper::TensorMap q_map, d_o_map, k_map, k_rope_map, v_map;  // boxes of 64 columns by a tile's rows, swizzled
  hopper::TensorMap d_q_map;                                   // scratch's dq as rows of kSumColumns; a box is a tile
  Rows q, k, k_rope, v, o, d_o;
  MutableRows d_q, d_k, d_v, d_k_rope;
  const float* lse;
  int64_t lse_stride;
  const int64_t* segment_start;  // or null
  float scale, scale_log2e;
  int heads;
  Scratch scratch;
  int sequences;
  Sequence sequence[kMostSequences];  // of this launch
};

// In this order. prepare: lse2, delta, start, turn. main: d_k, d_v; dq and d_k_rope into scratch. finish_*: those of scratch.
void launch_prepare(const Job& job, hopper::DeviceStream stream);
void launch_main(const Job& job, hopper::DeviceStream stream);
void launch_finish_queries(const Job& job, hopper::DeviceStream stream);
void launch_finish_rope(const Job& job, hopper::DeviceStream stream);

}  // namespace rorqual::attention::backward_sm90a
