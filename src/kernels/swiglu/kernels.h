// What each instruction set gives for SwiGLU: a row. select.cc cuts the work and runs the tasks.
#pragma once

#include "kernels/common/quantise_kernels.h"
#include "kernels/swiglu/swiglu.h"

namespace rorqual {

#define RORQUAL_SWIGLU_KERNELS                                                                                        \
  /* h = silu(gate) · up · weight over n columns of a row; gate and up are of one type. */                          \
  void forward(const void* gate, const void* up, DType x_type, double weight, void* h, DType h_type, int64_t n);      \
  /* A row of both halves; returns Σ d_h · silu(gate) · up. d_gate_up may be gate_up. */                           \
  double backward(const void* gate_up, DType x_type, double weight, const void* d_h, DType d_h_type, void* d_gate_up, \
                  DType d_type, int64_t width);

// The values of forward for h.n columns of a row, quantised group by group while they lie in registers; gate and up likewise to
// the caches if they are there (h.n is a multiple of 128 then). Asks for the lines `ahead` bytes beyond what it reads.
// Of codes: a row [2·width] of E4M3 with a scale per 128, width a multiple of 64; the same bits as from the decoded row.
#define RORQUAL_SWIGLU_QUANTISED                                                                                             \
  void forward_quantised(const void* gate, const void* up, DType x_type, double weight, int64_t ahead, const QuantiseRow& h, \
                         const QuantiseRow* gate_cache, const QuantiseRow* up_cache);                                        \
  void forward_of_codes(const uint8_t* codes, const float* scales, double weight, int64_t ahead, const QuantiseRow& h);      \
  double backward_of_codes(const uint8_t* codes, const float* scales, double weight, const void* d_h, DType d_h_type,        \
                           float* d_gate_up, int64_t width);

namespace swiglu_reference {
RORQUAL_SWIGLU_KERNELS
}
namespace swiglu_avx2 {
RORQUAL_SWIGLU_KERNELS
RORQUAL_SWIGLU_QUANTISED
}  // namespace swiglu_avx2
namespace swiglu_avx512 {
RORQUAL_SWIGLU_KERNELS
RORQUAL_SWIGLU_QUANTISED
}  // namespace swiglu_avx512
#undef RORQUAL_SWIGLU_QUANTISED
#undef RORQUAL_SWIGLU_KERNELS

}  // namespace rorqual
