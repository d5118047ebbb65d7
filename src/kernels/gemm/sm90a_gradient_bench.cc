// Weight gradients in FP8 over 4096 tokens of DeepSeek-V3's layers, and grouped over experts of 8192 rows, by turns with BF16.
// FLOPs: 2·M·N·K; bytes: operands once, and C read and written.
#include <fmt/format.h>

#include "kernels/common/sm90a_figure.h"
#include "kernels/gemm/sm90a.h"

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

void gradient_figure(Figure& figure, Shape s) {
  s = {sized(s.groups, 2), sized(s.m, 256), sized(s.n, 128), sized(s.k, 128)};
  const int64_t bytes = s.groups * (s.m * (s.n + s.k) + 8 * s.n * s.k);
  figure.set_work({.flops = 2 * static_cast<double>(s.groups * s.m * s.n * s.k), .bytes = static_cast<double>(bytes)}, bytes);
  using Sets = std::vector<std::vector<WeightGradientProblem>>;
  auto fp8 = std::make_shared<Sets>(), bf16 = std::make_shared<Sets>();
  for (int set = 0; set < figure.set_count(); ++set) {
    fp8->push_back(make_problems(figure.memory, s, DType::kE4M3));
    bf16->push_back(make_problems(figure.memory, s, DType::kBF16));
  }
  const auto add = [&](const char* name, const std::shared_ptr<Sets>& sets) {
    const auto args_of = [](const std::vector<WeightGradientProblem>& problems) {
      return WeightGradientArgs{.problems = problems, .scales = ScaleRule::kFp32};
    };
    figure.add(name, refuse_weight_gradient_sm90a(args_of(sets->front())), [=](int set, const Stream& stream) {
      weight_gradient_sm90a(args_of((*sets)[static_cast<size_t>(set)]), stream);
    });
  };
  add("ours", fp8);
  add("cublaslt_bf16", bf16);
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
