#include "data/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>

#include "base/error.h"

namespace rorqual {

BpeModel::BpeModel(const std::array<int32_t, 256>& byte_tokens, std::vector<BpeMerge> merges, int64_t* duplicate)
    : byte_tokens_(byte_tokens), merges_(std::move(merges)) {
  CHECK(merges_.size() < (size_t{1} << 30), "{} merges", merges_.size());
  const size_t slots = std::bit_ceil(2 * merges_.size() + 2);
  slots_.resize(slots);
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
  if (duplicate != nullptr) *duplicate = -1;
  for (size_t rank = 0; rank < merges_.size(); ++rank) {
    const BpeMerge& merge = merges_[rank];
    const Slot& found = find(merge.left, merge.right);
    if (found.rank != kNoRank) {
      CHECK(duplicate != nullptr, "two merges of {} and {}", merge.left, merge.right);
      *duplicate = static_cast<int64_t>(rank);
      return;
    }
    slots_[&found - slots_.data()] = {pair_key(merge.left, merge.right), static_cast<uint32_t>(rank), merge.result};
  }
}

void BpeModel::encode(std::string_view piece, std::vector<int32_t>& out) const {
  if (piece.size() == 1) {
    out.push_back(byte_tokens_[static_cast<uint8_t>(piece[0])]);
  } else if (piece.size() <= kShortBytes) {
    encode_short(piece, out);
  } else {
    encode_long(piece, out);
  }
}

// Looks through all ranks for each merge and closes the gap: cheaper than a heap where everything fits a few cache lines.
void BpeModel::encode_short(std::string_view piece, std::vector<int32_t>& out) const {
  int32_t tokens[kShortBytes];
  const Slot* joins[kShortBytes];  // of tokens i and i + 1
  uint32_t ranks[kShortBytes];
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) tokens[i] = byte_tokens_[static_cast<uint8_t>(piece[i])];
  const auto look_up = [&](size_t i) {
    joins[i] = &find(tokens[i], tokens[i + 1]);
    ranks[i] = joins[i]->rank;
  };
  for (size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    const size_t at = static_cast<size_t>(std::min_element(ranks, ranks + count - 1) - ranks);
    if (ranks[at] == kNoRank) break;
    tokens[at] = joins[at]->result;
    std::copy(tokens + at + 2, tokens + count, tokens + at + 1);
    std::copy(joins + at + 1, joins + count - 1, joins + at);
    std::copy(ranks + at + 1, ranks + count - 1, ranks + at);
    --count;
    if (at > 0) look_up(at - 1);
    if (at + 1 < count) look_up(at);
  }
  out.insert(out.end(), tokens, tokens + count);
}

// A linked list of tokens and a heap of (rank, position). An entry is stale where the rank at its position has changed.
void BpeModel::encode_long(std::string_view piece, std::vector<int32_t>& out) const {
  CHECK(piece.size() < UINT32_MAX, "a piece of {} bytes", piece.size());
  struct Node {
    int32_t token;
    uint32_t previous, next;
    uint32_t rank;  // of merging with the next one
  };
  constexpr uint32_t kEnd = UINT32_MAX;
  const auto size = static_cast<uint32_t>(piece.size());
  std::vector<Node> nodes(size);
  for (uint32_t i = 0; i < size; ++i) {
    nodes[i] = {byte_tokens_[static_cast<uint8_t>(piece[i])], i == 0 ? kEnd : i - 1, i + 1 == size ? kEnd : i + 1, kNoRank};
  }
  std::vector<uint64_t> initial;
  initial.reserve(size);
  for (uint32_t i = 0; i + 1 < size; ++i) {
    nodes[i].rank = find(nodes[i].token, nodes[i + 1].token).rank;
    if (nodes[i].rank != kNoRank) initial.push_back(static_cast<uint64_t>(nodes[i].rank) << 32 | i);
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue(std::greater<>(), std::move(initial));
  const auto look_up = [&](uint32_t i) {
    const uint32_t next = nodes[i].next;
    nodes[i].rank = next == kEnd ? kNoRank : find(nodes[i].token, nodes[next].token).rank;
    if (nodes[i].rank != kNoRank) queue.push(static_cast<uint64_t>(nodes[i].rank) << 32 | i);
  };
  while (!queue.empty()) {
    const auto rank = static_cast<uint32_t>(queue.top() >> 32);
    const auto at = static_cast<uint32_t>(queue.top());
    queue.pop();
    Node& node = nodes[at];
    if (node.rank != rank) continue;
    Node& gone = nodes[node.next];
    node.token = merges_[rank].result;
    node.next = gone.next;
    gone.rank = kNoRank;
    if (node.next != kEnd) nodes[node.next].previous = at;
    look_up(at);
    if (node.previous != kEnd) look_up(node.previous);
  }
  for (uint32_t i = 0; i != kEnd; i = nodes[i].next) out.push_back(nodes[i].token);
}

}  // namespace rorqual
