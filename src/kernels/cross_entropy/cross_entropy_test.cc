#include "kernels/cross_entropy/cross_entropy.h"

#include <gtest/gtest.h>

#include "kernels/common/matrix_for_tests.h"

namespace rorqual {
namespace {

using testing::difference;
using testing::Matrix;
using testing::mixed_sizes;

constexpr double kHalfUlp = 0x1p-24;
// Of Σ exp(x − max): 2 ulp of each exponential on either side, and the vector kernels' sums: at most 40 additions in F32 before
// a partial sum is added in double.
constexpr double kSumError = (4 * 2 + 40) * kHalfUlp;

enum class Output { kNone, kF32, kBF16, kInPlace };

struct Problem {
  Matrix logits, coefficient;
  std::vector<int32_t> target;

  Problem(DType dtype, int64_t tokens, int64_t vocabulary, uint64_t seed, double spread = 3)
      : logits(dtype, tokens, vocabulary), coefficient(DType::kF32, 1, tokens) {
    logits.fill_normal(seed, spread);
    coefficient.fill_normal(seed + 1, 1e-2);
    for (int64_t t = 0; t < tokens; ++t)
      target.push_back(
          static_cast<int32_t>(random_below({.seed = seed + 2}, static_cast<uint64_t>(t), static_cast<uint64_t>(vocabulary))));
  }
};

struct Result {
  Matrix nll, d;
};

using Row = KernelRow<CrossEntropyArgs>;

Result run(const Row& row, const Problem& problem, Output output, const Stream& stream) {
  Matrix logits(problem.logits);
  const DType d_type = output == Output::kBF16 ? DType::kBF16 : DType::kF32;
  Result r{Matrix(DType::kF32, 1, logits.rows()),
           output == Output::kInPlace ? Matrix(logits) : Matrix(d_type, logits.rows(), logits.cols())};
  CrossEntropyArgs args{output == Output::kInPlace ? r.d : logits, problem.target.data(), problem.coefficient, r.nll, r.d};
  if (output == Output::kNone) args.d_logits = args.coefficient = {};
  EXPECT_EQ(row.refuse(args), "");
  row.run(args, stream);
  EXPECT_EQ(r.nll.written_outside() + r.d.written_outside(), "");
  return r;
}

// nll: the sum's relative error is the absolute error of its logarithm; one rounding to F32.
// d: relative error of exponential, sum and three roundings; the target's p − 1 carries the error of nll. A BF16 output may
// round to the neighbour, 2^-7 away.
std::string compare(const Problem& p, const Result& expected, const Result& actual) {
  std::string text = difference(expected.nll, actual.nll,
                                [&](int64_t, int64_t t) { return kSumError + 2 * kHalfUlp * std::abs(expected.nll.at(0, t)); });
  if (!text.empty()) return "nll " + text;
  text = difference(expected.d, actual.d, [&](int64_t t, int64_t i) {
    const double e = std::abs(expected.d.at(t, i)), target = i == p.target[t] ? std::abs(p.coefficient.at(0, t)) : 0;
    const double narrow = expected.d.tensor().dtype == DType::kBF16 ? 0x1p-7 * e : 0;
    return e * (kSumError + 8 * kHalfUlp) + target * kSumError + narrow + 0x1p-126;
  });
  return text.empty() ? text : "d_logits " + text;
}

class CrossEntropy : public ::testing::TestWithParam<Row> {};
INSTANTIATE_TEST_SUITE_P(Rows, CrossEntropy, ::testing::ValuesIn(cross_entropy_kernels()), testing::RowName());

TEST_P(CrossEntropy, AgreesWithReference) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(2);
  const Stream stream(pool);
  std::vector<int64_t> sizes = mixed_sizes();
  for (int64_t n : {2047, 2048, 2049, 4113, 20011}) sizes.push_back(n);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int64_t vocabulary : sizes) {
      const Problem p(dtype, vocabulary % 3 + 1, vocabulary, static_cast<uint64_t>(vocabulary));
      for (Output output : {Output::kNone, Output::kF32, Output::kBF16}) {
        const Result expected = run(cross_entropy_kernels().back(), p, output, stream);
        const Result actual = run(GetParam(), p, output, stream);
        ASSERT_EQ(compare(p, expected, actual), "") << vocabulary << " " << dtype_name(dtype);
      }
    }
  }
}

