// The vector functions of vec_avx2.h and vec_avx512.h over arrays, for tests and benchmarks: what only ISA files can call.
#pragma once

#include <cstdint>

#include "numerics/bf16.h"

namespace rorqual {

struct VecProbe {
  void (*exp)(const float* x, float* y, int64_t n);
  void (*sigmoid)(const float* x, float* value, float* complement, int64_t n);
  void (*narrow)(const float* x, Bf16* y, int64_t n);  // rounds to bf16
  void (*widen)(const Bf16* x, float* y, int64_t n);
};
extern const VecProbe kProbeAvx2, kProbeAvx512;

}  // namespace rorqual
