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

// What a kernel wants: blocks that start at multiples of its tile, how fast it is (that sets how much work is worth a task),
// and how finely a call may be cut: every block reads its rows and columns anew.
struct GemmTile {
  int64_t rows = 1;
  int64_t cols = 16;
  double flops_per_ns = 1;
  int64_t few_rows = 0;  // so many rows are never cut: the kernel reads the weight once for all of them
  double tasks = 16;     // into which a call is cut, unless they come out shorter or longer than the next two
  double shortest_task_ns = 30e3;
  double longest_task_ns = 4e6;
};

// Covers every output element of every shape exactly once; shapes without elements get no task. Each problem is cut by its
// share of the call's work, a call below the shortest task not at all.
std::vector<GemmTask> partition_gemm(std::span<const GemmShape> shapes, const GemmTile& tile);

}  // namespace rorqual
