// Scalar truth of the cross-entropy: exponentials in F32 (F64 for F64 logits), their sum in double in ascending order.
#include <algorithm>
#include <cmath>

#include "kernels/cross_entropy/kernels.h"

namespace rorqual::cross_entropy_detail {
namespace {

template <class X>
RowSum sum_row(const X* x, int64_t n) {
  using C = compute_t<X>;
  C max = static_cast<C>(x[0]);
  for (int64_t i = 1; i < n; ++i) max = std::max(max, static_cast<C>(x[i]));
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<C>(x[i]) - max);
  return {max, sum};
}

template <class X, class D>
void gradient_row(const X* x, int64_t n, const RowSum& row, double coefficient, D* d) {
  using C = compute_t<X>;
  const C max = static_cast<C>(row.max), factor = static_cast<C>(coefficient / row.sum);
  for (int64_t i = 0; i < n; ++i) d[i] = static_cast<D>(std::exp(static_cast<C>(x[i]) - max) * factor);
}

double element(const Tensor& vector, int64_t i) {
  return vector.dtype == DType::kF64 ? vector.ptr<double>()[i] : static_cast<double>(vector.ptr<float>()[i]);
}

template <class X>
void run_row(const CrossEntropyArgs& a, int64_t t) {
  const X* x = a.logits.row<X>(t);
  const RowSum row = sum_row(x, a.logits.cols);
  const int32_t target = a.target[t];
  const double nll = row_nll(row, static_cast<double>(x[target]));
  visit_float(a.nll.dtype, [&](auto zero) { a.nll.ptr<decltype(zero)>()[t] = static_cast<decltype(zero)>(nll); });
  if (!a.d_logits) return;
  const double coefficient = element(a.coefficient, t);
  visit_float(a.d_logits.dtype, [&](auto zero) {
    using D = decltype(zero);
    D* d = a.d_logits.row<D>(t);
    gradient_row(x, a.logits.cols, row, coefficient, d);
    d[target] = static_cast<D>(static_cast<compute_t<X>>(target_gradient(coefficient, nll)));
  });
}

}  // namespace

void run_reference(const CrossEntropyArgs& args, const Stream& stream) {
  const int64_t rows = args.logits.rows, step = rows_per_task(args.logits.cols);
  visit_float(args.logits.dtype, [&](auto zero) {
    stream.parallel((rows + step - 1) / step, [&](int64_t task) {
      for (int64_t t = task * step; t < std::min(rows, (task + 1) * step); ++t) run_row<decltype(zero)>(args, t);
    });
  });
}

}  // namespace rorqual::cross_entropy_detail
