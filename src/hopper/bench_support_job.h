// The kernels behind hopper/bench_support.h.
#pragma once

#include <cstdint>

#include "hopper/launch.h"

namespace rorqual::hopper {

// What device memory is filled with: random always, for chips run zeros faster than data.
enum class Fill {
  kBf16,       // nearly normal (a sum of four uniform numbers), mean 0, deviation 1
  kF32,        // likewise
  kE4M3,       // codes of numbers like those, times 100
  kScales,     // F32, between 2^-8 and 2^-7
  kPow2Scales  // F32, 2^-8 or 2^-7
};
// `chunks` of 16 bytes.
void launch_fill(void* to, int64_t chunks, Fill fill, uint64_t seed);
void launch_nothing(DeviceStream stream);

}  // namespace rorqual::hopper
