// How an FP8 product is cut for Hopper: a pure function of its sizes. No result depends on it.
#pragma once

#include <cstdint>
#include <span>

#include "hopper/types.h"

namespace rorqual::gemm {

// A cluster's two blocks compute neighbouring tiles of C: side by side they share rows of A, one above the other rows of B.
// What both read, each fetches half of for both.
enum class Share { kNothing, kA, kB };
HOPPER_BOTH constexpr int cluster_of(Share share) {
  return share == Share::kNothing ? 1 : 2;
}

struct LinearTile {
  int32_t rows = 128, columns = 128;
  Share share = Share::kNothing;
  bool operator==(const LinearTile&) const = default;
};
// Those that launch_linear has.
std::span<const LinearTile> linear_tiles();

// The least time by a simple account of a tile's steps: tensor cores, promotion, bytes from the second-level cache; times the
// waves of tiles over the multiprocessors. `rows` of each problem, all [m, k] · [n, k]ᵀ. `counted`: only the device knows how
// many of them are in use; few, perhaps, so that a cluster's second tile along m would often be empty.
LinearTile choose_linear_tile(std::span<const int64_t> rows, int64_t n, int64_t k, int multiprocessors, bool counted = false);

// Blocks of the grid: one per multiprocessor, or per tile if those are fewer; a multiple of the cluster.
int linear_blocks(const LinearTile& tile, std::span<const int64_t> rows, int64_t n, int multiprocessors);

}  // namespace rorqual::gemm
