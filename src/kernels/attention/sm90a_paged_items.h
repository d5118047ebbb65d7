// How paged attention on Hopper is cut into items, and where their rows lie. Device code.
#pragma once

#include "hopper/device.h"
#include "kernels/attention/sm90a_paged_job.h"

namespace rorqual::attention {

struct Item {
  const int32_t* pages;  // of the part
  int page_count;        // 0: the group's queries see nothing of this part
  int first_key;         // its position
  int keys;              // from there on, up to the last query's own
  int part, parts;       // of the group's keys
  int first_row;         // of the piece, of the group
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

// Keys that the last query of the group sees, from position 0.
HOPPER_DEVICE int keys_of_group(const PagedJob& job, const PagedPiece& piece, int first_row) {
  const int last = (first_row + kGroupRows - 1) / job.padded_heads;
  return piece.position + (last < piece.queries ? last + 1 : piece.queries);
}

HOPPER_DEVICE Item item_of(const PagedJob& job, int n) {
  const bool whole = n < job.whole_items;
  if (!whole) n -= job.whole_items;
  const auto end = [&](int i) { return whole ? job.pieces[i].whole_end : job.pieces[i].group_end; };
  Item item;
  item.piece = find_piece(job.count, n, end);
  const PagedPiece& piece = job.pieces[item.piece];
  n -= item.piece == 0 ? 0 : end(item.piece - 1);
  const int groups = (piece.queries * job.padded_heads + kGroupRows - 1) / kGroupRows;
  item.part = whole ? n / groups : parts_of(piece.position + piece.queries) - 1;
  item.first_row = n % groups * kGroupRows;
  item.first_key = item.part * kPartKeys;
  const int keys = keys_of_group(job, piece, item.first_row);
  item.parts = parts_of(keys);
  item.keys = keys - item.first_key < kPartKeys ? keys - item.first_key : kPartKeys;
  item.page_count = item.keys > 0 ? (item.keys + kPageKeys - 1) / kPageKeys : 0;
  item.pages = piece.pages + item.part * kPartPages;
  return item;
}

// Calls body(item) for the items of this block. They come longest first (nearly): every second round goes backwards, so that
// no block gets the longest of each.
template <class Body>
HOPPER_DEVICE void for_items(const PagedJob& job, const Body& body) {
  const int blocks = hopper::block_count(), b = hopper::block_index();
  for (int round = 0; round * blocks < job.items; ++round) {
    const int n = round * blocks + (round % 2 == 0 ? b : blocks - 1 - b);
    if (n >= job.items) continue;
    const Item item = item_of(job, n);
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

}  // namespace rorqual::attention
