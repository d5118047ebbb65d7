// A memory plan as a picture: a stack of classes for each pipeline coordinate, against what the device has.
#pragma once

#include <string>

#include "plan/memory.h"

namespace rorqual {

// device_bytes: 0 draws no line.
std::string memory_svg_chart(const MemoryPlan& plan, const std::string& title, const std::string& subtitle,
                             int64_t device_bytes);

}  // namespace rorqual
