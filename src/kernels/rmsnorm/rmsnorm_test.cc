// Every row of RMSNorm's tables against the double-precision truth of the same inputs; the truth against finite differences.
#include "kernels/rmsnorm/rmsnorm.h"

#include <gtest/gtest.h>

#include "kernels/common/matrix_for_tests.h"

namespace rorqual {
namespace {

using ::rorqual::testing::difference;
using ::rorqual::testing::in_double;
using ::rorqual::testing::Matrix;
using ::rorqual::testing::one_thread;

constexpr double kEps = 1e-6;

double unit(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : dtype == DType::kF32 ? 0x1p-24 : 0x1p-53;
}

// Roundings in the longest chain of a row's sum: the reference adds one by one; AVX2 has 32 chains (up to 3 vectors left over,
// then 5 levels of a tree), AVX-512 more. One rounding more for the product in front of it.
double sum_roundings(Isa isa, int64_t d) {
  return isa == Isa::kReference ? static_cast<double>(d) + 1 : static_cast<double>(d) / 32 + 10;
}

double inverse_rms(const Matrix& x, int64_t r) {
  double squares = 0;
  for (int64_t i = 0; i < x.cols(); ++i) squares += x.at(r, i) * x.at(r, i);
  return 1 / std::sqrt(squares / static_cast<double>(x.cols()) + kEps);
}

const std::vector<int64_t> kWidths = [] {
  std::vector<int64_t> widths = ::rorqual::testing::mixed_sizes();
  widths.push_back(2048);
  return widths;
}();
constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

// ---- forward

struct Forward {
  Matrix x, w, y;
  Forward(DType x_type, DType y_type, int64_t rows, int64_t d, uint64_t seed)
      : x(x_type, rows, d, 3), w(x_type == DType::kF64 ? DType::kF64 : DType::kF32, 1, d), y(y_type, rows, d, 5) {
    x.fill_normal(seed);
    w.fill_normal(seed + 1).fill([&](int64_t, int64_t c) { return 1 + 0.1 * w.at(0, c); });
  }
  RmsNormForwardArgs args() const { return {.x = x, .w = w, .y = y.tensor(), .eps = kEps}; }
};

// Roundings: half of the sum's (a square root halves a relative error), mean, eps, root, quotient, two products: 6.
std::string check_forward(const Forward& f, Isa isa) {
  const Matrix x = in_double(f.x), w = in_double(f.w);
  Matrix truth(DType::kF64, x.rows(), x.cols());
  for (int64_t r = 0; r < x.rows(); ++r) {
    const double scale = inverse_rms(x, r);
    for (int64_t c = 0; c < x.cols(); ++c) truth.set(r, c, x.at(r, c) * scale * w.at(0, c));
  }
  const double relative = (sum_roundings(isa, x.cols()) / 2 + 6) * 0x1p-24 + unit(f.y.tensor().dtype);
  const std::string problem =
      difference(truth, in_double(f.y), [&](int64_t r, int64_t c) { return relative * std::abs(truth.at(r, c)); });
  return problem.empty() ? f.y.written_outside() : problem;
}

class RmsNormForward : public ::testing::TestWithParam<KernelRow<RmsNormForwardArgs>> {};

TEST_P(RmsNormForward, AgreesWithTheDefinition) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType x_type : kTypes)
    for (const DType y_type : kTypes)
      for (const int64_t d : kWidths) {
        Forward f(x_type, y_type, 3, d, static_cast<uint64_t>(d));
        GetParam().run(f.args(), one_thread());
        ASSERT_EQ(check_forward(f, GetParam().isa), "") << dtype_name(x_type) << " to " << dtype_name(y_type);
      }
}

