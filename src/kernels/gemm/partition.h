// Which block of which product a task computes: a pure function of the sizes of a call.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rorqual {

// One product's output, rows × cols elements, each a sum of depth products.
struct GemmShape {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t depth = 0;
};

// The block [row_begin, row_end) × [col_begin, col_end) of problem `problem`.
struct GemmTask {
  int64_t problem = 0;
  int64_t row_begin = 0, row_end = 0;
  int64_t col_begin = 0, col_end = 0;
  friend bool operator==(const GemmTask&, const GemmTask&) = default;
};

// What a kernel wants: blocks that start at multiples of its tile, and how fast it is (that sets how much work is worth a
// task).
struct GemmTile {
  int64_t rows = 1;
  int64_t cols = 16;
  double flops_per_ns = 1;
};

// Covers every output element of every shape exactly once; shapes without elements get no task. A call worth less than about
// 30 µs of one thread is not cut at all; larger ones into about 64 tasks of 30 to 500 µs, each problem by its share.
std::vector<GemmTask> partition_gemm(std::span<const GemmShape> shapes, const GemmTile& tile);

}  // namespace rorqual
