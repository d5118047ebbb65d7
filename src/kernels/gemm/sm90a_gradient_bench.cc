// Weight gradients in FP8 over 4096 tokens of DeepSeek-V3's layers, and grouped over experts of 8192 rows, by turns with
// cuBLASLt's FP8 of the same scales (one call for each group) and with BF16. FLOPs: 2·M·N·K; bytes: operands once, and C read
// and written.
#include <fmt/format.h>

#include "kernels/common/sm90a_figure.h"
#include "kernels/gemm/sm90a.h"
#include "kernels/gemm/sm90a_peers.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::Figure;
using ::rorqual::testing::sized;

struct Shape {
  int64_t groups, m, n, k;
};

std::vector<WeightGradientProblem> make_problems(DeviceMemory& memory, const Shape& s, DType dtype) {
  std::vector<WeightGradientProblem> problems;
  const auto operand = [&](int64_t cols) -> ScaledTensor {
    if (dtype == DType::kE4M3) return memory.codes(s.m, cols, ScaledTensor::Group::kColumnTransposed);
    return memory.random(dtype, s.m, cols);
  };
  for (int64_t g = 0; g < s.groups; ++g) problems.push_back({operand(s.n), operand(s.k), memory.random(DType::kF32, s.n, s.k)});
  return problems;
}

using Problems = std::vector<WeightGradientProblem>;

WeightGradientArgs args_of(const Problems& problems) {
  return {.problems = problems, .scales = ScaleRule::kFp32};
}

void gradient_figure(Figure& figure, Shape s) {
  s = {sized(s.groups, 2), sized(s.m, 256), sized(s.n, 128), sized(s.k, 128)};
  const int64_t bytes = s.groups * (s.m * (s.n + s.k) + 8 * s.n * s.k);
  figure.set_work({.flops = 2 * static_cast<double>(s.groups * s.m * s.n * s.k), .bytes = static_cast<double>(bytes)}, bytes);
  auto fp8 = std::make_shared<std::vector<Problems>>();
  for (int set = 0; set < figure.set_count(); ++set) fp8->push_back(make_problems(figure.memory, s, DType::kE4M3));
  figure.add("ours", refuse_weight_gradient_sm90a(args_of(fp8->front())),
             [=](int set, const Stream& stream) { weight_gradient_sm90a(args_of((*fp8)[static_cast<size_t>(set)]), stream); });
  if (!product_peers().weight_gradient) return;
  figure.add("cublaslt_fp8", "", [=](int set, const Stream& stream) {
    for (const WeightGradientProblem& p : (*fp8)[static_cast<size_t>(set)])
      product_peers().fp8(p.a.codes, p.a.scales, p.b.codes, p.b.scales, p.c, false, true, stream);
  });
  auto bf16 = std::make_shared<std::vector<Problems>>();
  for (int set = 0; set < figure.set_count(); ++set) bf16->push_back(make_problems(figure.memory, s, DType::kBF16));
  figure.add("cublaslt_bf16", "", [=](int set, const Stream& stream) {
    product_peers().weight_gradient(args_of((*bf16)[static_cast<size_t>(set)]), stream);
  });
}

const bool kRegistered = [] {
  for (const Shape& s : {Shape{1, 4096, 2112, 7168}, Shape{1, 4096, 24576, 1536}, Shape{1, 4096, 7168, 16384},
                         Shape{1, 4096, 4096, 7168}, Shape{1, 4096, 7168, 2048}, Shape{4, 8192, 4096, 7168},
                         Shape{4, 8192, 7168, 2048}, Shape{8, 4096, 4096, 7168}, Shape{8, 4096, 7168, 2048}})
    add_figure(s.groups == 1 ? fmt::format("fp8_gradient/{}x{}/m{}", s.n, s.k, s.m)
                             : fmt::format("fp8_gradient/{}x{}/{}x{}", s.n, s.k, s.groups, s.m),
               [=](Figure& figure) { gradient_figure(figure, s); });
  return true;
}();

}  // namespace
}  // namespace rorqual
