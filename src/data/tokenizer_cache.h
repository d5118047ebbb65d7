// A thread's memory of what pieces encode to. Bounded: one entry per slot, the last one stays.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace rorqual {

class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 23;
  static constexpr size_t kMaxIds = 9;

  // The piece's bytes, zeros, and its length in the last byte. An empty slot has length 0.
  struct Key {
    uint64_t words[3] = {};
    bool operator==(const Key&) const = default;
  };
  struct alignas(64) Entry {
    Key key;
    int32_t count = 0;
    int32_t ids[kMaxIds] = {};
  };
  static_assert(sizeof(Entry) == 64);

  // For pieces above kMaxBytes up to kMaxLongBytes: ruled lines, indentation, long names.
  static constexpr size_t kMaxLongBytes = 256;
  struct LongEntry {
    std::string piece;
    std::vector<int32_t> ids;
  };

  // Empties the cache unless it already serves this tokenizer.
  void serve(uint64_t instance) {
    if (instance_ == instance) return;
    entries_ = std::make_unique<Entry[]>(size_t{1} << kSlotBits);
    long_entries_ = std::make_unique<LongEntry[]>(size_t{1} << kLongSlotBits);
    instance_ = instance;
  }

  // `size` from 1 to kMaxBytes. Reads whole words where `end` allows it.
  static Key make_key(const char* p, size_t size, const char* end) {
    Key key;
    if (static_cast<size_t>(end - p) >= sizeof(Key)) {
      std::memcpy(key.words, p, sizeof(Key));
      const size_t full = size / 8;
      const uint64_t partial = (uint64_t{1} << (size % 8 * 8)) - 1;
      key.words[0] &= full > 0 ? ~uint64_t{0} : partial;
      key.words[1] &= full > 1 ? ~uint64_t{0} : (full == 1 ? partial : 0);
      key.words[2] &= full == 2 ? partial : 0;
    } else {
      std::memcpy(key.words, p, size);
    }
    key.words[2] |= static_cast<uint64_t>(size) << 56;
    return key;
  }

  Entry& entry(const Key& key) {
    uint64_t hash =
        key.words[0] * 0x9E3779B97F4A7C15u ^ key.words[1] * 0xC2B2AE3D27D4EB4Fu ^ key.words[2] * 0x165667B19E3779F9u;
    hash ^= hash >> 32;
    hash *= 0xD6E8FEB86659FD93u;
    return entries_[hash >> (64 - kSlotBits)];
  }

  LongEntry& long_entry(std::string_view piece) {
    return long_entries_[hash_bytes(piece.data(), static_cast<int64_t>(piece.size())) >> (64 - kLongSlotBits)];
  }

 private:
  static constexpr int kSlotBits = 16;      // 4 MiB
  static constexpr int kLongSlotBits = 12;  // 4096 × at most about 1.5 KiB

  std::unique_ptr<Entry[]> entries_;
  std::unique_ptr<LongEntry[]> long_entries_;
  uint64_t instance_ = 0;
};

}  // namespace rorqual
