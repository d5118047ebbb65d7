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

bool is_f32_or_bf16(const Tensor& x) {
  return x.dtype == DType::kF32 || x.dtype == DType::kBF16;
}

std::string refuse_vector(const CrossEntropyArgs& a) {
  if (!is_f32_or_bf16(a.logits)) return "logits are neither F32 nor BF16";
  if (a.nll.dtype != DType::kF32) return "nll is not F32";
  if (a.d_logits && (!is_f32_or_bf16(a.d_logits) || a.coefficient.dtype != DType::kF32))
    return "d_logits are neither F32 nor BF16, or coefficients not F32";
  return {};
}

void store_target(const Tensor& d_logits, int64_t t, int32_t target, float value) {
  if (d_logits.dtype == DType::kBF16)
    d_logits.row<Bf16>(t)[target] = Bf16(value);
  else
    d_logits.row<float>(t)[target] = value;
}

void run_row(const CrossEntropyArgs& a, const VectorKernels& kernels, int64_t t) {
  const bool bf16 = a.logits.dtype == DType::kBF16;
  const std::byte* x = a.logits.raw_row(t);
  const int64_t vocabulary = a.logits.cols;
  const int32_t target = a.target[t];
  const float logit = bf16 ? static_cast<float>(a.logits.row<Bf16>(t)[target]) : a.logits.row<float>(t)[target];
  const RowSum row = kernels.sum[bf16](x, vocabulary);
  const double nll = row_nll(row, static_cast<double>(logit));
  a.nll.ptr<float>()[t] = static_cast<float>(nll);
  if (!a.d_logits) return;
  const double coefficient = static_cast<double>(a.coefficient.ptr<float>()[t]);
  kernels.gradient[bf16][a.d_logits.dtype == DType::kBF16](x, vocabulary, static_cast<float>(row.max),
                                                           static_cast<float>(coefficient / row.sum), a.d_logits.raw_row(t));
  store_target(a.d_logits, t, target, static_cast<float>(target_gradient(coefficient, nll)));
}

template <const VectorKernels& kernels>
void run_vector(const CrossEntropyArgs& a, const Stream& stream) {
  const int64_t rows = a.logits.rows, step = rows_per_task(a.logits.cols);
  stream.parallel((rows + step - 1) / step, [&](int64_t task) {
    for (int64_t t = task * step; t < std::min(rows, (task + 1) * step); ++t) run_row(a, kernels, t);
  });
}

constexpr std::array kRows{KernelRow<CrossEntropyArgs>{"avx512", Isa::kAvx512, refuse_vector, run_vector<kAvx512>},
                           KernelRow<CrossEntropyArgs>{"avx2", Isa::kAvx2, refuse_vector, run_vector<kAvx2>},
                           KernelRow<CrossEntropyArgs>{"reference", Isa::kReference, accept, run_reference}};

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
