// The scalar truth of products with FP8 operands (gemm.h).
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/gemm/kernels.h"
#include "tensor/scaled_tensor.h"

namespace rorqual::gemm {
namespace {

// One operand's part in one element's sum: codes as FP32 in the order of the sum, and the scale of each group of 128.
struct Factors {
  const float* codes;
  const float* scales;
};

// One chain over ascending steps of the products of code · scale. A product is exact unless it underflows, and is not rounded
// even then.
float sum_of_values(const Factors& a, const Factors& b, int64_t depth) {
  float sum = 0;
  for (int64_t s = 0; s < depth; ++s)
    sum = std::fma(a.codes[s] * a.scales[s / kScaleGroup], b.codes[s] * b.scales[s / kScaleGroup], sum);
  return sum;
}

// Σ over the groups of partial(begin, steps) · (scale of a · scale of b).
template <class Partial>
float sum_of_groups(const Factors& a, const Factors& b, int64_t depth, const Partial& partial) {
  float sum = 0;
  for (int64_t s = 0; s < depth; s += kScaleGroup) {
    const float scale = a.scales[s / kScaleGroup] * b.scales[s / kScaleGroup];
    sum = std::fma(partial(s, std::min(kScaleGroup, depth - s)), scale, sum);
  }
  return sum;
}

// An accumulator that promotes at least every 128 sums codes, and each group's sum is scaled; another sums code · scale.
float sum_limited(const Factors& a, const Factors& b, int64_t depth, const Accumulator& accumulator) {
  const auto partial = [&](int64_t begin, int64_t steps) {
    const auto n = static_cast<size_t>(steps);
    return accumulate_products(accumulator, {a.codes + begin, n}, {b.codes + begin, n});
  };
  if (accumulator.promote > 0 && accumulator.promote <= kScaleGroup) return sum_of_groups(a, b, depth, partial);
  std::vector<float> x(static_cast<size_t>(depth)), y(x);
  for (size_t s = 0; s < x.size(); ++s) {
    x[s] = a.codes[s] * a.scales[s / kScaleGroup];
    y[s] = b.codes[s] * b.scales[s / kScaleGroup];
  }
  return accumulate_products(accumulator, x, y);
}

float element(const Factors& a, const Factors& b, int64_t depth, ScaleRule rule, const Accumulator& accumulator) {
  if (accumulator != Accumulator{}) return sum_limited(a, b, depth, accumulator);
  if (rule == ScaleRule::kPow2) return sum_of_values(a, b, depth);
  return sum_of_groups(a, b, depth, [&](int64_t begin, int64_t steps) {
    float sum = 0;
    for (int64_t s = begin; s < begin + steps; ++s) sum += a.codes[s] * b.codes[s];
    return sum;
  });
}

// The factors of `count` rows or columns of an operand.
struct Decoded {
  int64_t depth;
  std::vector<float> codes, scales;
  Decoded(int64_t count, int64_t steps)
      : depth(steps), codes(static_cast<size_t>(count * steps)), scales(static_cast<size_t>(count * scale_groups(steps))) {}
  float& code(int64_t i, int64_t s) { return codes[static_cast<size_t>(i * depth + s)]; }
  float& scale(int64_t i, int64_t g) { return scales[static_cast<size_t>(i * scale_groups(depth) + g)]; }
  Factors of(int64_t i) const { return {codes.data() + i * depth, scales.data() + i * scale_groups(depth)}; }
};

template <class A, class Out>
void linear(const LinearBlock& x) {
  const auto* a = static_cast<const A*>(x.a);
  const auto* b = static_cast<const E4M3*>(x.b);
  auto* c = static_cast<Out*>(x.c);
  const int64_t groups = scale_groups(x.depth);
  Decoded row(1, x.depth), columns(16, x.depth);
  for (int64_t n0 = 0; n0 < x.cols; n0 += 16) {
    const E4M3* panel = b + n0 / 16 * x.panel_stride;
    const int64_t width = std::min<int64_t>(16, x.cols - n0);
    for (int64_t n = 0; n < width; ++n) {
      for (int64_t k = 0; k < x.depth; ++k) columns.code(n, k) = static_cast<float>(panel[panel_index<E4M3>(n, k)]);
      for (int64_t g = 0; g < groups; ++g)
        columns.scale(n, g) = x.b_scales.data[(x.col_begin + n0 + n) / kScaleGroup * x.b_scales.stride + g];
    }
    for (int64_t m = 0; m < x.rows; ++m) {
      for (int64_t k = 0; k < x.depth; ++k) row.code(0, k) = static_cast<float>(a[m * x.a_stride + k]);
      for (int64_t g = 0; g < groups; ++g) row.scale(0, g) = x.a_scales.data[m * x.a_scales.stride + g];
      for (int64_t n = 0; n < width; ++n) {
        const float sum = element(row.of(0), columns.of(n), x.depth, x.rule, x.accumulator);
        Out& out = c[m * x.c_stride + n0 + n];
        out = Out(x.accumulate ? static_cast<float>(out) + sum : sum);
      }
    }
  }
}

template <class T>
Decoded decode_columns(const T* in, int64_t stride, const BlockScales& scales, int64_t depth, int64_t cols) {
  Decoded out(cols, depth);
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t m = 0; m < depth; ++m) out.code(c, m) = static_cast<float>(in[m * stride + c]);
    for (int64_t g = 0; g < scale_groups(depth); ++g) out.scale(c, g) = scales.data[g * scales.stride + c];
  }
  return out;
}

template <class A>
void gradient(const GradientBlock& x) {
  const Decoded a = decode_columns(static_cast<const A*>(x.a), x.a_stride, x.a_scales, x.depth, x.rows);
  const Decoded b = decode_columns(static_cast<const E4M3*>(x.b), x.b_stride, x.b_scales, x.depth, x.cols);
  auto* c = static_cast<float*>(x.c);
  for (int64_t n = 0; n < x.rows; ++n)
    for (int64_t k = 0; k < x.cols; ++k) c[n * x.c_stride + k] += element(a.of(n), b.of(k), x.depth, x.rule, x.accumulator);
}

}  // namespace

void linear_reference_fp8(const LinearBlock& block) {
  const bool f32 = block.out == DType::kF32;
  if (block.operands == DType::kE4M3) return f32 ? linear<E4M3, float>(block) : linear<E4M3, Bf16>(block);
  return f32 ? linear<E5M2, float>(block) : linear<E5M2, Bf16>(block);
}

void gradient_reference_fp8(const GradientBlock& block) {
  if (block.operands == DType::kE4M3) return gradient<E4M3>(block);
  gradient<E5M2>(block);
}

}  // namespace rorqual::gemm
