// SwiGLU on Hopper (sm_90a). Streams of the device. F32, BF16 and the cached E4M3 in; F32, BF16 and E4M3 out (d_gate_up also
// E5M2), by groups of 1×128, no statistics. The width is a multiple of 8, of 128 where gate_up or its gradient are quantised.
// The order of d_weight's sum is a function of the width and the dtypes.
#pragma once

#include <string>

#include "kernels/swiglu/swiglu.h"

namespace rorqual {

void swiglu_forward_sm90a(const SwiGluForwardArgs& args, const Stream& stream);
std::string refuse_swiglu_forward_sm90a(const SwiGluForwardArgs& args);

void swiglu_backward_sm90a(const SwiGluBackwardArgs& args, const Stream& stream);
std::string refuse_swiglu_backward_sm90a(const SwiGluBackwardArgs& args);

}  // namespace rorqual
