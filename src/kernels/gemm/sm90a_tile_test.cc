// The tiles that products are cut into on Hopper.
#include "kernels/gemm/sm90a_tile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>
#include <vector>

#include "base/rng.h"

namespace rorqual::gemm {

void PrintTo(const LinearTile& tile, std::ostream* out) {
  *out << tile.rows << "×" << tile.columns
       << (tile.share == Share::kA   ? " sharing A"
           : tile.share == Share::kB ? " sharing B"
                                     : "");
}

namespace {

constexpr int kH100 = 132;

LinearTile dense(int64_t m, int64_t n, int64_t k) {
  const int64_t rows[] = {m};
  return choose_linear_tile(rows, n, k, kH100);
}

TEST(LinearTiles, AnyShapeHasOne) {
  for (uint64_t i = 0; i < 3000; ++i) {
    const auto words = random_words({.seed = 1}, i);
    std::vector<int64_t> rows(1 + words[0] % 9);
    for (size_t g = 0; g < rows.size(); ++g)
      rows[g] = random_words({.seed = 2, .layer = static_cast<uint32_t>(g)}, i)[0] % 5000;
    const int64_t n = 1 + words[1] % 9000, k = 16 * (1 + words[2] % 1000);
    const LinearTile tile = choose_linear_tile(rows, n, k, kH100);
    EXPECT_NE(std::find(linear_tiles().begin(), linear_tiles().end(), tile), linear_tiles().end());
    const int blocks = linear_blocks(tile, rows, n, kH100);
    EXPECT_LE(blocks, kH100);
    EXPECT_EQ(blocks % cluster_of(tile.share), 0);
    const bool empty = std::all_of(rows.begin(), rows.end(), [](int64_t m) { return m == 0; });
    EXPECT_EQ(blocks == 0, empty);
  }
}

// Few rows want many narrow tiles, so that every multiprocessor reads a part of the weight; many rows want large tiles whose
// operands are shared.
TEST(LinearTiles, SuitThePublishedShapes) {
  for (const auto& [n, k] : {std::pair{2112, 7168}, {24576, 1536}, {32768, 512}, {7168, 16384}, {4096, 7168}, {7168, 2048}}) {
    const LinearTile few = dense(64, n, k), many = dense(4096, n, k);
    EXPECT_EQ(few.rows, 64) << n << ", " << k;
    EXPECT_EQ(many.rows, 128) << n << ", " << k;
    EXPECT_GE(many.columns, 112) << n << ", " << k;
    const int64_t rows[] = {64};
    EXPECT_GT(linear_blocks(few, rows, n, kH100), 60) << n << ", " << k;
  }
  EXPECT_NE(dense(4096, 7168, 16384).share, Share::kNothing);
}

// The choices themselves, so that a change of the account shows where it leads. H800 and H100 have 132 multiprocessors.
TEST(LinearTiles, OfThePublishedShapes) {
  struct Choice {
    int64_t problems, m, n, k;
    LinearTile tile;
    bool counted = false;
  };
  constexpr auto kNothing = Share::kNothing;
  const Choice choices[] = {
      {1, 64, 2112, 7168, {64, 16, kNothing}},
      {1, 64, 24576, 1536, {64, 96, kNothing}},
      {1, 64, 32768, 512, {64, 128, kNothing}},
      {1, 64, 7168, 16384, {64, 64, kNothing}},
      {1, 64, 4096, 7168, {64, 32, kNothing}},
      {1, 64, 7168, 2048, {64, 64, kNothing}},
      {1, 128, 2112, 7168, {64, 32, kNothing}},
      {1, 128, 24576, 1536, {128, 128, Share::kA}},
      {1, 128, 32768, 512, {128, 128, Share::kA}},
      {1, 128, 7168, 16384, {128, 64, kNothing}},
      {1, 128, 4096, 7168, {64, 64, kNothing}},
      {1, 128, 7168, 2048, {128, 64, kNothing}},
      {1, 4096, 2112, 7168, {128, 160, Share::kB}},
      {1, 4096, 24576, 1536, {128, 160, Share::kB}},
      {1, 4096, 32768, 512, {128, 160, Share::kB}},
      {1, 4096, 7168, 16384, {128, 160, Share::kB}},
      {1, 4096, 4096, 7168, {128, 160, Share::kB}},
      {1, 4096, 7168, 2048, {128, 160, Share::kB}},
      {4, 8192, 4096, 7168, {128, 160, Share::kB}},
      {4, 8192, 7168, 2048, {128, 160, Share::kB}},
      {8, 4096, 4096, 7168, {128, 160, Share::kB}},
      {8, 4096, 7168, 2048, {128, 160, Share::kB}},
      {1, 1024, 4096, 7168, {128, 128, Share::kA}, true},
      {1, 1024, 7168, 2048, {128, 160, Share::kA}, true},
      {2, 512, 4096, 7168, {128, 128, Share::kA}, true},
      {2, 512, 7168, 2048, {128, 160, Share::kA}, true},
      {4, 256, 4096, 7168, {128, 128, Share::kA}, true},
      {4, 256, 7168, 2048, {128, 160, Share::kA}, true},
  };
  for (const Choice& c : choices) {
    const std::vector<int64_t> rows(static_cast<size_t>(c.problems), c.m);
    EXPECT_EQ(choose_linear_tile(rows, c.n, c.k, kH100, c.counted), c.tile)
        << c.problems << "×" << c.m << ", " << c.n << ", " << c.k;
  }
}

}  // namespace
}  // namespace rorqual::gemm
