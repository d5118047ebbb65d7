#include "kernels/gemm/sm90a_tile.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace rorqual::gemm {
namespace {

constexpr auto kNothing = Share::kNothing;
constexpr std::array kTiles = {
    LinearTile{64, 16, kNothing},    LinearTile{64, 32, kNothing},    LinearTile{64, 64, kNothing},
    LinearTile{64, 96, kNothing},    LinearTile{64, 128, kNothing},   LinearTile{128, 64, kNothing},
    LinearTile{128, 96, kNothing},   LinearTile{128, 112, kNothing},  LinearTile{128, 128, kNothing},
    LinearTile{128, 128, Share::kA}, LinearTile{128, 128, Share::kB}, LinearTile{128, 160, kNothing},
    LinearTile{128, 160, Share::kA}, LinearTile{128, 160, Share::kB},
};

int64_t divided(int64_t size, int64_t by) {
  return (size + by - 1) / by;
}

// Clusters' turns that cover all problems.
int64_t units(const LinearTile& tile, std::span<const int64_t> rows, int64_t n) {
  const int64_t unit_rows = tile.rows * (tile.share == Share::kB ? 2 : 1);
  const int64_t unit_columns = tile.columns * (tile.share == Share::kA ? 2 : 1);
  int64_t total = 0;
  for (const int64_t m : rows) total += divided(m, unit_rows) * divided(n, unit_columns);
  return total;
}

// Clocks of a multiprocessor, estimates to be set right by measurement: 4096 products in E4M3 a clock (data sheet); 40 bytes of
// the second-level cache, what the published speeds of these products imply; promotion takes a fused operation an element on
// 128 lanes, hidden by the other warpgroup where there are two; what a step and a tile cost besides.
constexpr double kProducts = 4096, kCacheBytes = 40, kLanes = 128, kStep = 60, kTile = 1500, kSharing = 0.02;

double step_clocks(const LinearTile& tile) {
  const double elements = static_cast<double>(tile.rows) * tile.columns;
  const double multiply = elements * 128 / kProducts, promote = elements / kLanes;
  const double bytes_a = tile.rows * 128.0 / (tile.share == Share::kA ? 2 : 1);
  const double bytes_b = tile.columns * 128.0 / (tile.share == Share::kB ? 2 : 1);
  const double compute = tile.rows == 64 ? multiply + promote : std::max(multiply, promote);
  return std::max(compute, (bytes_a + bytes_b) / kCacheBytes) * (tile.share == kNothing ? 1 : 1 + kSharing) + kStep;
}

}  // namespace

std::span<const LinearTile> linear_tiles() {
  return kTiles;
}

LinearTile choose_linear_tile(std::span<const int64_t> rows, int64_t n, int64_t k, int multiprocessors, bool counted) {
  CHECK(multiprocessors > 1 && n > 0, "{} columns on {} multiprocessors", n, multiprocessors);
  LinearTile best;
  double least = 0;
  for (const LinearTile& tile : kTiles) {
    if (counted && tile.share == Share::kB) continue;
    const int64_t clusters = multiprocessors / cluster_of(tile.share);
    const double waves = static_cast<double>(divided(units(tile, rows, n), clusters));
    const double clocks = waves * (static_cast<double>(divided(k, 128)) * step_clocks(tile) + kTile);
    // Of equals the larger, which reads less.
    if (least == 0 || clocks <= least) {
      least = clocks;
      best = tile;
    }
  }
  return best;
}

int linear_blocks(const LinearTile& tile, std::span<const int64_t> rows, int64_t n, int multiprocessors) {
  const int cluster = cluster_of(tile.share);
  return static_cast<int>(std::min<int64_t>(units(tile, rows, n), multiprocessors / cluster)) * cluster;
}

}  // namespace rorqual::gemm
