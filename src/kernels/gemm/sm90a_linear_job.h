// What linear's FP8 kernel is told, by value in its parameters.
#pragma once

#include "hopper/types.h"
#include "kernels/gemm/sm90a_tile.h"

namespace rorqual::gemm {

// One expert's product. The maps end at the problem's last row: rows behind it, another problem's perhaps, read as zero and are
// not written.
struct LinearJobProblem {
  hopper::TensorMap a;         // [m, k] codes
  hopper::TensorMap b;         // [n, k] codes
  hopper::TensorMap c;         // [m, n] BF16 or F32
  const float* scale_a;        // [m, ceil(k/128)]
  const float* scale_b;        // [ceil(n/128), ceil(k/128)]
  const uint16_t* old_c;       // BF16 to be added to, or null
  const int32_t* rows_in_use;  // in device memory, or null: m
  int64_t scale_a_stride, c_stride;
  int32_t m;
};

enum class LinearOut { kBF16, kF32, kAddF32 };

// Problems of the same n and k, in the order in which they are computed.
template <int kMost>
struct LinearJob {
  int32_t problems, n, k;
  LinearOut out;
  LinearJobProblem problem[kMost];
};
inline constexpr int kMostLinearProblems = 64;
static_assert(sizeof(LinearJob<kMostLinearProblems>) <= 32000, "kernels take at most 32,000 bytes of parameters");

// Boxes in which C leaves: 16 rows of a warp by as many columns as fill 128 bytes, or fewer.
constexpr int32_t out_columns(int32_t tile_columns, LinearOut out) {
  if (out != LinearOut::kBF16) return tile_columns % 32 == 0 ? 32 : 16;
  return tile_columns % 64 == 0 ? 64 : tile_columns % 32 == 0 ? 32 : 16;
}
constexpr bool out_swizzled(int32_t tile_columns, LinearOut out) {
  return out_columns(tile_columns, out) * (out == LinearOut::kBF16 ? 2 : 4) == 128;
}

// Blocks of the grid, a multiple of the cluster. False if no kernel has this tile.
template <int kMost>
bool launch_linear(const LinearJob<kMost>& job, const LinearTile& tile, int blocks, void* stream);

}  // namespace rorqual::gemm