TEST_P(CrossEntropy, InPlaceEqualsOutOfPlace) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(2);
  const Stream stream(pool);
  for (int64_t vocabulary : {1, 17, 64, 1000, 5003}) {
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      const Problem p(dtype, 5, vocabulary, 3);
      const Result apart = run(GetParam(), p, dtype == DType::kF32 ? Output::kF32 : Output::kBF16, stream);
      const Result in_place = run(GetParam(), p, Output::kInPlace, stream);
      EXPECT_EQ(difference(apart.d, in_place.d), "") << vocabulary;
      EXPECT_EQ(difference(apart.nll, in_place.nll), "") << vocabulary;
    }
  }
}

// Wherever a row lies, whatever else is in the batch, however many threads.
TEST_P(CrossEntropy, ARowDependsOnNothingElse) {
  SKIP_IF_CPU_LACKS(GetParam());
  const Problem p(DType::kF32, 40, 3001, 9);
  ThreadPool one(1);
  const Result expected = run(GetParam(), p, Output::kF32, Stream(one));
  for (int threads : {2, 3}) {
    ThreadPool pool(threads);
    const Result actual = run(GetParam(), p, Output::kF32, Stream(pool));
    EXPECT_EQ(difference(expected.nll, actual.nll), "") << threads << " threads";
    EXPECT_EQ(difference(expected.d, actual.d), "") << threads << " threads";
  }
  for (int64_t t : {0, 13, 39}) {
    Matrix logits(DType::kF32, 1, 3001, 0, 7 + t), nll(DType::kF32, 1, 1), d(DType::kF32, 1, 3001, 0, 3);
    logits.fill([&](int64_t, int64_t c) { return p.logits.at(t, c); });
    const Tensor coefficient = p.coefficient.tensor().col_range(t, 1);
    GetParam().run({logits, p.target.data() + t, coefficient, nll, d}, Stream(one));
    EXPECT_EQ(nll.at(0, 0), expected.nll.at(0, t));
    for (int64_t c = 0; c < 3001; ++c) ASSERT_EQ(d.at(0, c), expected.d.at(t, c)) << "column " << c;
  }
}

TEST_P(CrossEntropy, ExtremeLogits) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(1);
  const Stream stream(pool);
  for (int64_t vocabulary : {3, 16, 50, 5000}) {
    Problem p(DType::kF32, 8, vocabulary, 4);
    for (int64_t c = 0; c < vocabulary; ++c) {
      p.logits.set(0, c, 3e38 - static_cast<double>(c) * 1e33);  // nothing overflows
      p.logits.set(1, c, -3e38);
      p.logits.set(2, c, c == 1 ? 200.0 : -INFINITY);
      p.logits.set(3, c, c == vocabulary - 1 ? std::nan("") : 1.0);  // only the last element poisons its row
      p.logits.set(4, c, c == 0 ? INFINITY : 1.0);
      p.logits.set(5, c, c == vocabulary - 1 ? 20.0 : 0.0);                               // the maximum comes last
      p.logits.set(6, c, c == vocabulary - 1 ? 1.0 : -INFINITY);                          // whole blocks of -inf first
      p.logits.set(7, c, c == 0 ? std::nan("") : c == vocabulary - 1 ? 1.0 : -INFINITY);  // a NaN among them
    }
    p.target = {0, 1, 1, 0, 1, static_cast<int32_t>(vocabulary - 1), static_cast<int32_t>(vocabulary - 1), 1};
    const Result expected = run(cross_entropy_kernels().back(), p, Output::kF32, stream);
    const Result actual = run(GetParam(), p, Output::kF32, stream);
    EXPECT_EQ(compare(p, expected, actual), "") << vocabulary;
    EXPECT_NEAR(actual.nll.at(0, 1), std::log(static_cast<double>(vocabulary)), 1e-5);
    EXPECT_EQ(actual.nll.at(0, 2), 0.0);
    EXPECT_EQ(actual.d.at(2, 0), 0.0);
    EXPECT_TRUE(std::isnan(actual.nll.at(0, 3)));
    EXPECT_TRUE(std::isnan(actual.nll.at(0, 4)));
    EXPECT_EQ(actual.nll.at(0, 6), 0.0);
    EXPECT_TRUE(std::isnan(actual.nll.at(0, 7)));
  }
}

