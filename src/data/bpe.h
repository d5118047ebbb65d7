// Byte-level BPE inside one pre-token: which pairs merge, in which order, and the merging itself.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace rorqual {

// Joins two neighbouring tokens. Its rank is its index in the list: the lowest rank that occurs in a piece goes first, the
// leftmost of equal ones.
struct BpeMerge {
  int32_t left, right, result;
  bool operator==(const BpeMerge&) const = default;
};

class BpeModel {
 public:
  // byte_tokens[b] is the token of byte b. No two merges may have the same pair (returns the index of the second one through
  // `duplicate`, -1 for none).
  BpeModel(const std::array<int32_t, 256>& byte_tokens, std::vector<BpeMerge> merges, int64_t* duplicate = nullptr);

  // Appends the tokens of one piece. O(n log n) for long pieces, quadratic with a tiny constant for short ones.
  void encode(std::string_view piece, std::vector<int32_t>& out) const;

  const std::vector<BpeMerge>& merges() const { return merges_; }
  int32_t byte_token(uint8_t byte) const { return byte_tokens_[byte]; }

 private:
  // A merge that a pair can make: rank in the upper half, resulting token in the lower one; the smallest goes first.
  using Join = uint64_t;
  static constexpr Join kNoJoin = UINT64_MAX;
  static constexpr size_t kShortBytes = 48;
  struct Slot {
    uint64_t pair = 0;
    Join join = kNoJoin;  // of an empty slot
  };

  static uint64_t hash_of(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right)) * 0x9E3779B97F4A7C15u;
  }
  // The slot of the pair, or the empty one where it would stand. The hash is one to one, so it stands for the pair.
  const Slot& find(uint64_t hash) const {
    size_t i = static_cast<size_t>(hash >> slot_shift_);
    while (slots_[i].pair != hash && slots_[i].join != kNoJoin) i = (i + 1) & (slots_.size() - 1);
    return slots_[i];
  }
  Join join_of(int32_t left, int32_t right) const {
    const uint64_t hash = hash_of(left, right);
    const uint64_t bit = hash >> filter_shift_;
    if ((filter_[bit / 64] >> (bit % 64) & 1) == 0) return kNoJoin;
    return find(hash).join;
  }
  Join join_of_bytes(char left, char right) const {
    return byte_joins_[static_cast<size_t>(static_cast<uint8_t>(left)) << 8 | static_cast<uint8_t>(right)];
  }
  void encode_short(std::string_view piece, std::vector<int32_t>& out) const;
  void encode_long(std::string_view piece, std::vector<int32_t>& out) const;

  std::array<int32_t, 256> byte_tokens_;
  std::vector<BpeMerge> merges_;
  std::vector<Slot> slots_;  // open addressing; a power of two
  int slot_shift_ = 0;
  // Most pairs make nothing. One bit for each hash says so without touching slots_, whose lines are seldom in the cache.
  std::vector<uint64_t> filter_;
  int filter_shift_ = 0;
  std::vector<Join> byte_joins_;  // of all pairs of bytes
};

}  // namespace rorqual
