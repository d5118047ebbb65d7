// How paged attention on Hopper is cut into items, and where their rows lie. Device code.
#pragma once

#include "hopper/device.h"
#include "kernels/attention/sm90a_paged_job.h"

namespace rorqual::attention::paged_sm90a {

struct Item {
  const int32_t* pages;  // of the part
  int page_count;        // 0: the tile's queries see nothing of this part
  int first_key;         // its position
  int keys;              // from there on, up to the tile's last query's own
  int part, parts;       // of the keys of this block's group
  int first_row;         // of the piece, of the group
  bool used;             // the group's queries see something of this part; if not, it goes along for nothing
  int piece;
};

// The first piece whose `end` lies beyond n.
template <class End>
HOPPER_DEVICE int find_piece(int count, int n, const End& end) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (end(middle) > n)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// Keys that the query of this row sees, from position 0; beyond the piece, those of its last query.
HOPPER_DEVICE int keys_of_row(const PagedJob& job, const PagedPiece& piece, int row) {
  const int query = row / job.padded_heads;
  return piece.position + (query < piece.queries ? query + 1 : piece.queries);
}

template <int kBlocks>
HOPPER_DEVICE Item item_of(const PagedJob& job, int n) {
  constexpr int kTileRows = kBlocks * kGroupRows;
  const bool whole = n < job.whole_items;
  if (!whole) n -= job.whole_items;
  const auto end = [&](int i) { return whole ? job.pieces[i].whole_end : job.pieces[i].tile_end; };
  Item item;
  item.piece = find_piece(job.count, n, end);
  const PagedPiece& piece = job.pieces[item.piece];
  n -= item.piece == 0 ? 0 : end(item.piece - 1);
  const int tiles = (piece.queries * job.padded_heads + kTileRows - 1) / kTileRows;
  item.part = whole ? n / tiles : parts_of(piece.position + piece.queries) - 1;
  item.first_key = item.part * kPartKeys;
  const int first_row = n % tiles * kTileRows;
  const int keys = keys_of_row(job, piece, first_row + kTileRows - 1) - item.first_key;
  item.keys = keys < kPartKeys ? keys : kPartKeys;
  item.page_count = keys > 0 ? (item.keys + kPageKeys - 1) / kPageKeys : 0;
  item.pages = piece.pages + item.part * kPartPages;
  item.first_row = first_row + (kBlocks == 1 ? 0 : hopper::cluster_rank() * kGroupRows);
  const int own_keys = keys_of_row(job, piece, item.first_row + kGroupRows - 1);
  item.parts = parts_of(own_keys);
  item.used = own_keys > item.first_key;
  return item;
}

// Calls body(item) for the items of this block's cluster. They come longest first (nearly): every second round goes backwards,
// so that nobody gets the longest of each.
template <int kBlocks, class Body>
HOPPER_DEVICE void for_items(const PagedJob& job, const Body& body) {
  const int clusters = hopper::block_count() / kBlocks, cluster = hopper::block_index() / kBlocks;
  for (int round = 0; round * clusters < job.items; ++round) {
    const int n = round * clusters + (round % 2 == 0 ? cluster : clusters - 1 - cluster);
    if (n >= job.items) continue;
    const Item item = item_of<kBlocks>(job, n);
    if (item.page_count > 0) body(item);
  }
}

struct Row {
  int query, head;
  bool used;  // neither padding nor beyond the piece
};
HOPPER_DEVICE Row row_of(const PagedJob& job, const PagedPiece& piece, int row) {
  const int query = row / job.padded_heads, head = row % job.padded_heads;
  return {query, head, query < piece.queries && head < job.heads};
}
HOPPER_DEVICE int64_t partial_row(const PagedJob& job, const PagedPiece& piece, int part, int row) {
  return int64_t{piece.partial_begin} + int64_t{part} * piece.queries * job.padded_heads + row;
}

}  // namespace rorqual::attention::paged_sm90a
