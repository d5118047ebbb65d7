// The blocks of the paged cache: 64 positions each, counted by their users, and kept after use for prompts that begin alike.
// Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace rorqual {

class BlockPool {
 public:
  // prefix_cache: contents outlive their users until their block is needed.
  BlockPool(int64_t blocks, bool prefix_cache);

  int64_t blocks() const { return static_cast<int64_t>(entries_.size()); }
  int64_t used() const { return used_; }                  // by somebody
  int64_t available() const { return blocks() - used_; }  // free, or cached and used by nobody

  // A block of unknown contents, used once; the least recently used cached one if none is free. None: all are used.
  std::optional<int32_t> allocate();
  void release(int32_t block);

  // The longest chain of published blocks, at most `limit`, whose contents `tokens` begin with; each is used once more.
  std::vector<int32_t> match(std::span<const int32_t> tokens, int64_t limit);
  // How many blocks match would give, and how many of these somebody uses already.
  struct Match {
    int64_t blocks = 0, used = 0;
  };
  Match peek(std::span<const int32_t> tokens, int64_t limit) const;

  // The block holds the keys of these 64 tokens, which follow what block `parent` holds (−1: nothing). A second block of the
  // same contents is not found by match, but may be a parent.
  void publish(int32_t block, int32_t parent, std::span<const int32_t> tokens);

 private:
  // Contents have numbers: a chain of tokens is named by the contents of its parent and its own 64 tokens.
  struct Entry {
    int64_t uses = 0;
    uint64_t contents = 0;  // 0: unknown
    bool listed = false;    // in index_
    uint64_t key = 0;       // in index_
    uint64_t parent = 0;    // contents
    uint64_t stamp = 0;     // of its last release
    std::vector<int32_t> tokens;
  };
  int32_t find(uint64_t parent, std::span<const int32_t> tokens) const;  // −1: none
  void forget(int32_t block);
  template <class Visit>
  void walk(std::span<const int32_t> tokens, int64_t limit, const Visit& visit) const;

  bool prefix_cache_;
  std::vector<Entry> entries_;
  std::vector<int32_t> free_;
  std::set<std::pair<uint64_t, int32_t>> idle_;  // listed, used by nobody: by stamp
  std::unordered_map<uint64_t, int32_t> index_;  // hash of (parent, tokens)
  uint64_t next_contents_ = 1, next_stamp_ = 1;
  int64_t used_ = 0;
};

}  // namespace rorqual