TEST(CrossEntropyReference, ByHand) {
  ThreadPool pool(1);
  Matrix logits(DType::kF64, 1, 3), coefficient(DType::kF64, 1, 1), nll(DType::kF64, 1, 1), d(DType::kF64, 1, 3);
  const double p[] = {0.5, 0.3, 0.2};
  logits.fill([&](int64_t, int64_t c) { return std::log(p[c]) + 7; });
  coefficient.set(0, 0, 2);
  const int32_t target[] = {1};
  cross_entropy({logits, target, coefficient, nll, d}, Stream(pool));
  EXPECT_NEAR(nll.at(0, 0), -std::log(0.3), 1e-14);
  EXPECT_NEAR(d.at(0, 0), 1.0, 1e-14);
  EXPECT_NEAR(d.at(0, 1), 2 * (0.3 - 1), 1e-14);
  EXPECT_NEAR(d.at(0, 2), 0.4, 1e-14);
}

// Central differences with h = 1e-5: truncation h²/6 · |third derivative| (< 1) ≈ 2e-11, rounding 2^-52 · |nll| / h ≈ 1e-10.
TEST(CrossEntropyReference, BackwardIsTheDerivativeInDouble) {
  ThreadPool pool(1);
  const Stream stream(pool);
  Matrix logits(DType::kF64, 3, 11), coefficient(DType::kF64, 1, 3), nll(DType::kF64, 1, 3), d(DType::kF64, 3, 11);
  logits.fill_normal(1);
  coefficient.fill_normal(2);
  const int32_t target[] = {4, 0, 10};
  cross_entropy({logits, target, coefficient, nll, d}, stream);
  const auto loss = [&] {
    Matrix out(DType::kF64, 1, 3);
    cross_entropy({logits, target, {}, out, {}}, stream);
    return out.at(0, 0) * coefficient.at(0, 0) + out.at(0, 1) * coefficient.at(0, 1) + out.at(0, 2) * coefficient.at(0, 2);
  };
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t c = 0; c < 11; ++c) {
      const double x = logits.at(r, c), h = 1e-5;
      logits.set(r, c, x + h);
      const double above = loss();
      logits.set(r, c, x - h);
      const double below = loss();
      logits.set(r, c, x);
      EXPECT_NEAR((above - below) / (2 * h), d.at(r, c), 1e-9) << r << ", " << c;
    }
  }
}

TEST(CrossEntropyReference, PlantedDefectsAreSeen) {
  ThreadPool pool(1);
  const Stream stream(pool);
  const Problem p(DType::kF32, 2, 1000, 5);
  const Row& reference = cross_entropy_kernels().back();
  const Result good = run(reference, p, Output::kF32, stream);
  // The last 16 logits left out of the sum.
  Problem cut(p);
  for (int64_t r = 0; r < 2; ++r)
    for (int64_t c = 984; c < 1000; ++c) cut.logits.set(r, c, -INFINITY);
  EXPECT_NE(compare(p, good, run(reference, cut, Output::kF32, stream)), "");
  // The gradient's last 8 columns not written; another row's target.
  Result dropped(good);
  for (int64_t c = 992; c < 1000; ++c) dropped.d.set(1, c, 0);
  EXPECT_NE(compare(p, good, dropped), "");
  Problem swapped(p);
  std::swap(swapped.target[0], swapped.target[1]);
  EXPECT_NE(compare(p, good, run(reference, swapped, Output::kF32, stream)), "");
}

TEST(CrossEntropyReference, SelectsTheBestRowThatAccepts) {
  const Problem f32(DType::kF32, 1, 3, 1), f64(DType::kF64, 1, 3, 1);
  Matrix nll(DType::kF32, 1, 1), d(DType::kBF16, 1, 3);
  const auto chosen = [&](const Problem& p, Isa isa) {
    return select_row(cross_entropy_kernels(), CrossEntropyArgs{p.logits, p.target.data(), p.coefficient, nll, d}, isa).isa;
  };
  for (Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) EXPECT_EQ(chosen(f32, isa), isa);
  EXPECT_EQ(chosen(f32, Isa::kAmx), Isa::kAvx512);
  EXPECT_EQ(chosen(f64, Isa::kAmx), Isa::kReference);
}

TEST(CrossEntropyDeathTest, WrongArguments) {
  ThreadPool pool(1);
  Matrix logits(DType::kF32, 1, 5), nll(DType::kF32, 1, 1);
  logits.fill_normal(1);
  const int32_t high[] = {5}, good[] = {4};
  EXPECT_DEATH(cross_entropy({logits, high, {}, nll, {}}, Stream(pool)), "target\\[0\\] is 5, the vocabulary is 5");
  EXPECT_DEATH(cross_entropy({logits, good, {}, nll, logits}, Stream(pool)), "a gradient needs 1 coefficients");
}

}  // namespace
}  // namespace rorqual
