#include "serve/block_pool.h"

#include <gtest/gtest.h>

#include <map>

#include "base/rng.h"
#include "kernels/attention/paged_attention.h"

namespace rorqual {
namespace {

std::vector<int32_t> tokens_of(int64_t blocks, int32_t first) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < blocks * kPageTokens; ++i) tokens.push_back(first + static_cast<int32_t>(i));
  return tokens;
}

std::vector<int32_t> fill(BlockPool& pool, const std::vector<int32_t>& tokens) {
  std::vector<int32_t> blocks;
  for (size_t at = 0; at < tokens.size(); at += kPageTokens) {
    blocks.push_back(pool.allocate().value());
    pool.publish(blocks.back(), at == 0 ? -1 : blocks[blocks.size() - 2], std::span(tokens).subspan(at, kPageTokens));
  }
  return blocks;
}

void release(BlockPool& pool, const std::vector<int32_t>& blocks) {
  for (size_t i = blocks.size(); i-- > 0;) pool.release(blocks[i]);
}

TEST(BlockPool, FindsTheLongestCommonBeginning) {
  BlockPool pool(8, true);
  const std::vector<int32_t> a = tokens_of(3, 0);
  const std::vector<int32_t> blocks = fill(pool, a);
  EXPECT_EQ(pool.used(), 3);
  release(pool, blocks);
  EXPECT_EQ(pool.used(), 0);
  std::vector<int32_t> b = a;
  b[static_cast<size_t>(2 * kPageTokens)] = -1;
  EXPECT_EQ(pool.match(b, 9), std::vector(blocks.begin(), blocks.begin() + 2));
  EXPECT_EQ(pool.used(), 2);
  EXPECT_EQ(pool.match(a, 1), std::vector(blocks.begin(), blocks.begin() + 1)) << "the limit";
  EXPECT_EQ(pool.peek(a, 9).blocks, 3);
  EXPECT_EQ(pool.peek(a, 9).used, 2);
  // The same 64 tokens behind others are other contents.
  const std::vector<int32_t> tail(a.begin() + kPageTokens, a.end());
  EXPECT_EQ(pool.peek(tail, 9).blocks, 0);
}

TEST(BlockPool, EvictsTheLeastRecentlyUsed) {
  BlockPool pool(3, true);
  const auto a = tokens_of(1, 0), b = tokens_of(1, 1000), c = tokens_of(1, 2000);
  for (const auto* t : {&a, &b, &c}) release(pool, fill(pool, *t));
  release(pool, pool.match(a, 1));
  const int32_t taken = pool.allocate().value();
  EXPECT_EQ(pool.peek(b, 1).blocks, 0) << "unused for longest";
  EXPECT_EQ(pool.peek(a, 1).blocks, 1);
  EXPECT_EQ(pool.peek(c, 1).blocks, 1);
  pool.match(a, 1);
  pool.match(c, 1);
  EXPECT_EQ(pool.allocate(), std::nullopt);
  pool.release(taken);
  EXPECT_EQ(pool.allocate(), taken);
}

TEST(BlockPool, KeepsNothingWithoutPrefixCache) {
  BlockPool pool(2, false);
  const auto a = tokens_of(1, 0);
  release(pool, fill(pool, a));
  EXPECT_EQ(pool.peek(a, 1).blocks, 0);
}

// Random users against a plain record of what each block holds: no block is lost, none has two owners by mistake, and a match
// gives blocks with just these contents.
TEST(BlockPool, RandomUse) {
  BlockPool pool(12, true);
  struct User {
    std::vector<int32_t> tokens, blocks;
  };
  std::vector<User> users;
  std::map<int32_t, std::vector<int32_t>> holds;  // block to all tokens up to its end
  auto draw = [n = uint64_t{0}](uint64_t below) mutable { return random_below({.seed = 4}, n++, below); };
  for (int round = 0; round < 20000; ++round) {
    if (draw(2) == 0 && !users.empty()) {
      const size_t i = draw(users.size());
      release(pool, users[i].blocks);
      users.erase(users.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      User u;
      for (uint64_t b = 0, n = 1 + draw(4); b < n; ++b) {
        const std::vector<int32_t> more = tokens_of(1, static_cast<int32_t>(1000 * draw(2)));
        u.tokens.insert(u.tokens.end(), more.begin(), more.end());
      }
      u.blocks = pool.match(u.tokens, 4);
      for (size_t i = 0; i < u.blocks.size(); ++i)
        ASSERT_EQ(holds[u.blocks[i]],
                  std::vector(u.tokens.begin(), u.tokens.begin() + static_cast<std::ptrdiff_t>((i + 1) * kPageTokens)));
      while (u.blocks.size() * kPageTokens < u.tokens.size()) {
        const auto block = pool.allocate();
        if (!block) break;
        for (const User& other : users)
          for (const int32_t theirs : other.blocks) ASSERT_NE(theirs, *block);
        const size_t at = u.blocks.size() * kPageTokens;
        u.blocks.push_back(*block);
        holds[*block] = std::vector(u.tokens.begin(), u.tokens.begin() + static_cast<std::ptrdiff_t>(at + kPageTokens));
        pool.publish(*block, at == 0 ? -1 : u.blocks[u.blocks.size() - 2], std::span(u.tokens).subspan(at, kPageTokens));
      }
      users.push_back(u);
    }
    std::map<int32_t, int> used;
    for (const User& u : users)
      for (const int32_t b : u.blocks) ++used[b];
    ASSERT_EQ(pool.used(), static_cast<int64_t>(used.size()));
  }
  for (const User& u : users) release(pool, u.blocks);
  EXPECT_EQ(pool.available(), 12);
}

}  // namespace
}  // namespace rorqual
