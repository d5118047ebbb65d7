#include "kernels/gemm/gemm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/cpu.h"
#include "kernels/gemm/gemm_test_support.h"

namespace rorqual {
namespace {

using gemm_test::compare;
using gemm_test::exact_gradient;
using gemm_test::exact_linear;
using gemm_test::Matrix;
using gemm_test::Packed;

constexpr DType kF64 = DType::kF64, kF32 = DType::kF32, kBF16 = DType::kBF16;

struct Size {
  int64_t m, n, k;
};

// Every remainder of the tiles (up to 40), then sizes beyond one block of rows, of columns and of the sum.
std::vector<Size> sizes() {
  std::vector<Size> out;
  for (int64_t i = 1; i <= 40; ++i) out.push_back({i, 1 + i * 7 % 40, 1 + i * 11 % 40});
  for (const Size s : {Size{1, 1, 1}, Size{1, 530, 300}, Size{12, 32, 256}, Size{13, 33, 257}, Size{250, 70, 65},
                       Size{37, 545, 259}, Size{129, 48, 515}, Size{5, 16, 0}, Size{40, 24, 1}, Size{253, 31, 129}})
    out.push_back(s);
  return out;
}

struct LinearCase {
  DType operands, out;
  bool accumulate;
};

// One problem of every size; a failure names kernel, size and the worst element.
void check_linear_row(const KernelRow<LinearArgs>& row, const LinearCase& test) {
  ThreadPool pool(2);
  const Stream stream(pool);
  for (const Size s : sizes()) {
    const Matrix a(test.operands, s.m, s.k, s.m % 3), b(test.operands, s.n, s.k);
    a.fill(1), b.fill(2);
    const Packed weight(b.tensor(), Transposed::kNo, test.operands, stream);
    const Matrix c(test.out, s.m, s.n, s.n % 5);
    if (test.accumulate) c.fill(3);
    const auto want = exact_linear(a.tensor(), b.tensor(), c.tensor(), test.accumulate);
    const LinearProblem problem{a.tensor(), weight.weight(), c.tensor()};
    row.run({{&problem, 1}, test.accumulate}, stream);
    EXPECT_EQ(compare(c.tensor(), want), "") << row.name << " m=" << s.m << " n=" << s.n << " k=" << s.k;
    EXPECT_TRUE(c.gaps_untouched()) << row.name << " m=" << s.m << " n=" << s.n << " k=" << s.k;
  }
}

void check_gradient_row(const KernelRow<WeightGradientArgs>& row, DType operands) {
  ThreadPool pool(2);
  const Stream stream(pool);
  for (const Size s : sizes()) {
    const Matrix a(operands, s.m, s.n, s.n % 3), b(operands, s.m, s.k, s.m % 5);
    a.fill(1), b.fill(2);
    const Matrix c(operands == kF64 ? kF64 : kF32, s.n, s.k);
    c.fill(3);
    const auto want = exact_gradient(a.tensor(), b.tensor(), c.tensor());
    const WeightGradientProblem problem{a.tensor(), b.tensor(), c.tensor()};
    row.run({{&problem, 1}}, stream);
    EXPECT_EQ(compare(c.tensor(), want), "") << row.name << " m=" << s.m << " n=" << s.n << " k=" << s.k;
    EXPECT_TRUE(c.gaps_untouched()) << row.name << " m=" << s.m << " n=" << s.n << " k=" << s.k;
  }
}

// A problem of the given types, only to ask a row whether it takes it.
LinearProblem linear_problem_of(DType operands, DType out) {
  return {Tensor(nullptr, operands, 1, 1), {nullptr, operands, 1, 1}, Tensor(nullptr, out, 1, 1)};
}
WeightGradientProblem gradient_problem_of(DType operands) {
  return {Tensor(nullptr, operands, 1, 1), Tensor(nullptr, operands, 1, 1),
          Tensor(nullptr, operands == kF64 ? kF64 : kF32, 1, 1)};
}

template <class Args>
std::vector<std::string> names_of(std::span<const KernelRow<Args>> rows) {
  std::vector<std::string> names;
  for (const auto& row : rows)
    if (!row.name.ends_with("fp8")) names.emplace_back(row.name);  // gemm_fp8_test.cc has those
  return names;
}
template <class Args>
const KernelRow<Args>& row_named(std::span<const KernelRow<Args>> rows, std::string_view name) {
  for (const auto& row : rows)
    if (row.name == name) return row;
  CHECK(false, "no row {}", name);
}

class LinearRow : public testing::TestWithParam<std::string> {};
class GradientRow : public testing::TestWithParam<std::string> {};
std::string test_name(const testing::TestParamInfo<std::string>& info) {
  return info.param;
}
INSTANTIATE_TEST_SUITE_P(Gemm, LinearRow, testing::ValuesIn(names_of(linear_kernels())), test_name);
INSTANTIATE_TEST_SUITE_P(Gemm, GradientRow, testing::ValuesIn(names_of(weight_gradient_kernels())), test_name);

#define SKIP_IF_CPU_LACKS(row) \
  if ((row).isa > cpu_isa()) GTEST_SKIP() << "this CPU has no " << isa_name((row).isa)

TEST_P(LinearRow, AgreesWithExactSums) {
  const KernelRow<LinearArgs>& row = row_named(linear_kernels(), GetParam());
  SKIP_IF_CPU_LACKS(row);
  int cases = 0;
  for (const LinearCase test : {LinearCase{kF64, kF64, false},
                                {kF64, kF64, true},
                                {kF32, kF32, false},
                                {kF32, kF32, true},
                                {kBF16, kF32, false},
                                {kBF16, kF32, true},
                                {kBF16, kBF16, false},
                                {kBF16, kBF16, true}}) {
    const LinearProblem problem = linear_problem_of(test.operands, test.out);
    if (!row.refuse({{&problem, 1}, test.accumulate}).empty()) continue;
    ++cases;
    check_linear_row(row, test);
  }
  EXPECT_GE(cases, 2);
}

TEST_P(GradientRow, AgreesWithExactSums) {
  const KernelRow<WeightGradientArgs>& row = row_named(weight_gradient_kernels(), GetParam());
  SKIP_IF_CPU_LACKS(row);
  int cases = 0;
  for (const DType operands : {kF64, kF32, kBF16}) {
    const WeightGradientProblem problem = gradient_problem_of(operands);
    if (!row.refuse({{&problem, 1}}).empty()) continue;
    ++cases;
    check_gradient_row(row, operands);
  }
  EXPECT_GE(cases, 1);
}

}  // namespace
}  // namespace rorqual
