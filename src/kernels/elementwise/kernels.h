// What each instruction set gives for the passes over memory; select.cc cuts the work and runs the tasks. All of these give
// equal bits on every instruction set: the same operations in the same order, each rounded, none fused (where a fused
// operation stands in the code, the product it holds is exact).
#pragma once

#include "kernels/elementwise/elementwise.h"

namespace rorqual {

inline constexpr int64_t kSquaresBlock = 4096;  // elements of a block of squared_norm
inline constexpr int kSquaresLanes = 16;

struct ElementwiseKernels {
  // y[i] = x[i], or y[i] += x[i], for i in [0, n); types differ or `accumulate` (a plain copy is the caller's).
  void (*convert)(const void* x, DType x_type, void* y, DType y_type, int64_t n, bool accumulate);
  // Tokens [begin, end).
  void (*combine)(const CombineRowsArgs& args, int64_t begin, int64_t end);
  // The 16 lanes' sums of squares over one block of n <= kSquaresBlock elements, in double.
  void (*squares_f32)(const float* x, int64_t n, double* lanes);
  void (*scale_f32)(float* x, int64_t n, float factor);
  void (*add_f32)(float* a, const float* b, int64_t n);
  void (*ema_f32)(float* ema, const float* x, int64_t n, float decay, float rest);
};

extern const ElementwiseKernels kElementwiseReference, kElementwiseAvx2, kElementwiseAvx512;
void squares_f64(const double* x, int64_t n, double* lanes);

}  // namespace rorqual
