// What must hold bit for bit: the documented order of sums, and that neither threads nor neighbours show.
#include <gtest/gtest.h>

#include "base/cpu.h"
#include "kernels/gemm/gemm_test_support.h"
#include "kernels/gemm/peak.h"

namespace rorqual {
namespace {

using gemm_test::compare;
using gemm_test::exact_gradient;
using gemm_test::exact_linear;
using gemm_test::get;
using gemm_test::Matrix;
using gemm_test::Packed;

constexpr DType kF64 = DType::kF64, kF32 = DType::kF32, kBF16 = DType::kBF16;
constexpr DType kFloats[] = {kF64, kF32, kBF16};

LinearProblem linear_types(DType operands) {
  return {Tensor(nullptr, operands, 1, 1), {nullptr, operands, 1, 1}, Tensor(nullptr, operands, 1, 1)};
}
WeightGradientProblem gradient_types(DType operands) {
  return {Tensor(nullptr, operands, 1, 1), Tensor(nullptr, operands, 1, 1),
          Tensor(nullptr, operands == kF64 ? kF64 : kF32, 1, 1)};
}

// Calls body(row, operand type) for every row that this CPU has and every type that the row takes.
template <class Body>
void for_each_linear_row(const Body& body) {
  for (const auto& row : linear_kernels())
    for (const DType operands : kFloats) {
      const LinearProblem problem = linear_types(operands);
      if (row.isa <= cpu_isa() && row.refuse({{&problem, 1}}).empty()) {
        SCOPED_TRACE(fmt::format("{} on {}", row.name, dtype_name(operands)));
        body(row, operands);
      }
    }
}
template <class Body>
void for_each_gradient_row(const Body& body) {
  for (const auto& row : weight_gradient_kernels())
    for (const DType operands : kFloats) {
      const WeightGradientProblem problem = gradient_types(operands);
      if (row.isa <= cpu_isa() && row.refuse({{&problem, 1}}).empty()) {
        SCOPED_TRACE(fmt::format("{} on {}", row.name, dtype_name(operands)));
        body(row, operands);
      }
    }
}

TEST(GemmOrder, RowsDependOnThemselvesAlone) {
  ThreadPool pool(2);
  const Stream stream(pool);
  for_each_linear_row([&](const KernelRow<LinearArgs>& row, DType operands) {
    const Matrix a(operands, 300, 530), b(operands, 72, 530), all(operands, 300, 72), some(operands, 300, 72);
    a.fill(1), b.fill(2);
    const Packed weight(b.tensor(), Transposed::kNo, operands, stream);
    const LinearProblem problem{a.tensor(), weight.weight(), all.tensor()};
    row.run({{&problem, 1}}, stream);
    int64_t begin = 0;
    for (int64_t rows = 1; begin < 300; begin += rows, rows = std::min<int64_t>(rows + 1, 300 - begin)) {
      const LinearProblem part{a.tensor().row_range(begin, rows), weight.weight(), some.tensor().row_range(begin, rows)};
      row.run({{&part, 1}}, stream);
    }
    EXPECT_TRUE(all == some);
  });
}

// AVX2 and AVX-512: one chain of fused multiply-adds over ascending k or m, rounded once; so the sets agree with each other.
TEST(GemmOrder, VectorRowsAreOneAscendingChain) {
  ThreadPool pool(2);
  const Stream stream(pool);
  for_each_linear_row([&](const KernelRow<LinearArgs>& row, DType operands) {
    if (row.isa != Isa::kAvx2 && row.isa != Isa::kAvx512) return;
    for (const bool accumulate : {false, true}) {
      const Matrix a(operands, 45, 515), b(operands, 40, 515), c(operands, 45, 40), want(operands, 45, 40);
      a.fill(1), b.fill(2), c.fill(3), want.fill(3);
      const Packed weight(b.tensor(), Transposed::kNo, operands, stream);
      for (int64_t m = 0; m < 45; ++m)
        for (int64_t n = 0; n < 40; ++n) {
          float sum = 0;
          for (int64_t k = 0; k < 515; ++k)
            sum = std::fma(static_cast<float>(get(a.tensor(), m, k)), static_cast<float>(get(b.tensor(), n, k)), sum);
          gemm_test::set(want.tensor(), m, n, accumulate ? static_cast<float>(get(c.tensor(), m, n)) + sum : sum);
        }
      const LinearProblem problem{a.tensor(), weight.weight(), c.tensor()};
      row.run({{&problem, 1}, accumulate}, stream);
      EXPECT_TRUE(c == want);
    }
  });
  for_each_gradient_row([&](const KernelRow<WeightGradientArgs>& row, DType operands) {
    if (row.isa != Isa::kAvx2 && row.isa != Isa::kAvx512) return;
    const Matrix a(operands, 515, 45), b(operands, 515, 40), c(kF32, 45, 40), want(kF32, 45, 40);
    a.fill(1), b.fill(2), c.fill(3), want.fill(3);
    for (int64_t n = 0; n < 45; ++n)
      for (int64_t k = 0; k < 40; ++k) {
        float sum = 0;
        for (int64_t m = 0; m < 515; ++m)
          sum = std::fma(static_cast<float>(get(a.tensor(), m, n)), static_cast<float>(get(b.tensor(), m, k)), sum);
        want.tensor().row<float>(n)[k] += sum;
      }
    const WeightGradientProblem problem{a.tensor(), b.tensor(), c.tensor()};
    row.run({{&problem, 1}}, stream);
    EXPECT_TRUE(c == want);
  });
}

// Experts with different numbers of rows, one of them none, in one call: as if each were alone, for 1, 2 and 3 threads.
TEST(GemmGroups, ThreadsAndNeighboursDoNotShow) {
  constexpr int64_t kRows[] = {250, 0, 1, 37, 300, 12};
  for_each_linear_row([&](const KernelRow<LinearArgs>& row, DType operands) {
    std::vector<std::unique_ptr<Matrix>> results[4];
    for (const int threads : {0, 1, 2, 3}) {  // 0: one problem at a time
      ThreadPool pool(std::max(1, threads));
      const Stream stream(pool);
      std::vector<std::unique_ptr<Matrix>> inputs;
      std::vector<std::unique_ptr<Packed>> weights;
      std::vector<LinearProblem> problems;
      for (size_t e = 0; e < std::size(kRows); ++e) {
        const Matrix& a = *inputs.emplace_back(std::make_unique<Matrix>(operands, kRows[e], 65));
        const Matrix weight(operands, 200, 65);
        a.fill(10 + e), weight.fill(20 + e);
        weights.push_back(std::make_unique<Packed>(weight.tensor(), Transposed::kNo, operands, stream));
        results[threads].push_back(std::make_unique<Matrix>(operands, kRows[e], 200, 3));
        problems.push_back({a.tensor(), weights.back()->weight(), results[threads].back()->tensor()});
      }
      if (threads > 0) row.run({problems}, stream);
      for (size_t e = 0; threads == 0 && e < problems.size(); ++e) row.run({{&problems[e], 1}}, stream);
    }
    for (const int threads : {1, 2, 3})
      for (size_t e = 0; e < std::size(kRows); ++e)
        EXPECT_TRUE(*results[0][e] == *results[threads][e]) << threads << " threads, expert " << e;
  });
  for_each_gradient_row([&](const KernelRow<WeightGradientArgs>& row, DType operands) {
    std::vector<std::unique_ptr<Matrix>> results[4];
    for (const int threads : {0, 1, 2, 3}) {
      ThreadPool pool(std::max(1, threads));
      const Stream stream(pool);
      std::vector<std::unique_ptr<Matrix>> inputs;
      std::vector<WeightGradientProblem> problems;
      for (size_t e = 0; e < std::size(kRows); ++e) {
        const Matrix& a = *inputs.emplace_back(std::make_unique<Matrix>(operands, kRows[e], 150));
        const Matrix& b = *inputs.emplace_back(std::make_unique<Matrix>(operands, kRows[e], 65));
        const Matrix& c = *results[threads].emplace_back(std::make_unique<Matrix>(operands == kF64 ? kF64 : kF32, 150, 65));
        a.fill(10 + e), b.fill(20 + e), c.fill(30 + e);
        problems.push_back({a.tensor(), b.tensor(), c.tensor()});
      }
      if (threads > 0) row.run({problems}, stream);
      for (size_t e = 0; threads == 0 && e < problems.size(); ++e) row.run({{&problems[e], 1}}, stream);
    }
    for (const int threads : {1, 2, 3})
      for (size_t e = 0; e < std::size(kRows); ++e)
        EXPECT_TRUE(*results[0][e] == *results[threads][e]) << threads << " threads, expert " << e;
    const Matrix untouched(operands == kF64 ? kF64 : kF32, 150, 65);
    untouched.fill(31);
    EXPECT_TRUE(*results[1][1] == untouched) << "a gradient of no tokens changed";
  });
}

TEST(GemmValues, NanAndInfinityReachTheirRowsAlone) {
  ThreadPool pool(1);
  const Stream stream(pool);
  for_each_linear_row([&](const KernelRow<LinearArgs>& row, DType operands) {
    const Matrix a(operands, 30, 41), b(operands, 35, 41), c(operands, 30, 35);
    a.fill(1), b.fill(2);
    gemm_test::set(a.tensor(), 7, 40, NAN);
    gemm_test::set(b.tensor(), 33, 3, INFINITY);
    const Packed weight(b.tensor(), Transposed::kNo, operands, stream);
    const LinearProblem problem{a.tensor(), weight.weight(), c.tensor()};
    row.run({{&problem, 1}}, stream);
    for (int64_t m = 0; m < 30; ++m)
      for (int64_t n = 0; n < 35; ++n) {
        const double x = get(c.tensor(), m, n);
        EXPECT_EQ(std::isnan(x), m == 7) << m << ", " << n;
        EXPECT_EQ(std::isinf(x), m != 7 && n == 33) << m << ", " << n;
      }
  });
}

// Planted defects: the comparison that the rows are tested with must report each.
TEST(GemmDefects, AreCaught) {
  ThreadPool pool(1);
  const Stream stream(pool);
  for_each_linear_row([&](const KernelRow<LinearArgs>& row, DType operands) {
    const Matrix a(operands, 60, 96), b(operands, 64, 96), c(operands, 60, 64);
    a.fill(1), b.fill(2);
    const Packed weight(b.tensor(), Transposed::kNo, operands, stream);
    const auto want = exact_linear(a.tensor(), b.tensor(), c.tensor(), false);
    const LinearProblem problem{a.tensor(), weight.weight(), c.tensor()};
    row.run({{&problem, 1}}, stream);
    ASSERT_EQ(compare(c.tensor(), want), "");
    for (int64_t r = 12; r < 24; ++r)
      for (int64_t n = 32; n < 64; ++n) gemm_test::set(c.tensor(), r, n, 0);
    EXPECT_NE(compare(c.tensor(), want), "") << "a zeroed tile";
    row.run({{&problem, 1}}, stream);
    std::memcpy(c.tensor().raw_row(8), c.tensor().raw_row(9), static_cast<size_t>(64 * size_of(operands)));
    EXPECT_NE(compare(c.tensor(), want), "") << "a wrong row";
    const LinearProblem dropped{
        a.tensor().col_range(0, 64), {weight.weight().data, operands, 16, 64}, c.tensor().col_range(0, 16)};
    row.run({{&problem, 1}}, stream);
    row.run({{&dropped, 1}}, stream);
    EXPECT_NE(compare(c.tensor(), want), "") << "the last steps of the sum dropped";
  });
  for_each_gradient_row([&](const KernelRow<WeightGradientArgs>& row, DType operands) {
    const Matrix a(operands, 160, 40), b(operands, 160, 48), c(operands == kF64 ? kF64 : kF32, 40, 48);
    a.fill(1), b.fill(2), c.fill(3);
    const auto want = exact_gradient(a.tensor(), b.tensor(), c.tensor());
    const WeightGradientProblem problem{a.tensor(), b.tensor(), c.tensor()};
    row.run({{&problem, 1}}, stream);
    ASSERT_EQ(compare(c.tensor(), want), "");
    c.fill(3);
    const WeightGradientProblem dropped{a.tensor().row_range(0, 128), b.tensor().row_range(0, 128), c.tensor()};
    row.run({{&dropped, 1}}, stream);
    EXPECT_NE(compare(c.tensor(), want), "") << "the last block of tokens dropped";
    c.fill(3);
    row.run({{&problem, 1}}, stream);
    row.run({{&problem, 1}}, stream);
    EXPECT_NE(compare(c.tensor(), want), "") << "added twice";
  });
}

TEST(GemmSelection, PicksTheBestRowForTypeAndInstructionSet) {
  const auto linear_row = [](DType operands, Isa isa) {
    const LinearProblem problem = linear_types(operands);
    return select_row(linear_kernels(), LinearArgs{{&problem, 1}}, isa).name;
  };
  const auto gradient_row = [](DType operands, Isa isa) {
    const WeightGradientProblem problem = gradient_types(operands);
    return select_row(weight_gradient_kernels(), WeightGradientArgs{{&problem, 1}}, isa).name;
  };
  struct Case {
    DType operands;
    Isa isa;
    std::string_view name;
  };
  for (const Case& c :
       {Case{kBF16, Isa::kAmx, "amx_bf16"}, Case{kBF16, Isa::kAvx512, "avx512_bf16"}, Case{kBF16, Isa::kAvx2, "avx2_bf16"},
        Case{kBF16, Isa::kReference, "reference"}, Case{kF32, Isa::kAmx, "avx512_f32"}, Case{kF32, Isa::kAvx512, "avx512_f32"},
        Case{kF32, Isa::kAvx2, "avx2_f32"}, Case{kF32, Isa::kReference, "reference"}, Case{kF64, Isa::kAmx, "reference"}}) {
    EXPECT_EQ(linear_row(c.operands, c.isa), c.name);
    EXPECT_EQ(gradient_row(c.operands, c.isa), c.name);
  }
  linear({}, Stream(*std::make_unique<ThreadPool>(1)));  // no problems: nothing to do
}

TEST(GemmPeak, IsMeasuredForEveryInstructionSet) {
  ThreadPool pool(2);
  const Stream stream(pool);
  double reference = 0;
  for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (isa > cpu_isa()) break;
    const ScopedIsa scoped(isa);
    const double gflops = measure_peak_flops(kBF16, stream);
    EXPECT_GT(gflops, 0.05);  // sanitizers cost much
    // The vector units do 4 times as much a cycle as the reference, or more; 1.2 leaves room for a loaded machine.
    EXPECT_GT(gflops, 1.2 * reference) << isa_name(isa);
    if (isa == Isa::kReference) reference = gflops;
  }
}

}  // namespace
}  // namespace rorqual
