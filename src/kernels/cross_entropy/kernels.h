// The pieces of the cross-entropy kernels that select.cc joins. A row's maximum and sum of exponentials come first, then
// log-likelihood and factor from them in double (the same code for every kernel), then the row's gradient.
#pragma once

#include <cstdint>

#include "kernels/cross_entropy/cross_entropy.h"

namespace rorqual::cross_entropy_detail {

// Σ exp(x − max) of a row.
struct RowSum {
  double max, sum;
};

// The vector kernels of one instruction set, on one row of logits; index 0 is F32, 1 is BF16.
struct VectorKernels {
  RowSum (*sum[2])(const void* logits, int64_t vocabulary);
  // gradient[logits][d]: d[i] = exp(x[i] − max) · factor; d may be the logits.
  void (*gradient[2][2])(const void* logits, int64_t vocabulary, float max, float factor, void* d);
};
extern const VectorKernels kAvx2, kAvx512;

void run_reference(const CrossEntropyArgs& args, const Stream& stream);

int64_t rows_per_task(int64_t vocabulary);

// −log p[target] from the row's sum.
double row_nll(const RowSum& row, double target_logit);
// coefficient · (p[target] − 1), without the cancellation of p near 1.
double target_gradient(double coefficient, double nll);

}  // namespace rorqual::cross_entropy_detail
