#include "tensor/arena.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>

// A refused allocation returns null under the sanitizers too, as it does without them.
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}
extern "C" const char* __tsan_default_options() {
  return "allocator_may_return_null=1";
}

namespace rorqual {
namespace {

int64_t now(const MemoryUse& use, MemoryClass c) {
  return use.now[static_cast<size_t>(c)];
}
int64_t peak(const MemoryUse& use, MemoryClass c) {
  return use.peak[static_cast<size_t>(c)];
}

TEST(Arena, EveryClassHasItsOwnName) {
  std::set<std::string_view> names;
  for (int c = 0; c < kMemoryClasses; ++c) names.insert(memory_class_name(static_cast<MemoryClass>(c)));
  EXPECT_EQ(names.size(), static_cast<size_t>(kMemoryClasses));
  EXPECT_EQ(memory_class_name(MemoryClass::kSnapshot), "snapshot") << "the last of the list";
}

TEST(Arena, AlignsZeroesAndKeepsApart) {
  Arena arena;
  struct Piece {
    unsigned char* data;
    int64_t size;
  };
  std::vector<Piece> pieces;
  for (const int64_t size : {int64_t{0}, int64_t{1}, int64_t{63}, int64_t{64}, int64_t{65}, int64_t{5} << 20, int64_t{7},
                             int64_t{3} << 20, int64_t{2} << 20}) {
    auto* p = static_cast<unsigned char*>(arena.bytes(MemoryClass::kScratch, size));
    ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u) << size;
    for (int64_t i = 0; i < size; i += 61) ASSERT_EQ(p[i], 0) << "memory is zero on first use";
    std::memset(p, static_cast<int>(pieces.size()) + 1, static_cast<size_t>(size));
    pieces.push_back({p, size});
  }
  for (size_t k = 0; k < pieces.size(); ++k)
    for (int64_t i = 0; i < pieces[k].size; ++i)
      ASSERT_EQ(pieces[k].data[i], k + 1) << "piece " << k << " was overwritten at " << i;
}

TEST(Arena, TensorsHaveTheirShape) {
  Arena arena;
  const Tensor t = arena.tensor(MemoryClass::kLogits, DType::kBF16, 5, 7);
  EXPECT_EQ(t.rows, 5);
  EXPECT_EQ(t.cols, 7);
  EXPECT_EQ(t.stride, 7);
  EXPECT_EQ(t.dtype, DType::kBF16);
  EXPECT_EQ(arena.held(), 128) << "70 bytes, rounded up to 64";
}

TEST(Arena, CountsByClassAndPeak) {
  MemoryUse use;
  {
    Arena weights(&use), activations(&use);
    weights.bytes(MemoryClass::kMasterWeights, 1024);
    const Arena::Mark mark = activations.mark();
    activations.bytes(MemoryClass::kActivations, 640);
    activations.bytes(MemoryClass::kScratch, 64);
    EXPECT_EQ(now(use, MemoryClass::kMasterWeights), 1024);
    EXPECT_EQ(now(use, MemoryClass::kActivations), 640);
    activations.release(mark);
    EXPECT_EQ(activations.held(), 0);
    EXPECT_EQ(now(use, MemoryClass::kActivations), 0);
    activations.bytes(MemoryClass::kActivations, 128);
    EXPECT_EQ(peak(use, MemoryClass::kActivations), 640) << "the peak stays";
    EXPECT_EQ(now(use, MemoryClass::kActivations), 128);
    EXPECT_EQ(now(use, MemoryClass::kScratch), 0);
    EXPECT_EQ(peak(use, MemoryClass::kScratch), 64);
    EXPECT_EQ(weights.held(), 1024);
  }
  for (const int64_t n : use.now) EXPECT_EQ(n, 0) << "an arena that dies gives everything back";
  EXPECT_EQ(peak(use, MemoryClass::kMasterWeights), 1024);
}

TEST(Arena, ReleasedMemoryIsReusedAsAStack) {
  Arena arena;
  void* kept = arena.bytes(MemoryClass::kActivations, 100);
  std::memset(kept, 7, 100);
  const Arena::Mark mark = arena.mark();
  // Two blocks' worth, so that the walk over blocks is repeated after the release.
  std::vector<void*> first, second;
  for (int i = 0; i < 3; ++i) first.push_back(arena.bytes(MemoryClass::kActivations, int64_t{3} << 20));
  arena.release(mark);
  for (int i = 0; i < 3; ++i) second.push_back(arena.bytes(MemoryClass::kActivations, int64_t{3} << 20));
  EXPECT_EQ(first, second);
  EXPECT_EQ(static_cast<char*>(kept)[99], 7);
  arena.release(mark);
  EXPECT_EQ(arena.held(), 128);
}

TEST(Arena, OutOfMemoryNamesClassAndSize) {
  Arena arena;
  arena.bytes(MemoryClass::kEma, 64);
  try {
    arena.bytes(MemoryClass::kGradients, int64_t{1} << 60);
    FAIL() << "an exabyte was found";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kRuntime);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("gradients needs 1152921504606846976 more bytes"));
  }
  EXPECT_EQ(arena.held(), 64) << "a refusal changes nothing";
  EXPECT_NE(arena.bytes(MemoryClass::kEma, 64), nullptr);
}

TEST(ArenaDeathTest, RefusesNonsense) {
  Arena arena;
  EXPECT_DEATH(arena.bytes(MemoryClass::kData, -1), "CHECK");
  EXPECT_DEATH(arena.release(Arena::Mark{1}), "CHECK");
}

}  // namespace
}  // namespace rorqual
