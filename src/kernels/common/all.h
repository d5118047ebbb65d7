// Every kernel of every operation, for `rorqual doctor`.
#pragma once

#include <vector>

#include "kernels/common/registry.h"

namespace rorqual {

std::vector<KernelSummary> all_kernels();

}  // namespace rorqual