TEST_P(RmsNormForward, TheCheckSeesAWrongRowAndALostTail) {
  SKIP_IF_CPU_LACKS(GetParam());
  Forward f(DType::kF32, DType::kF32, 4, 100, 7);
  GetParam().run(f.args(), one_thread());
  ASSERT_EQ(check_forward(f, GetParam().isa), "");
  Forward wrong_row = f, lost_tail = f;
  for (int64_t c = 0; c < 100; ++c) wrong_row.y.set(2, c, f.y.at(1, c));
  EXPECT_NE(check_forward(wrong_row, GetParam().isa), "");
  // The last element left out of the sum.
  const double squares = 1 / std::pow(inverse_rms(in_double(f.x), 0), 2) * 100, last = std::pow(f.x.at(0, 99), 2);
  for (int64_t c = 0; c < 100; ++c) lost_tail.y.set(0, c, f.y.at(0, c) * std::sqrt(squares / (squares - last)));
  EXPECT_NE(check_forward(lost_tail, GetParam().isa), "");
}

TEST_P(RmsNormForward, ARowDependsOnItselfAloneAndNotOnThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  Forward f(DType::kBF16, DType::kF32, 201, 777, 3);
  GetParam().run(f.args(), one_thread());
  for (const int threads : {2, 3}) {
    Forward again(DType::kBF16, DType::kF32, 201, 777, 3);
    ThreadPool pool(threads);
    GetParam().run(again.args(), Stream(pool));
    EXPECT_EQ(difference(f.y, again.y), "") << threads << " threads";
  }
  for (const int64_t r : {0, 100, 200}) {
    Forward one(DType::kBF16, DType::kF32, 201, 777, 3);
    RmsNormForwardArgs args = one.args();
    args.x = args.x.row_range(r, 1);
    args.y = args.y.row_range(r, 1);
    GetParam().run(args, one_thread());
    for (int64_t c = 0; c < 777; ++c) ASSERT_EQ(one.y.at(r, c), f.y.at(r, c)) << r << " " << c;
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, RmsNormForward,
                         ::testing::ValuesIn(rmsnorm_forward_kernels().begin(), rmsnorm_forward_kernels().end()),
                         ::rorqual::testing::RowName());

// ---- input gradient

struct InputGradient {
  Matrix x, w, d_y, d_x, before;
  bool accumulate;
  InputGradient(DType x_type, DType dy_type, DType dx_type, int64_t rows, int64_t d, bool add, uint64_t seed)
      : x(x_type, rows, d, 3),
        w(x_type == DType::kF64 ? DType::kF64 : DType::kF32, 1, d),
        d_y(dy_type, rows, d, 0),
        d_x(dx_type, rows, d, 7),
        before(dx_type, rows, d),
        accumulate(add) {
    x.fill_normal(seed);
    w.fill_normal(seed + 1);
    d_y.fill_normal(seed + 2);
    before.fill_normal(seed + 3);
    if (add) d_x.fill_normal(seed + 3);
  }
  RmsNormInputGradientArgs args() const {
    return {.x = x, .w = w, .d_y = d_y, .d_x = d_x, .accumulate = accumulate, .eps = kEps};
  }
};

// Each of the two terms carries r's error (three times in the second), the error of the dot product relative to the sum of
// magnitudes, and some 12 roundings of its own.
std::string check_input_gradient(const InputGradient& g, Isa isa) {
  const int64_t rows = g.x.rows(), d = g.x.cols();
  const Matrix x = in_double(g.x), w = in_double(g.w), d_y = in_double(g.d_y);
  Matrix truth(DType::kF64, rows, d), bound(DType::kF64, rows, d);
  for (int64_t r = 0; r < rows; ++r) {
    const double scale = inverse_rms(x, r);
    double dot = 0, magnitude = 0;
    for (int64_t i = 0; i < d; ++i) {
      const double term = x.at(r, i) * w.at(0, i) * d_y.at(r, i);
      dot += term;
      magnitude += std::abs(term);
    }
    for (int64_t i = 0; i < d; ++i) {
      const double direct = w.at(0, i) * d_y.at(r, i), pull = x.at(r, i) * scale * scale / static_cast<double>(d);
      const double old = g.accumulate ? g.before.at(r, i) : 0;
      truth.set(r, i, old + scale * (direct - pull * dot));
      const double roundings = 2.5 * sum_roundings(isa, d) + 24;
      bound.set(r, i,
                roundings * 0x1p-24 * scale * (std::abs(direct) + std::abs(pull) * magnitude) + 0x1p-24 * std::abs(old) +
                    1.01 * unit(g.d_x.tensor().dtype) * std::abs(truth.at(r, i)));
    }
  }
  const std::string problem = difference(truth, in_double(g.d_x), [&](int64_t r, int64_t c) { return bound.at(r, c); });
  return problem.empty() ? g.d_x.written_outside() : problem;
}

class RmsNormInputGradient : public ::testing::TestWithParam<KernelRow<RmsNormInputGradientArgs>> {};

TEST_P(RmsNormInputGradient, AgreesWithTheDefinition) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (int types = 0; types < 8; ++types)
    for (const int64_t d : kWidths) {
      InputGradient g(kTypes[types & 1], kTypes[types >> 1 & 1], kTypes[types >> 2], 3, d, d % 2 == types % 2,
                      static_cast<uint64_t>(d));
      GetParam().run(g.args(), one_thread());
      ASSERT_EQ(check_input_gradient(g, GetParam().isa), "") << "types " << types;
    }
}

