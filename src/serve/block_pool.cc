#include "serve/block_pool.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "kernels/attention/paged_attention.h"

namespace rorqual {
namespace {

uint64_t key_of(uint64_t parent, std::span<const int32_t> tokens) {
  return hash_bytes(tokens.data(), static_cast<int64_t>(tokens.size_bytes()), parent);
}

}  // namespace

BlockPool::BlockPool(int64_t blocks, bool prefix_cache) : prefix_cache_(prefix_cache), entries_(static_cast<size_t>(blocks)) {
  for (int64_t i = blocks; i-- > 0;) free_.push_back(static_cast<int32_t>(i));
}

std::optional<int32_t> BlockPool::allocate() {
  int32_t block = -1;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (!idle_.empty()) {
    block = idle_.begin()->second;
    idle_.erase(idle_.begin());
    forget(block);
  } else {
    return std::nullopt;
  }
  entries_[static_cast<size_t>(block)].uses = 1;
  ++used_;
  return block;
}

void BlockPool::forget(int32_t block) {
  Entry& e = entries_[static_cast<size_t>(block)];
  if (e.listed) index_.erase(e.key);
  e.listed = false;
  e.contents = 0;
}

void BlockPool::release(int32_t block) {
  Entry& e = entries_[static_cast<size_t>(block)];
  CHECK(e.uses > 0, "block {} is not in use", block);
  if (--e.uses > 0) return;
  --used_;
  if (e.listed) {
    e.stamp = next_stamp_++;
    idle_.emplace(e.stamp, block);
    return;
  }
  e.contents = 0;
  free_.push_back(block);
}

int32_t BlockPool::find(uint64_t parent, std::span<const int32_t> tokens) const {
  const auto found = index_.find(key_of(parent, tokens));
  if (found == index_.end()) return -1;
  const Entry& e = entries_[static_cast<size_t>(found->second)];
  return e.parent == parent && std::equal(tokens.begin(), tokens.end(), e.tokens.begin(), e.tokens.end()) ? found->second : -1;
}

template <class Visit>
void BlockPool::walk(std::span<const int32_t> tokens, int64_t limit, const Visit& visit) const {
  uint64_t parent = 0;
  for (int64_t i = 0; i < limit && (i + 1) * kPageTokens <= static_cast<int64_t>(tokens.size()); ++i) {
    const int32_t block = find(parent, tokens.subspan(static_cast<size_t>(i * kPageTokens), kPageTokens));
    if (block < 0) return;
    visit(block);
    parent = entries_[static_cast<size_t>(block)].contents;
  }
}

BlockPool::Match BlockPool::peek(std::span<const int32_t> tokens, int64_t limit) const {
  Match m;
  walk(tokens, limit, [&](int32_t block) {
    ++m.blocks;
    if (entries_[static_cast<size_t>(block)].uses > 0) ++m.used;
  });
  return m;
}

std::vector<int32_t> BlockPool::match(std::span<const int32_t> tokens, int64_t limit) {
  std::vector<int32_t> chain;
  walk(tokens, limit, [&](int32_t block) { chain.push_back(block); });
  for (const int32_t block : chain) {
    Entry& e = entries_[static_cast<size_t>(block)];
    if (e.uses++ > 0) continue;
    ++used_;
    idle_.erase({e.stamp, block});
  }
  return chain;
}

void BlockPool::publish(int32_t block, int32_t parent, std::span<const int32_t> tokens) {
  CHECK(static_cast<int64_t>(tokens.size()) == kPageTokens);
  if (!prefix_cache_) return;
  Entry& e = entries_[static_cast<size_t>(block)];
  const uint64_t before = parent < 0 ? 0 : entries_[static_cast<size_t>(parent)].contents;
  if (e.contents != 0 || (parent >= 0 && before == 0)) return;
  if (const int32_t same = find(before, tokens); same >= 0) {
    e.contents = entries_[static_cast<size_t>(same)].contents;
    return;
  }
  e.contents = next_contents_++;
  e.key = key_of(before, tokens);
  e.parent = before;
  e.tokens.assign(tokens.begin(), tokens.end());
  e.listed = index_.emplace(e.key, block).second;  // another chain of the same hash stays
}

}  // namespace rorqual
