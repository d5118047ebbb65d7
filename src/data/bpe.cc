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
  const size_t slots = std::bit_ceil(std::max<size_t>(2 * merges_.size() + 2, 64));
  slots_.resize(slots);
  slot_shift_ = 64 - std::countr_zero(slots);
  filter_.resize(slots * 4 / 64);
  filter_shift_ = slot_shift_ - 2;
  if (duplicate != nullptr) *duplicate = -1;
  for (size_t rank = 0; rank < merges_.size(); ++rank) {
    const BpeMerge& merge = merges_[rank];
    const uint64_t hash = hash_of(merge.left, merge.right);
    const Slot& found = find(hash);
    if (found.join != kNoJoin) {
      CHECK(duplicate != nullptr, "two merges of {} and {}", merge.left, merge.right);
      *duplicate = static_cast<int64_t>(rank);
      return;
    }
    slots_[static_cast<size_t>(&found - slots_.data())] = {hash, rank << 32 | static_cast<uint32_t>(merge.result)};
    const uint64_t bit = hash >> filter_shift_;
    filter_[bit / 64] |= uint64_t{1} << (bit % 64);
  }
  byte_joins_.resize(size_t{1} << 16);
  for (size_t pair = 0; pair < byte_joins_.size(); ++pair) {
    byte_joins_[pair] = join_of(byte_tokens_[pair >> 8], byte_tokens_[pair & 255]);
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

// Looks through all joins for each merge and closes the gap: cheaper than a heap where everything fits a few cache lines.
void BpeModel::encode_short(std::string_view piece, std::vector<int32_t>& out) const {
  int32_t tokens[kShortBytes];
  Join joins[kShortBytes];  // of tokens i and i + 1
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) tokens[i] = byte_tokens_[static_cast<uint8_t>(piece[i])];
  for (size_t i = 0; i + 1 < count; ++i) joins[i] = join_of_bytes(piece[i], piece[i + 1]);
  while (count > 1) {
    size_t at = 0;
    for (size_t i = 1; i + 1 < count; ++i) at = joins[i] < joins[at] ? i : at;
    if (joins[at] == kNoJoin) break;
    tokens[at] = static_cast<int32_t>(joins[at]);
    --count;
    for (size_t i = at + 1; i < count; ++i) tokens[i] = tokens[i + 1];
    for (size_t i = at; i + 1 < count; ++i) joins[i] = joins[i + 1];
    if (at > 0) joins[at - 1] = join_of(tokens[at - 1], tokens[at]);
    if (at + 1 < count) joins[at] = join_of(tokens[at], tokens[at + 1]);
  }
  out.insert(out.end(), tokens, tokens + count);
}

// A linked list of tokens and a heap of (rank, position). An entry is stale where the rank at its position has changed.
void BpeModel::encode_long(std::string_view piece, std::vector<int32_t>& out) const {
  CHECK(piece.size() < UINT32_MAX, "a piece of {} bytes", piece.size());
  struct Node {
    int32_t token;
    uint32_t previous, next;
    Join join;  // with the next one
  };
  constexpr uint32_t kEnd = UINT32_MAX;
  const auto size = static_cast<uint32_t>(piece.size());
  std::vector<Node> nodes(size);
  for (uint32_t i = 0; i < size; ++i) {
    nodes[i] = {byte_tokens_[static_cast<uint8_t>(piece[i])], i == 0 ? kEnd : i - 1, i + 1 == size ? kEnd : i + 1, kNoJoin};
  }
  std::vector<uint64_t> initial;
  initial.reserve(size);
  for (uint32_t i = 0; i + 1 < size; ++i) {
    nodes[i].join = join_of_bytes(piece[i], piece[i + 1]);
    if (nodes[i].join != kNoJoin) initial.push_back(nodes[i].join >> 32 << 32 | i);
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue(std::greater<>(), std::move(initial));
  const auto look_up = [&](uint32_t i) {
    const uint32_t next = nodes[i].next;
    nodes[i].join = next == kEnd ? kNoJoin : join_of(nodes[i].token, nodes[next].token);
    if (nodes[i].join != kNoJoin) queue.push(nodes[i].join >> 32 << 32 | i);
  };
  while (!queue.empty()) {
    const uint64_t rank = queue.top() >> 32;
    const auto at = static_cast<uint32_t>(queue.top());
    queue.pop();
    Node& node = nodes[at];
    if (node.join >> 32 != rank) continue;
    Node& gone = nodes[node.next];
    node.token = static_cast<int32_t>(node.join);
    node.next = gone.next;
    gone.join = kNoJoin;
    if (node.next != kEnd) nodes[node.next].previous = at;
    look_up(at);
    if (node.previous != kEnd) look_up(node.previous);
  }
  for (uint32_t i = 0; i != kEnd; i = nodes[i].next) out.push_back(nodes[i].token);
}

}  // namespace rorqual
