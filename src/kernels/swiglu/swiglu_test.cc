// Every row of SwiGLU's tables against the double-precision truth of the same inputs; the truth against finite differences.
#include "kernels/swiglu/swiglu.h"

#include <gtest/gtest.h>

#include "kernels/common/matrix_for_tests.h"

namespace rorqual {
namespace {

using ::rorqual::testing::difference;
using ::rorqual::testing::in_double;
using ::rorqual::testing::Matrix;
using ::rorqual::testing::one_thread;

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

// The error of rounding a number of this size to `dtype`: relative, and half the distance between denormals.
double rounding(DType dtype, double value) {
  return dtype == DType::kBF16 ? 0x1p-8 * std::abs(value) + 0x1p-134 : 0x1p-24 * std::abs(value) + 0x1p-150;
}

// Normal numbers, and in every row a few gates where exp under- or overflows.
double gate_or_up(uint64_t seed, int64_t r, int64_t c, int64_t width) {
  constexpr double kSpecial[] = {0.0, -0.0, 100.0, -100.0, 88.5, -88.5, -86.0, 1e30, -1e30, 1e-40};
  if (c < width && (c + r) % 11 == 3) return kSpecial[static_cast<size_t>((c / 11 + r) % 10)];
  return 3 * random_normal({.seed = seed}, static_cast<uint64_t>(r * 4096 + c));
}

struct Forward {
  Matrix gate_up, weight, h;
  bool weighted;
  Forward(DType x_type, DType h_type, int64_t rows, int64_t width, bool with_weight, uint64_t seed)
      : gate_up(x_type, rows, 2 * width, 3),
        weight(x_type == DType::kF64 ? DType::kF64 : DType::kF32, 1, rows),
        h(h_type, rows, width, 5),
        weighted(with_weight) {
    gate_up.fill([&](int64_t r, int64_t c) { return gate_or_up(seed, r, c, width); });
    weight.fill_normal(seed + 1);
  }
  SwiGluForwardArgs args() const {
    return {.gate_up = gate_up.tensor(), .weight = weighted ? weight.tensor() : Tensor(), .h = h.tensor()};
  }
};

// The sigmoid errs by 8 units of 2^-24 (and a denormal one by 2 of the smallest number), three products by one each.
std::string check_forward(const Forward& f) {
  const int64_t width = f.h.cols();
  Matrix truth(DType::kF64, f.h.rows(), width), bound(DType::kF64, f.h.rows(), width);
  for (int64_t r = 0; r < f.h.rows(); ++r)
    for (int64_t c = 0; c < width; ++c) {
      const double gate = f.gate_up.at(r, c), rest = f.gate_up.at(r, width + c) * (f.weighted ? f.weight.at(0, r) : 1);
      const double h = gate * sigmoid(gate) * rest;
      truth.set(r, c, h);
      bound.set(r, c,
                12 * 0x1p-24 * std::abs(h) + 3 * 0x1p-149 * (1 + std::abs(gate)) * (1 + std::abs(rest)) +
                    rounding(f.h.tensor().dtype, h));
    }
  const std::string problem = difference(truth, in_double(f.h), [&](int64_t r, int64_t c) { return bound.at(r, c); });
  return problem.empty() ? f.h.written_outside() : problem;
}

class SwiGluForward : public ::testing::TestWithParam<KernelRow<SwiGluForwardArgs>> {};

TEST_P(SwiGluForward, AgreesWithTheDefinition) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (int types = 0; types < 4; ++types)
    for (const int64_t width : ::rorqual::testing::mixed_sizes()) {
      Forward f(kTypes[types & 1], kTypes[types >> 1], 5, width, width % 3 != types % 3, static_cast<uint64_t>(width));
      GetParam().run(f.args(), one_thread());
      ASSERT_EQ(check_forward(f), "") << "types " << types << " width " << width;
    }
}

TEST_P(SwiGluForward, TheCheckSeesAZeroedElementAndAForgottenWeight) {
  SKIP_IF_CPU_LACKS(GetParam());
  Forward f(DType::kBF16, DType::kBF16, 4, 40, true, 3);
  GetParam().run(f.args(), one_thread());
  ASSERT_EQ(check_forward(f), "");
  Forward zeroed = f, unweighted = f;
  zeroed.h.set(3, 39, 0);
  EXPECT_NE(check_forward(zeroed), "");
  unweighted.weighted = false;
  GetParam().run(unweighted.args(), one_thread());
  unweighted.weighted = true;
  EXPECT_NE(check_forward(unweighted), "");
}

TEST_P(SwiGluForward, ARowDependsOnItselfAloneAndNotOnThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  Forward f(DType::kF32, DType::kF32, 201, 333, true, 3);
  GetParam().run(f.args(), one_thread());
  for (const int threads : {2, 3}) {
    Forward again(DType::kF32, DType::kF32, 201, 333, true, 3);
    ThreadPool pool(threads);
    GetParam().run(again.args(), Stream(pool));
    EXPECT_EQ(difference(f.h, again.h), "") << threads << " threads";
  }
  for (const int64_t r : {0, 100, 200}) {
    Forward one(DType::kF32, DType::kF32, 201, 333, true, 3);
    SwiGluForwardArgs args = one.args();
    args.gate_up = args.gate_up.row_range(r, 1);
    args.weight = args.weight.col_range(r, 1);
    args.h = args.h.row_range(r, 1);
    GetParam().run(args, one_thread());
    for (int64_t c = 0; c < 333; ++c) ASSERT_EQ(one.h.at(r, c), f.h.at(r, c)) << r << " " << c;
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, SwiGluForward,
                         ::testing::ValuesIn(swiglu_forward_kernels().begin(), swiglu_forward_kernels().end()),
                         ::rorqual::testing::RowName());

struct Backward {
  Matrix gate_up, weight, d_h, d_gate_up, d_weight;
  bool weighted;
  Backward(DType x_type, DType dh_type, DType dx_type, int64_t rows, int64_t width, bool with_weight, uint64_t seed)
      : gate_up(x_type, rows, 2 * width, 3),
        weight(x_type == DType::kF64 ? DType::kF64 : DType::kF32, 1, rows),
        d_h(dh_type, rows, width, 1),
        d_gate_up(dx_type, rows, 2 * width, 6),
        d_weight(weight.tensor().dtype, 1, rows),
        weighted(with_weight) {
    gate_up.fill([&](int64_t r, int64_t c) {
      const double value = gate_or_up(seed, r, c, width);
      return std::abs(value) > 1e20 ? value * 1e-10 : value;  // products of three stay finite
    });
    weight.fill_normal(seed + 1);
    d_h.fill_normal(seed + 2);
  }
  SwiGluBackwardArgs args() const {
    return {.gate_up = gate_up.tensor(),
            .weight = weighted ? weight.tensor() : Tensor(),
            .d_h = d_h,
            .d_gate_up = d_gate_up.tensor(),
            .d_weight = weighted ? d_weight.tensor() : Tensor()};
  }
};

// Sigmoids err by 8 units; slope = s·(1 + gate·(1 − s)) by 8 + 8 + 3 of the sum of magnitudes; products by one each. d_weight:
// the terms' 10 and the longest chain of sums: all of them in the reference, one in 8 lanes and three levels of a tree in AVX2.
std::string check_backward(const Backward& b, Isa isa) {
  const int64_t rows = b.d_h.rows(), width = b.d_h.cols();
  const DType out = b.d_gate_up.tensor().dtype;
  Matrix truth(DType::kF64, rows, 2 * width), bound(DType::kF64, rows, 2 * width);
  Matrix truth_weight(DType::kF64, 1, rows), bound_weight(DType::kF64, 1, rows);
  const double sums = isa == Isa::kReference ? static_cast<double>(width) : static_cast<double>(width) / 8 + 5;
  for (int64_t r = 0; r < rows; ++r) {
    double d_weight = 0, magnitude = 0, least = 0;
    for (int64_t c = 0; c < width; ++c) {
      const double gate = b.gate_up.at(r, c), up = b.gate_up.at(r, width + c), d = b.d_h.at(r, c);
      const double weighted = d * (b.weighted ? b.weight.at(0, r) : 1), s = sigmoid(gate), rest = sigmoid(-gate);
      const double silu = gate * s;
      const double tiny =
          4 * 0x1p-149 * (1 + std::abs(gate)) * (1 + std::abs(up)) * (1 + std::abs(d)) * (1 + std::abs(weighted));
      const double d_gate = weighted * up * s * (1 + gate * rest);
      truth.set(r, c, d_gate);
      bound.set(r, c,
                24 * 0x1p-24 * std::abs(weighted * up) * s * (1 + std::abs(gate) * rest) + tiny * (1 + std::abs(gate)) +
                    rounding(out, d_gate));
      truth.set(r, width + c, weighted * silu);
      bound.set(r, width + c, 12 * 0x1p-24 * std::abs(weighted * silu) + tiny + rounding(out, weighted * silu));
      d_weight += d * silu * up;
      magnitude += std::abs(d * silu * up);
      least += tiny;
    }
    truth_weight.set(0, r, d_weight);
    bound_weight.set(0, r, (12 + sums) * 0x1p-24 * magnitude + least);
  }
  std::string problem = difference(truth, in_double(b.d_gate_up), [&](int64_t r, int64_t c) { return bound.at(r, c); });
  if (problem.empty() && b.weighted)
    problem = difference(truth_weight, in_double(b.d_weight), [&](int64_t r, int64_t c) { return bound_weight.at(r, c); });
  if (problem.empty()) problem = b.d_weight.written_outside();
  return problem.empty() ? b.d_gate_up.written_outside() : problem;
}

class SwiGluBackward : public ::testing::TestWithParam<KernelRow<SwiGluBackwardArgs>> {};

TEST_P(SwiGluBackward, AgreesWithTheDefinition) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (int types = 0; types < 8; ++types)
    for (const int64_t width : ::rorqual::testing::mixed_sizes()) {
      Backward b(kTypes[types & 1], kTypes[types >> 1 & 1], kTypes[types >> 2], 5, width, width % 3 != types % 3,
                 static_cast<uint64_t>(width));
      GetParam().run(b.args(), one_thread());
      ASSERT_EQ(check_backward(b, GetParam().isa), "") << "types " << types << " width " << width;
    }
}

TEST_P(SwiGluBackward, TheCheckSeesSwappedHalvesAndAWrongWeightGradient) {
  SKIP_IF_CPU_LACKS(GetParam());
  Backward b(DType::kF32, DType::kF32, DType::kF32, 4, 40, true, 3);
  GetParam().run(b.args(), one_thread());
  ASSERT_EQ(check_backward(b, GetParam().isa), "");
  Backward swapped = b, lost = b;
  for (int64_t c = 0; c < 80; ++c) swapped.d_gate_up.set(2, c, b.d_gate_up.at(2, (c + 40) % 80));
  EXPECT_NE(check_backward(swapped, GetParam().isa), "");
  const double gate = b.gate_up.at(3, 39);  // the last column left out of the sum
  lost.d_weight.set(0, 3, b.d_weight.at(0, 3) - b.d_h.at(3, 39) * gate * sigmoid(gate) * b.gate_up.at(3, 79));
  EXPECT_NE(check_backward(lost, GetParam().isa), "");
}

TEST_P(SwiGluBackward, MayWriteInPlace) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType type : kTypes)
    for (const int64_t width : {7, 16, 45, 256}) {
      Backward apart(type, DType::kF32, type, 3, width, true, 8);
      GetParam().run(apart.args(), one_thread());
      Backward together(type, DType::kF32, type, 3, width, true, 8);
      SwiGluBackwardArgs args = together.args();
      args.d_gate_up = args.gate_up;
      GetParam().run(args, one_thread());
      EXPECT_EQ(difference(apart.d_gate_up, together.gate_up), "");
      EXPECT_EQ(difference(apart.d_weight, together.d_weight), "");
    }
}

