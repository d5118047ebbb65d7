// What device code is written in: threads, warps, memory, conversions (ptx/thread.h), barriers, clusters and fences
// (ptx/barrier.h), the copy engine (ptx/tma.h), the tensor cores (ptx/wgmma.h). Those four headers are the description; the
// emulator gives the same functions (emulator/device.h).
#pragma once

#include "hopper/layout.h"
#include "hopper/types.h"

#ifdef __CUDACC__
#include "hopper/ptx/barrier.h"
#include "hopper/ptx/thread.h"
#include "hopper/ptx/tma.h"
#include "hopper/ptx/wgmma.h"
#else
#include "hopper/emulator/device.h"
#endif
