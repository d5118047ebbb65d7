#include "kernels/gemm/partition.h"

#include <gtest/gtest.h>

namespace rorqual {
namespace {

const std::vector<GemmShape> kCalls[] = {
    {{1, 1, 1}},
    {{2048, 256, 256}},
    {{2048, 8192, 256}},
    {{1, 8192, 2048}},
    {{17, 33, 5000}, {0, 64, 64}, {300, 1, 256}, {5, 0, 7}},
    std::vector<GemmShape>(16, {250, 128, 256}),
    {{4096, 64, 1}, {12, 4096, 4096}, {13, 31, 0}},
};

TEST(Partition, CoversEveryElementOnce) {
  for (const GemmTile& tile :
       {GemmTile{}, GemmTile{.rows = 12, .cols = 32, .flops_per_ns = 120, .few_rows = 20},
        GemmTile{.rows = 6, .cols = 16, .flops_per_ns = 60}, GemmTile{.rows = 32, .cols = 32, .flops_per_ns = 800}}) {
    for (const auto& shapes : kCalls) {
      std::vector<std::vector<int>> count;
      for (const GemmShape& s : shapes) count.emplace_back(static_cast<size_t>(s.rows * s.cols));
      for (const GemmTask& t : partition_gemm(shapes, tile)) {
        const GemmShape& s = shapes[static_cast<size_t>(t.problem)];
        ASSERT_LT(t.row_begin, t.row_end);
        ASSERT_LT(t.col_begin, t.col_end);
        EXPECT_EQ(t.row_begin % tile.rows, 0);
        EXPECT_EQ(t.col_begin % tile.cols, 0);
        ASSERT_LE(t.row_end, s.rows);
        ASSERT_LE(t.col_end, s.cols);
        for (int64_t r = t.row_begin; r < t.row_end; ++r)
          for (int64_t c = t.col_begin; c < t.col_end; ++c)
            ++count[static_cast<size_t>(t.problem)][static_cast<size_t>(r * s.cols + c)];
      }
      for (const auto& problem : count)
        for (const int n : problem) ASSERT_EQ(n, 1);
    }
  }
}

TEST(Partition, SmallCallsAreOneTaskAndLargeOnesEven) {
  const GemmTile tile{.rows = 12, .cols = 32, .flops_per_ns = 120};
  const auto tasks_of = [&](GemmShape s) { return partition_gemm({&s, 1}, tile); };
  EXPECT_EQ(tasks_of({12, 64, 64}).size(), 1u);     // under a microsecond
  EXPECT_EQ(tasks_of({1, 256, 256}).size(), 1u);    // 13 µs of reading
  EXPECT_GE(tasks_of({2048, 64, 256}).size(), 8u);  // 560 µs
  EXPECT_GE(tasks_of({1, 8192, 2048}).size(), 8u);  // reading alone takes 3 ms
  for (const GemmShape s : {GemmShape{2048, 256, 256}, {2048, 8192, 256}, {1024, 1024, 1024}}) {
    const auto tasks = tasks_of(s);
    const int64_t total = s.rows * s.cols;
    for (const GemmTask& t : tasks) {  // no task is more than twice its share, so that two threads end together
      const int64_t elements = (t.row_end - t.row_begin) * (t.col_end - t.col_begin);
      EXPECT_LE(elements * static_cast<int64_t>(tasks.size()), 2 * total) << s.rows << "x" << s.cols << "x" << s.depth;
    }
  }
}

}  // namespace
}  // namespace rorqual