TEST_P(SwiGluBackward, DoesNotDependOnThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  Backward b(DType::kBF16, DType::kF32, DType::kF32, 201, 333, true, 3);
  GetParam().run(b.args(), one_thread());
  for (const int threads : {2, 3}) {
    Backward again(DType::kBF16, DType::kF32, DType::kF32, 201, 333, true, 3);
    ThreadPool pool(threads);
    GetParam().run(again.args(), Stream(pool));
    EXPECT_EQ(difference(b.d_gate_up, again.d_gate_up), "") << threads << " threads";
    EXPECT_EQ(difference(b.d_weight, again.d_weight), "") << threads << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, SwiGluBackward,
                         ::testing::ValuesIn(swiglu_backward_kernels().begin(), swiglu_backward_kernels().end()),
                         ::rorqual::testing::RowName());

// Loss = Σ c·h in double. A central difference with h = 1e-5 errs by h²/6 times a third derivative of order 10, and by
// 2^-53·|loss|/h: both below 1e-8.
TEST(SwiGlu, GradientsAreTheDerivativesOfForward) {
  const int64_t rows = 3, width = 4;
  Forward f(DType::kF64, DType::kF64, rows, width, true, 31);
  f.gate_up.fill_normal(32);
  Backward b(DType::kF64, DType::kF64, DType::kF64, rows, width, true, 31);
  b.gate_up.fill([&](int64_t r, int64_t c) { return f.gate_up.at(r, c); });
  const auto loss = [&] {
    swiglu_forward(f.args(), one_thread());
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < width; ++c) sum += f.h.at(r, c) * b.d_h.at(r, c);
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
  swiglu_backward(b.args(), one_thread());
  for (int64_t r = 0; r < rows; ++r) {
    EXPECT_NEAR(b.d_weight.at(0, r), slope(f.weight, 0, r), 1e-8);
    for (int64_t c = 0; c < 2 * width; ++c) EXPECT_NEAR(b.d_gate_up.at(r, c), slope(f.gate_up, r, c), 1e-8) << r << " " << c;
  }
}

TEST(SwiGlu, HandMadeRow) {
  Matrix gate_up(DType::kF64, 1, 4), h(DType::kF64, 1, 2);
  gate_up.fill([](int64_t, int64_t c) { return c == 0 ? 0 : c == 1 ? std::log(3.0) : c == 2 ? 5 : 8; });
  swiglu_forward({.gate_up = gate_up.tensor(), .weight = {}, .h = h.tensor()}, one_thread());  // sigmoid(log 3) = 3/4
  EXPECT_EQ(h.at(0, 0), 0);
  EXPECT_DOUBLE_EQ(h.at(0, 1), std::log(3.0) * 6);
}

TEST(SwiGlu, TheBestAllowedRowIsChosenAndDoubleGoesToTheReference) {
  const Forward f(DType::kBF16, DType::kF32, 2, 8, true, 1), wide(DType::kF64, DType::kF64, 2, 8, true, 1);
  EXPECT_EQ(select_row(swiglu_forward_kernels(), f.args(), Isa::kAmx).name, "avx512");
  EXPECT_EQ(select_row(swiglu_forward_kernels(), f.args(), Isa::kAvx2).name, "avx2");
  EXPECT_EQ(select_row(swiglu_forward_kernels(), f.args(), Isa::kReference).name, "reference");
  EXPECT_EQ(select_row(swiglu_forward_kernels(), wide.args(), Isa::kAmx).name, "reference");
  const Backward b(DType::kF32, DType::kF32, DType::kBF16, 2, 8, true, 1),
      out(DType::kF32, DType::kF32, DType::kF64, 2, 8, true, 1);
  EXPECT_EQ(select_row(swiglu_backward_kernels(), b.args(), Isa::kAvx512).name, "avx512");
  EXPECT_EQ(select_row(swiglu_backward_kernels(), out.args(), Isa::kAvx512).name, "reference");
}

}  // namespace
}  // namespace rorqual
