// What the host side of paged attention on Hopper hands to its kernels.
#pragma once

#include <cstdint>

#include "hopper/launch.h"
#include "hopper/tensor_map.h"
#include "hopper/types.h"

namespace rorqual::attention::paged_sm90a {

inline constexpr int kLatent = 512, kQkDim = 576;  // of absorbed MLA: a value is the key's first 512 columns
inline constexpr int kMostHeads = 128;
inline constexpr float kMinusInfinity = -__builtin_huge_valf();
inline constexpr int kPageKeys = 64;
inline constexpr int kGroupRows = 64;  // (query, head) pairs of a tensor-core tile
// A query's keys are summed up in parts of so many pages, counted from position 0, then the parts in ascending order. Shorter
// parts occupy more multiprocessors when sequences are few; each part of 64 rows costs 256 KiB of traffic to 2.3 MiB of keys.
inline constexpr int kPartPages = 32;
inline constexpr int kPartKeys = kPartPages * kPageKeys;

HOPPER_BOTH constexpr int parts_of(int keys) {
  return (keys + kPartKeys - 1) / kPartKeys;
}

// Some consecutive queries of a sequence. Their rows are (query, head) pairs, heads padded to PagedJob::padded_heads, in groups
// of 64, one for a block. The groups of a cluster are a tile; a tile and a part of its keys are an item of work. Items are
// numbered: first the whole parts of all pieces (in a piece part by part), then the last parts, one for each tile.
struct PagedPiece {
  const int32_t* pages;
  int32_t q_begin, queries, position;
  int32_t whole_end;      // one past the piece's last item with a whole part
  int32_t tile_end;       // one past its last tile, counted over all pieces
  int32_t partial_begin;  // first row of its partial sums, if it has several parts: [part][row]
};

inline constexpr int kMostPieces = 960;  // what kernel parameters hold

struct PagedJob {
  hopper::TensorMap q;      // [rows][heads, 576], boxes of q_box_rows heads and 64 columns
  hopper::TensorMap cache;  // [pages·64, 576], boxes of 64 / cluster rows and 64 columns
  uint16_t* o;
  int64_t o_stride;
  float* partial_o;                // [partial rows, 512], not yet divided by the sum of weights
  hopper::Float2* partial_weight;  // [partial rows]: the exponent (of 2) that was taken out of the weights, and their sum
  float scale_log2e;
  int32_t q_rows;
  int32_t heads, padded_heads;
  int32_t q_box_rows;  // divides padded_heads and 64
  int32_t whole_items, items, tiles, count;
  int32_t cluster;  // 1 block, or 2 that copy each page together
  PagedPiece pieces[kMostPieces];
};
static_assert(sizeof(PagedJob) <= 32000);

void launch_paged_attention(const PagedJob& job, int multiprocessors, hopper::DeviceStream stream);
// Afterwards, if any piece has several parts.
void launch_combine_parts(const PagedJob& job, hopper::DeviceStream stream);

// Copies of rows of `words` 16-byte words.
struct WritePiece {
  const int32_t* pages;
  int32_t q_begin, position;
  int32_t row_end;  // one past its last row, counted over all pieces
};
inline constexpr int kMostWritePieces = 1300;

struct WritePagesJob {
  const hopper::Words4* rows;
  hopper::Words4* cache;
  int64_t row_stride, cache_stride;  // in words
  int32_t words;
  int32_t row_count, count;
  WritePiece pieces[kMostWritePieces];
};
static_assert(sizeof(WritePagesJob) <= 32000);

void launch_write_pages(const WritePagesJob& job, hopper::DeviceStream stream);

}  // namespace rorqual::attention::paged_sm90a
