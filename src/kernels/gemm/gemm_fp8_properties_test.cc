// What must hold bit for bit of FP8 products: extreme and NaN scales, independence of threads, neighbours and M, and one byte's
// way through the three products of a layer.
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
constexpr ScaleRule kRules[] = {ScaleRule::kPow2, ScaleRule::kFp32};

// Calls body(row) for every row for FP8 that this CPU has and whose sums are the definition's.
template <class Args, class Body>
void for_each_row(std::span<const KernelRow<Args>> rows, const Body& body) {
  for (const auto& row : rows) {
    if (row.isa > cpu_isa() || row.isa == Isa::kAmx) continue;
    if (row.isa != Isa::kReference && !row.name.ends_with("fp8")) continue;
    SCOPED_TRACE(row.name);
    body(row);
  }
}
Matrix run_linear(const KernelRow<LinearArgs>& row, const Scaled& a, const Fp8Weight& b, ScaleRule rule, const Stream& stream,
                  DType out = kF32) {
  Matrix c(out, a.tensor().rows(), b.weight().n, 3);
  const LinearProblem problem{a.tensor(), b.weight(), c.tensor()};
  row.run({.problems = {&problem, 1}, .scales = rule}, stream);
  return c;
}
Matrix run_gradient(const KernelRow<WeightGradientArgs>& row, const Scaled& a, const Scaled& b, ScaleRule rule,
                    const Stream& stream) {
  Matrix c(kF32, a.tensor().cols(), b.tensor().cols());
  c.fill(3);
  const WeightGradientProblem problem{a.tensor(), b.tensor(), c.tensor()};
  row.run({.problems = {&problem, 1}, .scales = rule}, stream);
  return c;
}
Matrix truth_linear(const Scaled& a, const Fp8Weight& b, ScaleRule rule, DType out = kF32) {
  Matrix c(out, a.tensor().rows(), b.weight().n, 3);
  gemm_test::defined_linear(a, b, c.tensor(), rule, false);
  return c;
}
Matrix truth_gradient(const Scaled& a, const Scaled& b, ScaleRule rule) {
  Matrix c(kF32, a.tensor().cols(), b.tensor().cols());
  c.fill(3);
  gemm_test::defined_gradient(a, b, c.tensor(), rule);
  return c;
}

// Few rows and many, since kernels treat them differently.
constexpr int64_t kRowCounts[] = {1, 9, 17, 45};

TEST(GemmFp8Values, ScalesAtTheEndsOfTheRange) {
  ThreadPool pool(1);
  const Stream stream(pool);
  struct Range {
    int a_low, a_high, b_low, b_high;
  };
  // Products that underflow, that are denormal, that overflow, and both at once.
  for (const Range& r : {Range{-117, -117, -117, -117}, Range{-117, -60, -60, -20}, Range{100, 119, 0, 10},
                         Range{-117, -110, 110, 119}, Range{-117, 119, -117, 119}})
    for (const ScaleRule rule : kRules)
      for (const DType operand : {kE4M3, kE5M2})
        for (const int64_t m : kRowCounts) {
          const Fill fill_a{rule, r.a_low, r.a_high}, fill_b{rule, r.b_low, r.b_high};
          const Scaled a(operand, m, 270, Group::kRow, 1, fill_a);
          const Fp8Weight b(70, 270, 2, fill_b);
          const Matrix want = truth_linear(a, b, rule);
          for_each_row(linear_kernels(), [&](const auto& row) {
            EXPECT_EQ(differing(run_linear(row, a, b, rule, stream).tensor(), want.tensor()), "") << m << " rows";
          });
          const Scaled ga(operand, 260, m, Group::kColumn, 1, fill_a), gb(kE4M3, 260, 35, Group::kColumn, 2, fill_b);
          const Matrix want_gradient = truth_gradient(ga, gb, rule);
          for_each_row(weight_gradient_kernels(), [&](const auto& row) {
            EXPECT_EQ(differing(run_gradient(row, ga, gb, rule, stream).tensor(), want_gradient.tensor()), "") << m;
          });
        }
}

