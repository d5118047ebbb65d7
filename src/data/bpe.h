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
  static constexpr uint32_t kNoRank = UINT32_MAX;
  static constexpr size_t kShortBytes = 48;
  struct Slot {
    uint64_t pair = UINT64_MAX;
    uint32_t rank = kNoRank;
    int32_t result = -1;
  };

  static uint64_t pair_key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t home(uint64_t pair) const { return static_cast<size_t>((pair * 0x9E3779B97F4A7C15u) >> shift_); }
  // The slot of the pair, or an empty one with kNoRank.
  const Slot& find(int32_t left, int32_t right) const {
    const uint64_t pair = pair_key(left, right);
    size_t i = home(pair);
    while (slots_[i].pair != pair && slots_[i].rank != kNoRank) i = (i + 1) & mask_;
    return slots_[i];
  }
  void encode_short(std::string_view piece, std::vector<int32_t>& out) const;
  void encode_long(std::string_view piece, std::vector<int32_t>& out) const;

  std::array<int32_t, 256> byte_tokens_;
  std::vector<BpeMerge> merges_;
  std::vector<Slot> slots_;
  size_t mask_ = 0;
  int shift_ = 63;
};

}  // namespace rorqual
