// The block kernels of every instruction set. Only select.cc and tests call them.
#pragma once

#include "kernels/gemm/block.h"

namespace rorqual::gemm {

void linear_reference(const LinearBlock& block);
void gradient_reference(const GradientBlock& block);

}  // namespace rorqual::gemm
