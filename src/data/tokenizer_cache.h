// A thread's memory of what pieces encode to. Bounded: the pieces of a set that were seen last stay.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"

namespace rorqual {

class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 15;
  static constexpr size_t kMaxIds = 4;

  // The piece's bytes, zeros, and its length in the last byte. An empty entry has length 0.
  struct Key {
    uint64_t low = 0, high = 0;
    bool operator==(const Key&) const = default;
  };
  struct Entry {
    Key key;
    int32_t ids[kMaxIds] = {};  // -1 behind the last one
    size_t count() const { return size_t{1} + (ids[1] >= 0) + (ids[2] >= 0) + (ids[3] >= 0); }
  };
  // A line of the CPU's cache. What was seen again stands first; a new piece takes the second place, so that pieces that occur
  // once do not drive out those that occur often.
  struct alignas(64) Set {
    Entry first, second;
  };
  static_assert(sizeof(Set) == 64);

  // For pieces with more bytes (up to kMaxLongBytes) or more ids: ruled lines, indentation, long names.
  static constexpr size_t kMaxLongBytes = 256;
  struct LongEntry {
    std::string piece;
    std::vector<int32_t> ids;
  };

  // Empties the cache unless it already serves this tokenizer.
  void serve(uint64_t instance) {
    if (instance_ == instance) return;
    sets_ = std::make_unique<Set[]>(size_t{1} << kSetBits);
    long_entries_ = std::make_unique<LongEntry[]>(size_t{1} << kLongSlotBits);
    instance_ = instance;
  }

  // `size` from 1 to kMaxBytes. Reads whole words where `end` allows it.
  static Key make_key(const char* p, size_t size, const char* end) {
    Key key;
    if (static_cast<size_t>(end - p) >= sizeof(Key)) {
      std::memcpy(&key, p, sizeof(Key));
      const uint64_t partial = (uint64_t{1} << (size % 8 * 8)) - 1;
      key.low &= size < 8 ? partial : ~uint64_t{0};
      key.high &= size < 8 ? 0 : partial;
    } else {
      char bytes[sizeof(Key)] = {};
      std::memcpy(bytes, p, size);
      std::memcpy(&key, bytes, sizeof(Key));
    }
    key.high |= static_cast<uint64_t>(size) << 56;
    return key;
  }

  Set& set(const Key& key) {
    uint64_t hash = key.low * 0x9E3779B97F4A7C15u ^ key.high * 0xC2B2AE3D27D4EB4Fu;
    hash ^= hash >> 32;
    hash *= 0xD6E8FEB86659FD93u;
    return sets_[hash >> (64 - kSetBits)];
  }

  // The entry of the key in its set, or null.
  static const Entry* find(Set& set, const Key& key) {
    if (set.first.key == key) return &set.first;
    if (set.second.key != key) return nullptr;
    std::swap(set.first, set.second);
    return &set.first;
  }

  LongEntry& long_entry(std::string_view piece) {
    return long_entries_[hash_bytes(piece.data(), static_cast<int64_t>(piece.size())) >> (64 - kLongSlotBits)];
  }

 private:
  static constexpr int kSetBits = 16;       // 4 MiB
  static constexpr int kLongSlotBits = 13;  // 8192 × at most about 1.5 KiB

  std::unique_ptr<Set[]> sets_;
  std::unique_ptr<LongEntry[]> long_entries_;
  uint64_t instance_ = 0;
};

}  // namespace rorqual
