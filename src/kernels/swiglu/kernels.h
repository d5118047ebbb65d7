// What each instruction set gives for SwiGLU: a range of rows. select.cc cuts the work and runs the tasks.
#pragma once

#include "kernels/swiglu/swiglu.h"

namespace rorqual {

#define RORQUAL_SWIGLU_KERNELS                                                  \
  void forward_rows(const SwiGluForwardArgs& args, int64_t begin, int64_t end); \
  void backward_rows(const SwiGluBackwardArgs& args, int64_t begin, int64_t end);

namespace swiglu_reference {
RORQUAL_SWIGLU_KERNELS
}
namespace swiglu_avx2 {
RORQUAL_SWIGLU_KERNELS
}
namespace swiglu_avx512 {
RORQUAL_SWIGLU_KERNELS
}
#undef RORQUAL_SWIGLU_KERNELS

}  // namespace rorqual
