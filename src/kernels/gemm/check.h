// What every kernel of a matrix product may take for granted; a programmer's mistake hits a CHECK.
#pragma once

#include "kernels/gemm/gemm.h"

namespace rorqual::gemm {

void check(const LinearArgs& args);
void check(const WeightGradientArgs& args);
void check(const PackWeightArgs& args);

}  // namespace rorqual::gemm
