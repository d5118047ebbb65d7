// Every row of requantise_columns' table against the scalar truth, bit for bit.
#include <gtest/gtest.h>

#include <memory>

#include "kernels/common/quantise_for_tests.h"
#include "kernels/quantise/quantise.h"

namespace rorqual {
namespace {

using ::rorqual::testing::awkward_value;
using ::rorqual::testing::Coded;
using ::rorqual::testing::difference;
using ::rorqual::testing::kRules;
using ::rorqual::testing::Matrix;
using ::rorqual::testing::one_thread;
using ::rorqual::testing::quantise_truth;
using ::rorqual::testing::Truth;

constexpr DType kSources[] = {DType::kE4M3, DType::kE5M2, DType::kE5M6, DType::kF32, DType::kBF16};

bool coded(DType type) {
  return type != DType::kF32 && type != DType::kBF16 && type != DType::kF64;
}

// One matrix of a call, plain or coded with scales by row.
struct Problem {
  Matrix plain;
  Coded codes, y;
  bool is_coded;
  Problem(DType x_type, DType y_type, int64_t rows, int64_t cols, ScaleRule rule, bool wild)
      : plain(coded(x_type) ? DType::kF32 : x_type, rows, cols),
        codes(coded(x_type) ? x_type : DType::kE4M3, rows, cols, ScaledTensor::Group::kRow, 4),
        y(y_type, rows, cols, ScaledTensor::Group::kColumn),
        is_coded(coded(x_type)) {
    plain.fill([&](int64_t r, int64_t c) {
      // Sizes change with rows and columns, mildly below column 128 and wildly beyond; a column of zeros, and one that holds
      // what is not finite.
      if (c % 13 == 5) return r % 2 == 0 ? 0.0 : -0.0;
      const int64_t spread = c < 128 ? (r + c) % 7 - 3 + r % 5 - c % 9 : (r * 7 + c * 3) % 24 - (c % 29 == 3 ? 100 : 0);
      const double size = std::ldexp(1.0, static_cast<int>(spread) - (r % 64 == 17 ? 30 : 0));
      const double x = size * random_normal({.seed = 4}, static_cast<uint64_t>(r * 1000 + c));
      return wild && c % 31 == 7 && r % 128 == 9 ? HUGE_VAL : wild && c % 37 == 0 && r == 1 ? x * 1e38 : x;
    });
    if (is_coded) quantise({.x = plain, .y = codes, .quantiser = {.rule = rule}}, one_thread());
  }
  ScaledTensor x() const { return is_coded ? codes.tensor() : ScaledTensor(plain.tensor()); }
  float value(int64_t r, int64_t c) const { return is_coded ? codes.value(r, c) : static_cast<float>(plain.at(r, c)); }
};

struct Call {
  std::vector<std::unique_ptr<Problem>> problems;
  std::vector<RequantiseProblem> list;
  QuantiseStatistics statistics;
  Quantiser quantiser;
  explicit Call(const Quantiser& how) : quantiser(how) { quantiser.statistics = &statistics; }
  void add(DType x_type, DType y_type, int64_t rows, int64_t cols, bool wild = false) {
    problems.push_back(std::make_unique<Problem>(x_type, y_type, rows, cols, quantiser.rule, wild));
    list.push_back({problems.back()->x(), problems.back()->y});
  }
  RequantiseColumnsArgs args() const { return {.problems = list, .quantiser = quantiser}; }
};

std::string check(const Call& call) {
  QuantiseCounts counts;
  Quantiser how = call.quantiser;
  if (how.granularity == Granularity::kTensor && how.amax == 0)
    for (const auto& p : call.problems)
      how.amax = std::max(how.amax, ::rorqual::testing::amax_of([&](int64_t r, int64_t c) { return p->value(r, c); }, 0,
                                                                p->y.rows(), 0, p->y.cols()));
  for (size_t i = 0; i < call.problems.size(); ++i) {
    const Problem& p = *call.problems[i];
    const Truth truth = quantise_truth([&](int64_t r, int64_t c) { return p.value(r, c); }, p.y.rows(), p.y.cols(), p.y.type(),
                                       how, ScaledTensor::Group::kColumn);
    std::string problem = difference(truth.y, p.y);
    if (problem.empty()) problem = p.y.written_outside();
    if (!problem.empty()) return fmt::format("problem {}: {}", i, problem);
    counts.merge(truth.counts);
  }
  return difference(counts, call.statistics.read());
}

class RequantiseColumns : public ::testing::TestWithParam<KernelRow<RequantiseColumnsArgs>> {};

TEST_P(RequantiseColumns, EqualsTheTruth) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType x_type : kSources)
    for (const DType y_type : {DType::kE4M3, DType::kE5M2})
      for (const ScaleRule rule : kRules)
        for (const bool wild : {false, true})
          for (const int64_t cols : {1, 2, 31, 33, 63, 64, 65, 128, 129, 255, 300, 1100}) {
            if ((cols + static_cast<int64_t>(x_type)) % 3 == 0 && y_type == DType::kE5M2) continue;
            if (cols == 1100 && (wild || y_type == DType::kE5M2)) continue;
            Call call({.rule = rule});
            call.add(x_type, y_type, cols % 5 == 0 ? 129 : cols % 3 == 0 ? 128 : 1 + cols % 19, cols, wild);
            GetParam().run(call.args(), one_thread());
            ASSERT_EQ(check(call), "") << dtype_name(x_type) << " to " << dtype_name(y_type) << ", " << cols
                                       << " columns, rule " << static_cast<int>(rule) << ", wild " << wild;
          }
}

