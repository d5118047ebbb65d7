// Every row of the tables on FP8 operands against the definition of gemm.h: bit for bit where that is promised.
#include <gtest/gtest.h>

#include "base/cpu.h"
#include "kernels/gemm/gemm_fp8_test_support.h"

namespace rorqual {
namespace {

using gemm_test::differing;
using gemm_test::Fill;
using gemm_test::Fp8Weight;
using gemm_test::Matrix;
using gemm_test::Scaled;
using Group = ScaledTensor::Group;

constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16, kE4M3 = DType::kE4M3, kE5M2 = DType::kE5M2;

struct Size {
  int64_t m, n, k;
};
// Every remainder of tiles, panels and steps, then several groups of 128 with ragged ends.
std::vector<Size> sizes() {
  std::vector<Size> out;
  for (int64_t i = 1; i <= 40; ++i) out.push_back({i, 1 + i * 7 % 40, 1 + i * 11 % 40});
  for (const Size s :
       {Size{1, 1, 1}, Size{1, 300, 260}, Size{12, 32, 256}, Size{13, 33, 257}, Size{130, 140, 129}, Size{5, 16, 0},
        Size{40, 24, 1}, Size{4, 150, 385}, Size{16, 129, 127}, Size{29, 272, 131}, Size{253, 31, 129}})
    out.push_back(s);
  return out;
}

std::string words(const Size& s) {
  return fmt::format("m={} n={} k={}", s.m, s.n, s.k);
}

template <class Args, class Problem>
bool takes(const KernelRow<Args>& row, const Problem& problem, ScaleRule rule) {
  Args args{.problems = {&problem, 1}};
  args.scales = rule;
  return row.isa <= cpu_isa() && row.refuse(args).empty();
}

struct Case {
  DType operand, out;
  ScaleRule rule;
  bool accumulate;
};
std::string words(const Case& c) {
  return fmt::format("{} into {}, {}{}", dtype_name(c.operand), dtype_name(c.out), c.rule == ScaleRule::kPow2 ? "pow2" : "fp32",
                     c.accumulate ? ", accumulate" : "");
}
std::vector<Case> cases() {
  std::vector<Case> out;
  for (const DType operand : {kE4M3, kE5M2})
    for (const DType to : {kF32, kBF16})
      for (const ScaleRule rule : {ScaleRule::kPow2, ScaleRule::kFp32})
        for (const bool accumulate : {false, true}) out.push_back({operand, to, rule, accumulate});
  return out;
}

// Rows for FP8 that this CPU has, AMX left out.
template <class Args>
int exact_rows(std::span<const KernelRow<Args>> rows) {
  int count = 0;
  for (const auto& row : rows)
    count += row.isa <= cpu_isa() && row.isa != Isa::kAmx && (row.isa == Isa::kReference || row.name.ends_with("fp8"));
  return count;
}
// AMX alone sums in another order.
bool is_exact(Isa isa) {
  return isa != Isa::kAmx;
}

TEST(GemmFp8, LinearIsTheDefinitionBitForBit) {
  ThreadPool pool(2);
  const Stream stream(pool);
  int rows_tested = 0;
  for (const Case& test : cases()) {
    SCOPED_TRACE(words(test));
    for (const Size& s : sizes()) {
      SCOPED_TRACE(words(s));
      const Fill fill{.rule = test.rule};
      const Scaled a(test.operand, s.m, s.k, Group::kRow, 1, fill, s.m % 4);
      const Fp8Weight b(s.n, s.k, 2, fill);
      const Matrix start(test.out, s.m, s.n, s.n % 5);
      if (test.accumulate) start.fill(3);
      const Matrix want = start.copy();
      gemm_test::defined_linear(a, b, want.tensor(), test.rule, test.accumulate);
      for (const auto& row : linear_kernels()) {
        const Matrix c = start.copy();
        const LinearProblem problem{a.tensor(), b.weight(), c.tensor()};
        if (!takes(row, problem, test.rule) || !is_exact(row.isa)) continue;
        ++rows_tested;
        row.run({.problems = {&problem, 1}, .accumulate = test.accumulate, .scales = test.rule}, stream);
        EXPECT_EQ(differing(c.tensor(), want.tensor()), "") << row.name;
        EXPECT_TRUE(c.gaps_untouched()) << row.name;
      }
    }
  }
  EXPECT_EQ(rows_tested, 51 * 16 * exact_rows(linear_kernels()));
}

TEST(GemmFp8, WeightGradientIsTheDefinitionBitForBit) {
  ThreadPool pool(2);
  const Stream stream(pool);
  int rows_tested = 0;
  for (const Case& test : cases()) {
    if (test.out != kF32 || !test.accumulate) continue;
    SCOPED_TRACE(words(test));
    for (const Size& s : sizes()) {
      SCOPED_TRACE(words(s));
      const Fill fill{.rule = test.rule};
      const int64_t tokens = s.k, n = s.m, k = s.n;  // the sum's length varies most
      const Scaled a(test.operand, tokens, n, Group::kColumn, 1, fill, s.m % 4);
      const Scaled b(kE4M3, tokens, k, Group::kColumn, 2, fill, s.n % 4);
      const Matrix start(kF32, n, k);
      start.fill(3);
      const Matrix want = start.copy();
      gemm_test::defined_gradient(a, b, want.tensor(), test.rule);
      for (const auto& row : weight_gradient_kernels()) {
        const Matrix c = start.copy();
        const WeightGradientProblem problem{a.tensor(), b.tensor(), c.tensor()};
        if (!takes(row, problem, test.rule) || !is_exact(row.isa)) continue;
        ++rows_tested;
        row.run({.problems = {&problem, 1}, .scales = test.rule}, stream);
        EXPECT_EQ(differing(c.tensor(), want.tensor()), "") << row.name;
        EXPECT_TRUE(c.gaps_untouched()) << row.name;
      }
    }
  }
  EXPECT_EQ(rows_tested, 51 * 4 * exact_rows(weight_gradient_kernels()));
}

}  // namespace
}  // namespace rorqual