TEST_P(RmsNormInputGradient, TheCheckSeesAZeroedTailAndAMissingSecondTerm) {
  SKIP_IF_CPU_LACKS(GetParam());
  InputGradient g(DType::kF32, DType::kF32, DType::kF32, 4, 100, false, 11);
  GetParam().run(g.args(), one_thread());
  ASSERT_EQ(check_input_gradient(g, GetParam().isa), "");
  InputGradient zeroed = g, direct = g;
  for (int64_t c = 96; c < 100; ++c) zeroed.d_x.set(3, c, 0);
  EXPECT_NE(check_input_gradient(zeroed, GetParam().isa), "");
  for (int64_t c = 0; c < 100; ++c) direct.d_x.set(1, c, inverse_rms(g.x, 1) * g.w.at(0, c) * g.d_y.at(1, c));
  EXPECT_NE(check_input_gradient(direct, GetParam().isa), "");
}

TEST_P(RmsNormInputGradient, DoesNotDependOnThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  InputGradient g(DType::kF32, DType::kF32, DType::kF32, 201, 777, true, 5);
  GetParam().run(g.args(), one_thread());
  for (const int threads : {2, 3}) {
    InputGradient again(DType::kF32, DType::kF32, DType::kF32, 201, 777, true, 5);
    ThreadPool pool(threads);
    GetParam().run(again.args(), Stream(pool));
    EXPECT_EQ(difference(g.d_x, again.d_x), "") << threads << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, RmsNormInputGradient,
                         ::testing::ValuesIn(rmsnorm_input_gradient_kernels().begin(), rmsnorm_input_gradient_kernels().end()),
                         ::rorqual::testing::RowName());

// ---- weight gradient

struct WeightGradient {
  Matrix x, d_y, d_w;
  WeightGradient(DType x_type, DType dy_type, int64_t rows, int64_t d, uint64_t seed)
      : x(x_type, rows, d, 3), d_y(dy_type, rows, d, 1), d_w(x_type == DType::kF64 ? DType::kF64 : DType::kF32, 1, d) {
    x.fill_normal(seed);
    d_y.fill_normal(seed + 1);
    d_w.fill([](int64_t, int64_t c) { return 0.25 * static_cast<double>(c % 5); });
  }
  RmsNormWeightGradientArgs args() const { return {.x = x, .d_y = d_y, .d_w = d_w, .eps = kEps}; }
};

// A term carries r's error and two roundings; it then goes through at most 128 sums of its block and the sums of blocks.
std::string check_weight_gradient(const WeightGradient& g, Isa isa) {
  const int64_t rows = g.x.rows(), d = g.x.cols();
  const double blocks = std::ceil(static_cast<double>(rows) / 128);
  const double roundings = sum_roundings(isa, d) / 2 + 6 + std::min<double>(128, static_cast<double>(rows)) + blocks;
  Matrix truth(DType::kF64, 1, d), bound(DType::kF64, 1, d);
  std::vector<double> sum(static_cast<size_t>(d)), magnitude(static_cast<size_t>(d));
  for (int64_t r = 0; r < rows; ++r) {
    const double scale = inverse_rms(g.x, r);
    for (int64_t c = 0; c < d; ++c) {
      const double term = g.d_y.at(r, c) * g.x.at(r, c) * scale;
      sum[static_cast<size_t>(c)] += term;
      magnitude[static_cast<size_t>(c)] += std::abs(term);
    }
  }
  for (int64_t c = 0; c < d; ++c) {
    const double before = 0.25 * static_cast<double>(c % 5);
    truth.set(0, c, before + sum[static_cast<size_t>(c)]);
    bound.set(0, c, 0x1p-24 * (roundings * magnitude[static_cast<size_t>(c)] + blocks * before));
  }
  const std::string problem = difference(truth, in_double(g.d_w), [&](int64_t r, int64_t c) { return bound.at(r, c); });
  return problem.empty() ? g.d_w.written_outside() : problem;
}

class RmsNormWeightGradient : public ::testing::TestWithParam<KernelRow<RmsNormWeightGradientArgs>> {};

TEST_P(RmsNormWeightGradient, AgreesWithTheDefinition) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType x_type : kTypes)
    for (const DType dy_type : kTypes)
      for (const int64_t d : kWidths) {
        WeightGradient g(x_type, dy_type, 1 + d % 7, d, static_cast<uint64_t>(d));
        GetParam().run(g.args(), one_thread());
        ASSERT_EQ(check_weight_gradient(g, GetParam().isa), "") << dtype_name(x_type) << ", " << dtype_name(dy_type);
      }
  for (const int64_t rows : {127, 128, 129, 300}) {
    WeightGradient g(DType::kF32, DType::kF32, rows, 70, static_cast<uint64_t>(rows));
    GetParam().run(g.args(), one_thread());
    ASSERT_EQ(check_weight_gradient(g, GetParam().isa), "");
  }
}

