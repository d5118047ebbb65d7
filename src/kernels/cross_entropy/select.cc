// The table of cross-entropy kernels, the checks of their arguments and the partition of their work.
#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/cross_entropy/kernels.h"

namespace rorqual {
namespace cross_entropy_detail {

// About 32k logits per task: some tens of microseconds.
int64_t rows_per_task(int64_t vocabulary) {
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, vocabulary));
}

double row_nll(const RowSum& row, double target_logit) {
  return std::log(row.sum) + (row.max - target_logit);
}

double target_gradient(double coefficient, double nll) {
  return coefficient * std::expm1(-nll);
}

namespace {

std::string accept(const CrossEntropyArgs&) {
  return {};
}

constexpr std::array kRows{KernelRow<CrossEntropyArgs>{"reference", Isa::kReference, accept, run_reference}};

bool is_float_vector(const Tensor& x, int64_t count) {
  return x && (x.dtype == DType::kF32 || x.dtype == DType::kF64) && x.count() == count && x.contiguous();
}

void check_arguments(const CrossEntropyArgs& a) {
  const int64_t rows = a.logits.rows, vocabulary = a.logits.cols;
  CHECK(vocabulary >= 1, "cross_entropy: logits are {}x{}", rows, vocabulary);
  CHECK(is_float_vector(a.nll, rows), "cross_entropy: nll is {}x{} {}, wanted {} F32 or F64", a.nll.rows, a.nll.cols,
        dtype_name(a.nll.dtype), rows);
  CHECK(!a.d_logits || is_float_vector(a.coefficient, rows), "cross_entropy: a gradient needs {} coefficients in F32 or F64",
        rows);
  CHECK(!a.d_logits || (a.d_logits.rows == rows && a.d_logits.cols == vocabulary),
        "cross_entropy: d_logits is {}x{}, logits {}x{}", a.d_logits.rows, a.d_logits.cols, rows, vocabulary);
  for (int64_t t = 0; t < rows; ++t)
    CHECK(a.target[t] >= 0 && a.target[t] < vocabulary, "cross_entropy: target[{}] is {}, the vocabulary is {}", t, a.target[t],
          vocabulary);
}

}  // namespace
}  // namespace cross_entropy_detail

std::span<const KernelRow<CrossEntropyArgs>> cross_entropy_kernels() {
  return cross_entropy_detail::kRows;
}

void cross_entropy(const CrossEntropyArgs& args, const Stream& stream) {
  if (args.logits.rows == 0) return;
  cross_entropy_detail::check_arguments(args);
  run_best(cross_entropy_kernels(), args, stream);
}

}  // namespace rorqual
