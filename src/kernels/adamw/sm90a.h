// AdamW on Hopper (sm_90a): bit for bit the scalar truth, with the coded copies that adamw.h describes. A stream of the device;
// weights F32; the list of tensors is read before the call returns.
#pragma once

#include <string>

#include "kernels/adamw/adamw.h"

namespace rorqual {

void adamw_sm90a(const AdamWArgs& args, const Stream& stream);
std::string refuse_adamw_sm90a(const AdamWArgs& args);

}  // namespace rorqual