TEST_P(RmsNormWeightGradient, TheCheckSeesALostRowAndALostBlock) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const int64_t kept : {128, 255}) {
    WeightGradient g(DType::kF32, DType::kF32, 256, 50, 9);
    RmsNormWeightGradientArgs part = g.args();
    part.x = part.x.row_range(0, kept);
    part.d_y = part.d_y.row_range(0, kept);
    GetParam().run(part, one_thread());
    EXPECT_NE(check_weight_gradient(g, GetParam().isa), "") << kept;
  }
}

// Blocks of 128 rows, summed apart and added in order: so calls over whole blocks give the bits of one call.
TEST_P(RmsNormWeightGradient, BlocksAreSummedFromZeroAndAddedInOrder) {
  SKIP_IF_CPU_LACKS(GetParam());
  WeightGradient whole(DType::kBF16, DType::kF32, 500, 333, 21), parts(DType::kBF16, DType::kF32, 500, 333, 21);
  GetParam().run(whole.args(), one_thread());
  for (int64_t begin = 0; begin < 500; begin += 128) {
    RmsNormWeightGradientArgs part = parts.args();
    part.x = part.x.row_range(begin, std::min<int64_t>(128, 500 - begin));
    part.d_y = part.d_y.row_range(begin, std::min<int64_t>(128, 500 - begin));
    GetParam().run(part, one_thread());
  }
  EXPECT_EQ(difference(whole.d_w, parts.d_w), "");
  for (const int threads : {2, 3}) {
    WeightGradient again(DType::kBF16, DType::kF32, 500, 333, 21);
    ThreadPool pool(threads);
    GetParam().run(again.args(), Stream(pool));
    EXPECT_EQ(difference(whole.d_w, again.d_w), "") << threads << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, RmsNormWeightGradient,
                         ::testing::ValuesIn(rmsnorm_weight_gradient_kernels().begin(),
                                             rmsnorm_weight_gradient_kernels().end()),
                         ::rorqual::testing::RowName());

// ---- the truth itself

// Loss = Σ c·y in double. A central difference with h = 1e-5 errs by h²/6 times a third derivative of order 10, and by
// 2^-53·|loss|/h: both below 1e-8.
TEST(RmsNorm, GradientsAreTheDerivativesOfForward) {
  const int64_t rows = 3, d = 5;
  Forward f(DType::kF64, DType::kF64, rows, d, 31);
  InputGradient g(DType::kF64, DType::kF64, DType::kF64, rows, d, false, 31);
  g.w.fill([&](int64_t, int64_t c) { return f.w.at(0, c); });
  const auto loss = [&] {
    rmsnorm_forward(f.args(), one_thread());
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < d; ++c) sum += f.y.at(r, c) * g.d_y.at(r, c);
    return sum;
  };
  const auto slope = [&](Matrix& m, int64_t r, int64_t c) {
    const double h = 1e-5, value = m.at(r, c);
    m.set(r, c, value + h);
    const double up = loss();
    m.set(r, c, value - h);
    const double down = loss();
    m.set(r, c, value);
    return (up - down) / (2 * h);
  };
  rmsnorm_input_gradient(g.args(), one_thread());
  Matrix d_w(DType::kF64, 1, d);
  d_w.fill([](int64_t, int64_t) { return 0.5; });
  rmsnorm_weight_gradient({.x = g.x, .d_y = g.d_y, .d_w = d_w, .eps = kEps}, one_thread());
  for (int64_t c = 0; c < d; ++c) {
    EXPECT_NEAR(d_w.at(0, c) - 0.5, slope(f.w, 0, c), 1e-8);
    for (int64_t r = 0; r < rows; ++r) EXPECT_NEAR(g.d_x.at(r, c), slope(f.x, r, c), 1e-8) << r << " " << c;
  }
}