// Segments of experts: some empty, none beginning at the group of another.
TEST_P(RequantiseColumns, AListIsOneCallForAnyNumberOfThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const int threads : {1, 2, 3})
    for (const bool block : {false, true}) {
      Call call({.granularity = block ? Granularity::kBlock : Granularity::kGroup});
      for (const int64_t rows : {0, 1, 127, 128, 0, 129, 300, 0}) call.add(DType::kE4M3, DType::kE4M3, rows, 200 + rows);
      call.add(DType::kF32, DType::kE4M3, 200, 130);
      call.add(DType::kE5M6, DType::kE4M3, 140, 257);
      ThreadPool pool(threads);
      GetParam().run(call.args(), Stream(pool));
      ASSERT_EQ(check(call), "") << threads << " threads, block " << block;
    }
  Call empty({});
  GetParam().run(empty.args(), one_thread());
  EXPECT_EQ(empty.statistics.read().values, 0);
}

TEST_P(RequantiseColumns, OneScaleOfAllProblems) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const float amax : {0.0f, 2.0f}) {
    Call call({.granularity = Granularity::kTensor, .amax = amax});
    for (const int64_t rows : {100, 200}) call.add(DType::kBF16, DType::kE4M3, rows, 140);
    GetParam().run(call.args(), one_thread());
    ASSERT_EQ(check(call), "") << amax;
    EXPECT_EQ(call.statistics.read().saturated > 0, amax > 0);
  }
}

TEST_P(RequantiseColumns, PerTensorCodesAreKept) {
  SKIP_IF_CPU_LACKS(GetParam());
  Matrix x(DType::kF32, 200, 150);
  x.fill_normal(2);
  Coded row(DType::kE4M3, 200, 150), column(DType::kE4M3, 200, 150, ScaledTensor::Group::kColumn);
  const Quantiser how{.granularity = Granularity::kTensor};
  quantise({.x = x, .y = row, .quantiser = how}, one_thread());
  const RequantiseProblem problem{row, column};
  GetParam().run({.problems = {&problem, 1}, .quantiser = how}, one_thread());
  for (int64_t r = 0; r < 200; ++r)
    for (int64_t c = 0; c < 150; ++c) {
      ASSERT_EQ(row.code(r, c), column.code(r, c)) << r << " " << c;
      ASSERT_EQ(row.scale(r, c), column.scale(r, c)) << r << " " << c;
    }
  EXPECT_EQ(column.written_outside(), "");
}

TEST_P(RequantiseColumns, TheCheckSeesAWrongCodeAWrongScaleAndALostCount) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (int defect = 0; defect < 4; ++defect) {
    Call call({});
    call.add(DType::kE4M3, DType::kE4M3, 140, 70);
    if (defect == 3) call.quantiser.statistics = nullptr;
    GetParam().run(call.args(), one_thread());
    Coded& y = call.problems[0]->y;
    if (defect == 1) y.set_code(139, 69, y.code(139, 69) ^ 1);
    if (defect == 2) y.scales().set(1, 3, 2 * y.scales().at(1, 3));
    EXPECT_EQ(check(call).empty(), defect == 0) << defect;
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, RequantiseColumns,
                         ::testing::ValuesIn(requantise_columns_kernels().begin(), requantise_columns_kernels().end()),
                         ::rorqual::testing::RowName());

}  // namespace
}  // namespace rorqual