TEST(GemmFp8Values, NanScalesAndCodesReachWhatTheyTouchAlone) {
  ThreadPool pool(1);
  const Stream stream(pool);
  for (const ScaleRule rule : kRules)
    for (const int64_t m : kRowCounts) {
      const Fill fill{.rule = rule};
      const Scaled a(kE5M2, m, 200, Group::kRow, 1, fill);
      Fp8Weight b(300, 200, 2, fill);
      b.scale(130, 150) = NAN;   // columns 128 ... 255
      a.scale(m - 1, 10) = NAN;  // the last row
      b.code(5, 199) = 0xff;     // column 5
      a.code(m / 2, 0) = 0x7e;   // a row of NaN
      b.lay_out();
      for_each_row(linear_kernels(), [&](const auto& row) {
        const Matrix c = run_linear(row, a, b, rule, stream, kBF16);
        EXPECT_EQ(differing(c.tensor(), truth_linear(a, b, rule, kBF16).tensor()), "");
        for (int64_t r = 0; r < m; ++r)
          for (int64_t n = 0; n < 300; ++n)
            EXPECT_EQ(std::isnan(gemm_test::get(c.tensor(), r, n)), r == m - 1 || r == m / 2 || n == 5 || (n >= 128 && n < 256))
                << r << ", " << n;
      });
      const Scaled ga(kE4M3, 200, m, Group::kColumn, 1, fill), gb(kE4M3, 200, 30, Group::kColumn, 2, fill);
      ga.scale(150, m - 1) = NAN, gb.code(3, 7) = 0x7f;
      for_each_row(weight_gradient_kernels(), [&](const auto& row) {
        const Matrix c = run_gradient(row, ga, gb, rule, stream);
        for (int64_t r = 0; r < m; ++r)
          for (int64_t k = 0; k < 30; ++k)
            EXPECT_EQ(std::isnan(gemm_test::get(c.tensor(), r, k)), r == m - 1 || k == 7) << r << ", " << k;
      });
    }
}

// One table for all 256 codes on either side: 1 · code, in each set.
TEST(GemmFp8Values, EveryCode) {
  ThreadPool pool(1);
  const Stream stream(pool);
  for (const DType operand : {kE4M3, kE5M2})
    for (const int64_t copies : {1, 30}) {
      const Fill one{.smallest_exponent = 3, .largest_exponent = 3, .zero_groups = false};
      const Scaled a(operand, 256 * copies, 4, Group::kRow, 1, one);
      Fp8Weight b(256, 4, 2, one);
      for (int64_t i = 0; i < 256 * copies; ++i)
        for (int64_t k = 0; k < 4; ++k) a.code(i, k) = k == i % 4 ? static_cast<uint8_t>(i) : uint8_t{0};
      for (int64_t n = 0; n < 256; ++n)
        for (int64_t k = 0; k < 4; ++k) b.code(n, k) = static_cast<uint8_t>(n);
      b.lay_out();
      const Matrix want = truth_linear(a, b, ScaleRule::kPow2);
      for_each_row(linear_kernels(), [&](const auto& row) {
        EXPECT_EQ(differing(run_linear(row, a, b, ScaleRule::kPow2, stream).tensor(), want.tensor()), "");
      });
    }
}

TEST(GemmFp8Order, RowsDependOnThemselvesAlone) {
  ThreadPool pool(2);
  const Stream stream(pool);
  for (const ScaleRule rule : kRules) {
    const Fill fill{.rule = rule};
    const Scaled a(kE4M3, 300, 530, Group::kRow, 1, fill);
    const Fp8Weight b(72, 530, 2, fill);
    for_each_row(linear_kernels(), [&](const auto& row) {
      const Matrix all = run_linear(row, a, b, rule, stream), some(kF32, 300, 72, 3);
      int64_t begin = 0;
      for (int64_t rows = 1; begin < 300; begin += rows, rows = std::min<int64_t>(rows + 1, 300 - begin)) {
        const LinearProblem part{a.tensor().row_range(begin, rows), b.weight(), some.tensor().row_range(begin, rows)};
        row.run({.problems = {&part, 1}, .scales = rule}, stream);
      }
      EXPECT_TRUE(all == some);
    });
  }
}

