// Packing of weights in E4M3; pack_weights sends those here.
#pragma once

#include <span>

#include "kernels/gemm/gemm.h"

namespace rorqual::gemm {

void pack_fp8(std::span<const PackWeightArgs* const> list, const Stream& stream);

}  // namespace rorqual::gemm
