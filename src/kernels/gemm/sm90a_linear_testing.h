// For tests and benchmarks: linear_sm90a with a tile of one's own.
#pragma once

#include "kernels/gemm/gemm.h"
#include "kernels/gemm/sm90a_tile.h"

namespace rorqual::gemm {

// `tile` is one of linear_tiles().
void linear_with_tile(const LinearArgs& args, const LinearTile& tile, const Stream& stream);

}  // namespace rorqual::gemm