// Experts with different numbers of rows, none and one among them, in one call: as if each were alone, for 1, 2 and 3 threads.
TEST(GemmFp8Groups, ThreadsAndNeighboursDoNotShow) {
  constexpr int64_t kRows[] = {250, 0, 1, 37, 300, 12};
  for (const ScaleRule rule : kRules) {
    const Fill fill{.rule = rule};
    std::vector<std::unique_ptr<Scaled>> inputs, left, right;
    std::vector<std::unique_ptr<Fp8Weight>> weights;
    for (size_t e = 0; e < std::size(kRows); ++e) {
      inputs.push_back(std::make_unique<Scaled>(kE4M3, kRows[e], 165, Group::kRow, 10 + e, fill, 1));
      weights.push_back(std::make_unique<Fp8Weight>(200, 165, 20 + e, fill));
      left.push_back(std::make_unique<Scaled>(kE4M3, kRows[e], 150, Group::kColumn, 30 + e, fill, 2));
      right.push_back(std::make_unique<Scaled>(kE4M3, kRows[e], 65, Group::kColumn, 40 + e, fill));
    }
    const auto check = [&](const auto& row, auto make_problem, int64_t cols_of_c, bool gradient) {
      std::vector<std::vector<Matrix>> results;
      for (const int threads : {0, 1, 2, 3}) {  // 0: one problem at a time
        ThreadPool pool(std::max(1, threads));
        const Stream stream(pool);
        auto& out = results.emplace_back();
        std::vector<decltype(make_problem(size_t{}, Tensor{}))> problems;
        for (size_t e = 0; e < std::size(kRows); ++e) out.emplace_back(kF32, gradient ? 150 : kRows[e], cols_of_c);
        for (size_t e = 0; e < std::size(kRows); ++e) {
          out[e].fill(50 + e);
          problems.push_back(make_problem(e, out[e].tensor()));
        }
        if (threads > 0) row.run({.problems = problems, .scales = rule}, stream);
        for (size_t e = 0; threads == 0 && e < problems.size(); ++e)
          row.run({.problems = {&problems[e], 1}, .scales = rule}, stream);
      }
      for (size_t t = 1; t < results.size(); ++t)
        for (size_t e = 0; e < std::size(kRows); ++e)
          EXPECT_TRUE(results[0][e] == results[t][e]) << t << " threads, expert " << e;
    };
    for_each_row(linear_kernels(), [&](const auto& row) {
      check(
          row,
          [&](size_t e, const Tensor& c) {
            return LinearProblem{inputs[e]->tensor(), weights[e]->weight(), c};
          },
          200, false);
    });
    for_each_row(weight_gradient_kernels(), [&](const auto& row) {
      check(
          row,
          [&](size_t e, const Tensor& c) {
            return WeightGradientProblem{left[e]->tensor(), right[e]->tensor(), c};
          },
          65, true);
    });
  }
}

// A layer's three products: y = x·Wᵀ, the input's gradient g·W and the weight's gᵀ·x. Flipping one bit of a byte changes just
// the elements whose sums have that factor, to what the definition says.
TEST(GemmFp8Flip, OneByteChangesEachProductAsDefined) {
  ThreadPool pool(2);
  const Stream stream(pool);
  constexpr int64_t kTokens = 150, kIn = 140, kOut = 130;
  for (const ScaleRule rule : kRules) {
    const Fill fill{.rule = rule, .zero_groups = false};
    const Scaled x(kE4M3, kTokens, kIn, Group::kRow, 1, fill), g(kE4M3, kTokens, kOut, Group::kRow, 2, fill);
    const Scaled xc(kE4M3, kTokens, kIn, Group::kColumn, 3, fill), gc(kE4M3, kTokens, kOut, Group::kColumn, 4, fill);
    Fp8Weight w(kOut, kIn, 5, fill), wt(kIn, kOut, 6, fill);
    const auto flip = [](uint8_t& byte) { byte ^= 0x81; };  // its sign and its last bit; twice gives it back
    // want_changed(r, c) of the product's output.
    const auto check = [&](const Matrix& before, const Matrix& after, const Matrix& want, const auto& want_changed) {
      EXPECT_EQ(differing(after.tensor(), want.tensor()), "");
      for (int64_t r = 0; r < before.tensor().rows; ++r)
        for (int64_t c = 0; c < before.tensor().cols; ++c)
          if (!want_changed(r, c)) {
            ASSERT_EQ(gemm_test::get(before.tensor(), r, c), gemm_test::get(after.tensor(), r, c));
          }
      EXPECT_NE(differing(before.tensor(), after.tensor()), "") << "nothing changed";
    };
    for_each_row(linear_kernels(), [&](const auto& row) {
      const Matrix y = run_linear(row, x, w, rule, stream), dx = run_linear(row, g, wt, rule, stream);
      flip(w.code(77, 131)), w.lay_out();  // a weight: a column of y
      check(y, run_linear(row, x, w, rule, stream), truth_linear(x, w, rule), [](int64_t, int64_t c) { return c == 77; });
      flip(w.code(77, 131)), w.lay_out();
      flip(x.code(149, 3));  // an activation: a row of y
      check(y, run_linear(row, x, w, rule, stream), truth_linear(x, w, rule), [](int64_t r, int64_t) { return r == 149; });
      flip(x.code(149, 3));
      flip(wt.code(131, 77)), wt.lay_out();  // the weight again: a column of the input's gradient
      check(dx, run_linear(row, g, wt, rule, stream), truth_linear(g, wt, rule), [](int64_t, int64_t c) { return c == 131; });
      flip(wt.code(131, 77)), wt.lay_out();
      flip(g.code(64, 129));  // a gradient: a row of the input's gradient
      check(dx, run_linear(row, g, wt, rule, stream), truth_linear(g, wt, rule), [](int64_t r, int64_t) { return r == 64; });
      flip(g.code(64, 129));
    });
    for_each_row(weight_gradient_kernels(), [&](const auto& row) {
      const Matrix dw = run_gradient(row, gc, xc, rule, stream);
      flip(gc.code(149, 12));
      check(dw, run_gradient(row, gc, xc, rule, stream), truth_gradient(gc, xc, rule),
            [](int64_t r, int64_t) { return r == 12; });
      flip(gc.code(149, 12));
      flip(xc.code(127, 139));
      check(dw, run_gradient(row, gc, xc, rule, stream), truth_gradient(gc, xc, rule),
            [](int64_t, int64_t c) { return c == 139; });
      flip(xc.code(127, 139));
    });
  }
}

