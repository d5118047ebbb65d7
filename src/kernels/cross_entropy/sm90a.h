// Softmax cross-entropy on Hopper (sm_90a). A stream of the device; `target` in its memory: one outside the vocabulary gives
// NaN for nll and a gradient as if no logit were meant. The order of a row's sum is a function of the vocabulary and the dtype
// of the logits.
#pragma once

#include <string>

#include "kernels/cross_entropy/cross_entropy.h"

namespace rorqual {

void cross_entropy_sm90a(const CrossEntropyArgs& args, const Stream& stream);
std::string refuse_cross_entropy_sm90a(const CrossEntropyArgs& args);

}  // namespace rorqual
