// Cosines and sines of the rotary embedding, with YaRN (spec 1.4; `golden/yarn_v3.json`).
#pragma once

#include <vector>

#include "base/threads.h"
#include "model/config.h"
#include "tensor/arena.h"

namespace rorqual {

// The dim/2 frequencies: θ^(-2i/dim), or under YaRN the ramp between that and that / factor.
std::vector<double> rope_frequencies(int64_t dim, double theta, const RopeScaling& scaling);

// [positions, dim] of dtype F32 or F64: cos of every frequency, then sin; computed in double. Under YaRN scaled by m(mscale) /
// m(mscale_all_dim).
Tensor make_rope_table(const ModelConfig& config, int64_t positions, DType dtype, Arena& arena, const Stream& stream);

}  // namespace rorqual