// Planted defects: what the comparison must report.
TEST(GemmFp8Defects, AreCaught) {
  ThreadPool pool(1);
  const Stream stream(pool);
  for (const ScaleRule rule : kRules) {
    const Fill fill{.rule = rule, .zero_groups = false};
    const Scaled a(kE4M3, 60, 300, Group::kRow, 1, fill);
    Fp8Weight b(150, 300, 2, fill);
    const Matrix want = truth_linear(a, b, rule);
    for_each_row(linear_kernels(), [&](const auto& row) {
      ASSERT_EQ(differing(run_linear(row, a, b, rule, stream).tensor(), want.tensor()), "");
      b.scale(149, 299) *= 2;  // a scale of the last ragged block
      EXPECT_NE(differing(run_linear(row, a, b, rule, stream).tensor(), want.tensor()), "") << "a wrong scale of the weight";
      b.scale(149, 299) /= 2;
      a.scale(59, 299) *= 2;
      EXPECT_NE(differing(run_linear(row, a, b, rule, stream).tensor(), want.tensor()), "") << "a wrong scale of a row";
      a.scale(59, 299) /= 2;
      Matrix c = run_linear(row, a, b, rule, stream);
      for (int64_t r = 12; r < 24; ++r)
        for (int64_t n = 32; n < 64; ++n) gemm_test::set(c.tensor(), r, n, 0);
      EXPECT_NE(differing(c.tensor(), want.tensor()), "") << "a zeroed tile";
    });
    const Scaled ga(kE4M3, 300, 40, Group::kColumn, 1, fill), gb(kE4M3, 300, 48, Group::kColumn, 2, fill);
    const Matrix want_gradient = truth_gradient(ga, gb, rule);
    for_each_row(weight_gradient_kernels(), [&](const auto& row) {
      ASSERT_EQ(differing(run_gradient(row, ga, gb, rule, stream).tensor(), want_gradient.tensor()), "");
      ga.scale(299, 39) *= 2;
      EXPECT_NE(differing(run_gradient(row, ga, gb, rule, stream).tensor(), want_gradient.tensor()), "") << "a wrong scale";
      ga.scale(299, 39) /= 2;
      Matrix c(kF32, 40, 48);
      c.fill(3);
      const WeightGradientProblem dropped{ga.tensor().row_range(0, 256), gb.tensor().row_range(0, 256), c.tensor()};
      row.run({.problems = {&dropped, 1}, .scales = rule}, stream);
      EXPECT_NE(differing(c.tensor(), want_gradient.tensor()), "") << "the last group of tokens dropped";
    });
  }
}

