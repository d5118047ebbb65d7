// RoPE on Hopper (sm_90a). A stream of the device; `position` in its memory, each < table.rows (not checked). The same bits as
// the scalar truth: every product and sum is rounded.
#pragma once

#include <string>

#include "kernels/rope/rope.h"

namespace rorqual {

void rope_sm90a(const RopeArgs& args, const Stream& stream);
std::string refuse_rope_sm90a(const RopeArgs& args);

}  // namespace rorqual