TEST(RmsNorm, HandMadeRow) {
  Matrix x(DType::kF64, 1, 2), w(DType::kF64, 1, 2), y(DType::kF64, 1, 2);
  x.fill([](int64_t, int64_t c) { return c == 0 ? 3 : 4; });
  w.fill([](int64_t, int64_t c) { return c == 0 ? 1 : 2; });
  rmsnorm_forward({.x = x, .w = w, .y = y.tensor(), .eps = 0}, one_thread());  // rms = sqrt(12.5)
  EXPECT_DOUBLE_EQ(y.at(0, 0), 3 / std::sqrt(12.5));
  EXPECT_DOUBLE_EQ(y.at(0, 1), 8 / std::sqrt(12.5));
}

TEST(RmsNorm, TheBestAllowedRowIsChosenAndDoubleGoesToTheReference) {
  const Forward f(DType::kBF16, DType::kF32, 2, 8, 1), wide(DType::kF64, DType::kF64, 2, 8, 1);
  EXPECT_EQ(select_row(rmsnorm_forward_kernels(), f.args(), Isa::kAmx).name, "avx512");
  EXPECT_EQ(select_row(rmsnorm_forward_kernels(), f.args(), Isa::kAvx512).name, "avx512");
  EXPECT_EQ(select_row(rmsnorm_forward_kernels(), f.args(), Isa::kAvx2).name, "avx2");
  EXPECT_EQ(select_row(rmsnorm_forward_kernels(), f.args(), Isa::kReference).name, "reference");
  EXPECT_EQ(select_row(rmsnorm_forward_kernels(), wide.args(), Isa::kAmx).name, "reference");
  const InputGradient g(DType::kF32, DType::kF32, DType::kF64, 2, 8, false, 1);
  EXPECT_EQ(select_row(rmsnorm_input_gradient_kernels(), g.args(), Isa::kAmx).name, "reference");
  const WeightGradient v(DType::kF32, DType::kBF16, 2, 8, 1);
  EXPECT_EQ(select_row(rmsnorm_weight_gradient_kernels(), v.args(), Isa::kAmx).name, "avx512");
}

}  // namespace
}  // namespace rorqual