// The limited accumulator is the reference's alone; promotion every 128 applies the scales there.
TEST(GemmFp8Accumulator, ReferenceAloneAndScaledPerGroup) {
  ThreadPool pool(1);
  const Stream stream(pool);
  const Fill fill{.rule = ScaleRule::kFp32};
  const Scaled a(kE4M3, 3, 300, Group::kRow, 1, fill);
  const Fp8Weight b(20, 300, 2, fill);
  for (const Accumulator accumulator : {Accumulator{13, 128}, {14, 32}, {13, 0}, {0, 128}, {14, 256}}) {
    const Matrix c(kF32, 3, 20);
    const LinearProblem problem{a.tensor(), b.weight(), c.tensor()};
    const LinearArgs args{.problems = {&problem, 1}, .scales = ScaleRule::kFp32, .accumulator = accumulator};
    EXPECT_EQ(select_row(linear_kernels(), args, Isa::kAmx).name, "reference");
    select_row(linear_kernels(), args, Isa::kAmx).run(args, stream);
    for (int64_t m = 0; m < 3; ++m)
      for (int64_t n = 0; n < 20; ++n) {
        std::vector<float> x(300), y(300);
        const bool codes = accumulator.promote > 0 && accumulator.promote <= 128;
        for (int64_t k = 0; k < 300; ++k) {
          x[static_cast<size_t>(k)] = a.value(m, k) * (codes ? 1 : a.scale(m, k));
          y[static_cast<size_t>(k)] = b.value(n, k) * (codes ? 1 : b.scale(n, k));
        }
        float want = 0;
        if (!codes) want = accumulate_products(accumulator, x, y);
        for (size_t k = 0; codes && k < 300; k += 128) {
          const size_t steps = std::min<size_t>(128, 300 - k);
          const float partial =
              accumulate_products(accumulator, std::span(x).subspan(k, steps), std::span(y).subspan(k, steps));
          const auto at = static_cast<int64_t>(k);
          want = std::fma(partial, a.scale(m, at) * b.scale(n, at), want);
        }
        EXPECT_EQ(gemm_test::get(c.tensor(), m, n), want) << accumulator.fraction_bits << " bits, " << accumulator.promote;
      }
  }
}

TEST(GemmFp8Selection, PicksTheBestRow) {
  const Fill fill;
  const Scaled a(kE5M2, 2, 40, Group::kRow, 1, fill), ga(kE5M2, 40, 2, Group::kColumn, 1, fill);
  const Scaled gb(kE4M3, 40, 3, Group::kColumn, 1, fill);
  const Fp8Weight b(20, 40, 2, fill);
  const Matrix c(kBF16, 2, 20), gc(kF32, 2, 3);
  const LinearProblem problem{a.tensor(), b.weight(), c.tensor()};
  const WeightGradientProblem gradient{ga.tensor(), gb.tensor(), gc.tensor()};
  for (const auto& [isa, name] : {std::pair{Isa::kAmx, "amx_fp8"},
                                  {Isa::kAvx512, "avx512_fp8"},
                                  {Isa::kAvx2, "avx2_fp8"},
                                  {Isa::kReference, "reference"}}) {
    EXPECT_EQ(select_row(linear_kernels(), LinearArgs{.problems = {&problem, 1}}, isa).name, name);
    EXPECT_EQ(select_row(weight_gradient_kernels(), WeightGradientArgs{.problems = {&gradient, 1}}, isa).name, name);
  }
  // AMX's tiles take powers of two alone.
  const LinearArgs fp32{.problems = {&problem, 1}, .scales = ScaleRule::kFp32};
  EXPECT_EQ(select_row(linear_kernels(), fp32, Isa::kAmx).name, "avx512_fp8");
  const WeightGradientArgs gradient_fp32{.problems = {&gradient, 1}, .scales = ScaleRule::kFp32};
  EXPECT_EQ(select_row(weight_gradient_kernels(), gradient_fp32, Isa::kAmx).name, "avx512_fp8");
}

TEST(GemmFp8DeathTest, WrongScalesHitChecks) {
  ThreadPool pool(1);
  const Stream stream(pool);
  const Fill fill;
  const Scaled a(kE4M3, 2, 140, Group::kRow, 1, fill);
  const Fp8Weight b(20, 140, 2, fill);
  const Matrix c(kF32, 2, 20);
  const auto run = [&](const ScaledTensor& operand, PackedWeight weight) {
    const LinearProblem problem{operand, weight, c.tensor()};
    linear({.problems = {&problem, 1}}, stream);
  };
  EXPECT_DEATH(run(a.tensor().codes, b.weight()), "needs scales");
  EXPECT_DEATH(run({a.tensor().codes, a.tensor().scales.col_range(0, 1)}, b.weight()), "need F32 scales \\[2, 2\\]");
  PackedWeight without = b.weight();
  without.scale = nullptr;
  EXPECT_DEATH(run(a.tensor(), without), "without scales");
  PackedWeight rows = b.weight();
  rows.layout = PackedWeight::Layout::kRows;
  EXPECT_DEATH(run(a.tensor(), rows), "a weight in rows");
}

}  // namespace
}  // namespace rorqual
