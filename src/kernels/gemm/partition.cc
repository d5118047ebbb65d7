#include "kernels/gemm/partition.h"

#include <algorithm>

namespace rorqual {
namespace {

constexpr double kReadBytesPerNs = 20;  // of the weight: what bounds products with few rows
int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

double cost_ns(const GemmShape& s, double flops_per_ns) {
  const auto rows = static_cast<double>(s.rows), cols = static_cast<double>(s.cols), depth = static_cast<double>(s.depth);
  return std::max(2 * rows * cols * depth / flops_per_ns, 4 * cols * depth / kReadBytesPerNs);
}

// Even cuts of `extent` into about `parts`, at multiples of `unit`.
int64_t block_extent(int64_t extent, int64_t parts, int64_t unit) {
  return std::max<int64_t>(1, divide_up(divide_up(extent, unit), parts)) * unit;
}

void cut(const GemmShape& s, int64_t problem, int64_t parts, const GemmTile& tile, std::vector<GemmTask>& out) {
  // A block reads its rows and its columns once each, so squarish blocks read least. Columns are the cheaper side to keep long:
  // a kernel converts or copies its rows once per block.
  const int64_t max_row_parts = s.rows <= tile.few_rows ? 1 : divide_up(s.rows, tile.rows),
                max_col_parts = divide_up(s.cols, tile.cols);
  int64_t row_parts = 1, col_parts = 1;
  while (row_parts * col_parts < parts && (row_parts < max_row_parts || col_parts < max_col_parts)) {
    const bool rows_longer = s.rows * 2 * col_parts >= s.cols * row_parts;
    const bool cut_rows = row_parts < max_row_parts && (rows_longer || col_parts == max_col_parts);
    ++(cut_rows ? row_parts : col_parts);
  }
  const int64_t rows = row_parts == 1 ? s.rows : block_extent(s.rows, row_parts, tile.rows),
                cols = block_extent(s.cols, col_parts, tile.cols);
  for (int64_t r = 0; r < s.rows; r += rows)
    for (int64_t c = 0; c < s.cols; c += cols)
      out.push_back({problem, r, std::min(r + rows, s.rows), c, std::min(c + cols, s.cols)});
}

}  // namespace

std::vector<GemmTask> partition_gemm(std::span<const GemmShape> shapes, const GemmTile& tile) {
  double total = 0;
  for (const GemmShape& s : shapes) total += cost_ns(s, tile.flops_per_ns);
  const double target = std::clamp(total / tile.tasks, tile.shortest_task_ns, tile.longest_task_ns);
  std::vector<GemmTask> tasks;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const GemmShape& s = shapes[i];
    if (s.rows == 0 || s.cols == 0) continue;
    const auto parts = std::max<int64_t>(1, static_cast<int64_t>(cost_ns(s, tile.flops_per_ns) / target + 0.5));
    cut(s, static_cast<int64_t>(i), parts, tile, tasks);
  }
  return tasks;
}

}  // namespace rorqual
