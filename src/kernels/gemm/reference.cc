// The scalar truth. Order of sums: each element is one chain from zero over ascending k (linear) or m (weight gradient), every
// product and every sum rounded to the compute type; products of bf16 operands are exact in it.
#include <algorithm>

#include "kernels/gemm/kernels.h"

namespace rorqual::gemm {
namespace {

template <class T, class Out>
void linear(const LinearBlock& x) {
  using Compute = compute_t<T>;
  const auto* a = static_cast<const T*>(x.a);
  const auto* b = static_cast<const T*>(x.b);
  auto* c = static_cast<Out*>(x.c);
  for (int64_t m = 0; m < x.rows; ++m) {
    for (int64_t n0 = 0; n0 < x.cols; n0 += 16) {
      const T* panel = b + n0 / 16 * x.panel_stride;
      Compute sum[16] = {};
      for (int64_t k = 0; k < x.depth; ++k) {
        const auto factor = static_cast<Compute>(a[m * x.a_stride + k]);
        for (int64_t n = 0; n < 16; ++n) sum[n] += factor * static_cast<Compute>(panel[panel_index<T>(n, k)]);
      }
      for (int64_t n = n0; n < std::min(n0 + 16, x.cols); ++n) {
        Out& out = c[m * x.c_stride + n];
        out = Out(x.accumulate ? static_cast<Compute>(out) + sum[n - n0] : sum[n - n0]);
      }
    }
  }
}

template <class T>
void gradient(const GradientBlock& x) {
  using Compute = compute_t<T>;
  const auto* a = static_cast<const T*>(x.a);
  const auto* b = static_cast<const T*>(x.b);
  auto* c = static_cast<Compute*>(x.c);
  for (int64_t n = 0; n < x.rows; ++n) {
    for (int64_t k0 = 0; k0 < x.cols; k0 += 16) {
      const int64_t width = std::min<int64_t>(16, x.cols - k0);
      Compute sum[16] = {};
      for (int64_t m = 0; m < x.depth; ++m) {
        const auto factor = static_cast<Compute>(a[m * x.a_stride + n]);
        const T* row = b + m * x.b_stride + k0;
        for (int64_t k = 0; k < width; ++k) sum[k] += factor * static_cast<Compute>(row[k]);
      }
      for (int64_t k = 0; k < width; ++k) c[n * x.c_stride + k0 + k] += sum[k];
    }
  }
}

}  // namespace

void linear_reference(const LinearBlock& block) {
  if (size_of(block.operands) == 1) return linear_reference_fp8(block);
  if (block.operands == DType::kF64) return linear<double, double>(block);
  if (block.operands == DType::kF32) return linear<float, float>(block);
  if (block.out == DType::kF32) return linear<Bf16, float>(block);
  return linear<Bf16, Bf16>(block);
}

void gradient_reference(const GradientBlock& block) {
  if (size_of(block.operands) == 1) return gradient_reference_fp8(block);
  if (block.operands == DType::kF64) return gradient<double>(block);
  if (block.operands == DType::kF32) return gradient<float>(block);
  gradient<Bf16>(block);
}

double peak_reference(int64_t rounds) {
  float sum[16] = {}, factor = 1;
  for (int64_t r = 0; r < rounds; ++r) {
    __asm__ volatile("" : "+m"(factor));
    for (float& s : sum) s += factor * factor;
  }
  __asm__ volatile("" : : "m"(sum));
  return 2.0 * 16 * static_cast<double>(rounds);
}

}  // namespace rorqual::gemm
