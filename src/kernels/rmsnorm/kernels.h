// What each instruction set gives for RMSNorm: a row, a range of rows, a block of rows. select.cc cuts the work and runs the
// tasks.
#pragma once

#include "kernels/common/quantise_kernels.h"
#include "kernels/rmsnorm/rmsnorm.h"

namespace rorqual {

inline constexpr int64_t kRmsNormBlockRows = 128;  // of the weight gradient

#define RORQUAL_RMSNORM_KERNELS                                                                         \
  /* 1 / sqrt(mean(x²) + eps) of a row of d values. */                                                 \
  double inverse_rms(const void* x, DType x_type, int64_t d, double eps);                               \
  /* y = x · r · w over n columns of a row. */                                                        \
  void forward(const void* x, DType x_type, const void* w, double r, void* y, DType y_type, int64_t n); \
  void input_gradient_rows(const RmsNormInputGradientArgs& args, int64_t begin, int64_t end);           \
  /* partial[d] = the sum over rows [begin, end), from zero, rows ascending; F32, or F64 if d_w is. */  \
  void weight_gradient_block(const RmsNormWeightGradientArgs& args, int64_t begin, int64_t end, void* partial);

// The values of forward for a whole row, quantised group by group while they lie in registers, and to `plain` if it is there.
// Asks for the line `ahead` bytes beyond what it reads.
#define RORQUAL_RMSNORM_QUANTISED                                                                                            \
  void forward_quantised(const void* x, DType x_type, int64_t ahead, const void* w, double r, void* plain, DType plain_type, \
                         const QuantiseRow& y);

namespace rmsnorm_reference {
RORQUAL_RMSNORM_KERNELS
}
namespace rmsnorm_avx2 {
RORQUAL_RMSNORM_KERNELS
RORQUAL_RMSNORM_QUANTISED
}  // namespace rmsnorm_avx2
namespace rmsnorm_avx512 {
RORQUAL_RMSNORM_KERNELS
RORQUAL_RMSNORM_QUANTISED
}  // namespace rmsnorm_avx512
#undef RORQUAL_RMSNORM_QUANTISED
#undef RORQUAL_RMSNORM_KERNELS

}  // namespace rorqual
