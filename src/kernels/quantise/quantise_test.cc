// Every row of the tables of quantise, quantise_dispatch and dequantise against the scalar truth, bit for bit.
#include "kernels/quantise/quantise.h"

#include <gtest/gtest.h>

#include "kernels/common/quantise_for_tests.h"
#include "kernels/elementwise/elementwise.h"

namespace rorqual {
namespace {

using ::rorqual::testing::awkward_value;
using ::rorqual::testing::Coded;
using ::rorqual::testing::difference;
using ::rorqual::testing::kCodedTypes;
using ::rorqual::testing::kRules;
using ::rorqual::testing::Matrix;
using ::rorqual::testing::one_thread;
using ::rorqual::testing::quantise_truth;
using ::rorqual::testing::Truth;

constexpr DType kPlainTypes[] = {DType::kF32, DType::kBF16};

struct Quantised {
  Matrix x;
  Coded y;
  QuantiseStatistics statistics;
  Quantiser quantiser;
  Quantised(DType x_type, DType type, int64_t rows, int64_t cols, const Quantiser& how)
      : x(x_type, rows, cols), y(type, rows, cols), quantiser(how) {
    quantiser.statistics = &statistics;
  }
  QuantiseArgs args() const { return {.x = x, .y = y, .quantiser = quantiser}; }
  float value(int64_t r, int64_t c) const { return static_cast<float>(x.at(r, c)); }
};

std::string check(const Quantised& q) {
  const Truth truth =
      quantise_truth([&](int64_t r, int64_t c) { return q.value(r, c); }, q.x.rows(), q.x.cols(), q.y.type(), q.quantiser);
  std::string problem = difference(truth.y, q.y);
  if (problem.empty()) problem = q.y.written_outside();
  return problem.empty() ? difference(truth.counts, q.statistics.read()) : problem;
}

class Quantise : public ::testing::TestWithParam<KernelRow<QuantiseArgs>> {};

TEST_P(Quantise, EqualsTheTruthForEveryLengthOfARow) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType x_type : kPlainTypes)
    for (const DType type : kCodedTypes)
      for (const ScaleRule rule : kRules)
        for (int64_t cols = 1; cols <= 300; ++cols) {
          Quantised q(x_type, type, 2, cols, {.rule = rule});
          q.x.fill([&](int64_t r, int64_t c) { return awkward_value(static_cast<uint64_t>(cols), r, c, cols % 4 == 0); });
          GetParam().run(q.args(), one_thread());
          ASSERT_EQ(check(q), "") << dtype_name(x_type) << " to " << dtype_name(type) << ", " << cols << " columns, rule "
                                  << static_cast<int>(rule);
        }
}

TEST_P(Quantise, SharedScalesEqualTheTruth) {
  SKIP_IF_CPU_LACKS(GetParam());
  int64_t saturated = 0;
  for (const DType type : kCodedTypes)
    for (const ScaleRule rule : kRules)
      for (const bool wild : {false, true})
        for (const Quantiser& how : {Quantiser{.rule = rule, .granularity = Granularity::kBlock},
                                     Quantiser{.rule = rule, .granularity = Granularity::kTensor},
                                     Quantiser{.rule = rule, .granularity = Granularity::kTensor, .amax = 0.7f}}) {
          Quantised q(type == DType::kE5M2 ? DType::kBF16 : DType::kF32, type, 300, 200, how);
          q.x.fill([&](int64_t r, int64_t c) { return awkward_value(9, r, c, wild && r > 128); });
          GetParam().run(q.args(), one_thread());
          ASSERT_EQ(check(q), "") << dtype_name(type) << ", rule " << static_cast<int>(rule) << ", granularity "
                                  << static_cast<int>(how.granularity) << ", amax " << how.amax;
          if (how.amax > 0) saturated += q.statistics.read().saturated;
        }
  EXPECT_GT(saturated, 0);
}

// All finite bf16 numbers as values, at scales that put them among normals, subnormals, zeros and beyond the largest.
TEST_P(Quantise, EveryBf16EqualsTheTruthAtManyScales) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType x_type : kPlainTypes)
    for (const DType type : kCodedTypes)
      for (const float amax : {0x1p-133f, 3e-9f, 448.0f, 451.0f, 3.3e38f})
        for (const ScaleRule rule : kRules) {
          Quantised q(x_type, type, 510, 128, {.rule = rule, .granularity = Granularity::kTensor, .amax = amax});
          q.x.fill([](int64_t r, int64_t c) {
            const int64_t i = r * 128 + c;  // 65280 finite numbers: 0x0000 ... 0x7f7f, 0x8000 ... 0xff7f
            const uint32_t bits = static_cast<uint32_t>(i < 32640 ? i : i - 32640 + 0x8000);
            return static_cast<double>(std::bit_cast<float>(bits << 16));
          });
          GetParam().run(q.args(), one_thread());
          ASSERT_EQ(check(q), "") << dtype_name(type) << ", amax " << amax << ", rule " << static_cast<int>(rule);
        }
}

// FP32 numbers on, just below and just above the midpoint between every two neighbouring codes, and numbers over all bits.
TEST_P(Quantise, TiesAndTheirNeighboursEqualTheTruth) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType type : kCodedTypes) {
    std::vector<float> sample;
    const uint32_t codes = type == DType::kE5M6 ? 0x7c0 : type == DType::kE5M2 ? 0x7c : 0x7f;
    Coded one(type, 1, 1);
    const auto value = [&](uint32_t code) {
      one.set_code(0, 0, code);
      return one.decoded(0, 0);
    };
    for (uint32_t code = 0; code < codes; ++code) {
      const float low = value(code), high = code + 1 < codes ? value(code + 1) : low + (low - value(code - 1));
      const uint32_t middle = std::bit_cast<uint32_t>((low + high) / 2);
      for (int32_t step = -2; step <= 2; ++step)
        for (const uint32_t sign : {0u, 0x80000000u})
          sample.push_back(std::bit_cast<float>(static_cast<uint32_t>(static_cast<int32_t>(middle) + step) | sign));
      sample.push_back(low);
    }
    for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 131071) {
      const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
      if (std::isfinite(x)) sample.push_back(x);
    }
    const auto rows = static_cast<int64_t>(sample.size()) / 128 + 1;
    for (const float scale : {1.0f, 0x1p-60f, 0x1p50f})
      for (const ScaleRule rule : kRules) {
        const float amax = ::rorqual::testing::largest_of(type) * scale;
        Quantised q(DType::kF32, type, rows, 128, {.rule = rule, .granularity = Granularity::kTensor, .amax = amax});
        q.x.fill([&](int64_t r, int64_t c) {
          const auto i = static_cast<size_t>(r * 128 + c);
          const float x = i < sample.size() ? sample[i] : 0;
          return std::isfinite(x * scale) ? x * scale : x;
        });
        GetParam().run(q.args(), one_thread());
        ASSERT_EQ(check(q), "") << dtype_name(type) << ", scale " << scale << ", rule " << static_cast<int>(rule);
      }
  }
}

// Each group's own amax at the ends of the range: scales are clamped, values beyond saturate and are counted.
TEST_P(Quantise, TheEndsOfTheRangeEqualTheTruth) {
  SKIP_IF_CPU_LACKS(GetParam());
  constexpr float kAmaxes[] = {0x1p-149f, 0x1p-130f,  0x1p-126f,       0x1p-117f,  0x1p-110f,       0x1p-109f, 0x1p119f,
                               0x1p127f,  0x1.cp127f, 0x1.c00002p127f, 0x1.dp127f, 0x1.fffffep127f, 0.0f};
  for (const DType type : kCodedTypes)
    for (const ScaleRule rule : kRules) {
      Quantised q(DType::kF32, type, std::ssize(kAmaxes), 128, {.rule = rule});
      q.x.fill([&](int64_t r, int64_t c) {
        return static_cast<double>(kAmaxes[r]) * (c == 77 ? -1 : random_uniform({.seed = 5}, static_cast<uint64_t>(c)));
      });
      GetParam().run(q.args(), one_thread());
      ASSERT_EQ(check(q), "") << dtype_name(type) << ", rule " << static_cast<int>(rule);
      EXPECT_EQ(q.statistics.read().saturated > 0, type == DType::kE4M3 && rule == ScaleRule::kPow2);
    }
}

TEST_P(Quantise, DoesNotDependOnThreadsAndNoRowsAreNoWork) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const Granularity granularity : {Granularity::kGroup, Granularity::kBlock, Granularity::kTensor})
    for (const int threads : {2, 3}) {
      Quantised q(DType::kBF16, DType::kE4M3, 400, 1111, {.granularity = granularity});
      q.x.fill([](int64_t r, int64_t c) { return awkward_value(3, r, c, false); });
      ThreadPool pool(threads);
      GetParam().run(q.args(), Stream(pool));
      EXPECT_EQ(check(q), "") << threads << " threads";
      Quantised none(DType::kBF16, DType::kE4M3, 0, 1111, {.granularity = granularity});
      GetParam().run(none.args(), Stream(pool));
      EXPECT_EQ(none.statistics.read().values, 0);
      EXPECT_EQ(none.y.written_outside(), "");
    }
}

TEST_P(Quantise, UncountedGivesTheSameCodes) {
  SKIP_IF_CPU_LACKS(GetParam());
  Quantised q(DType::kF32, DType::kE4M3, 7, 300, {}), silent(DType::kF32, DType::kE4M3, 7, 300, {});
  q.x.fill([](int64_t r, int64_t c) { return awkward_value(3, r, c, true); });
  silent.x.fill([&](int64_t r, int64_t c) { return q.x.at(r, c); });
  silent.quantiser.statistics = nullptr;
  GetParam().run(q.args(), one_thread());
  GetParam().run(silent.args(), one_thread());
  EXPECT_EQ(difference(q.y, silent.y), "");
  EXPECT_EQ(silent.statistics.read().values, 0);
}

TEST_P(Quantise, TheCheckSeesAWrongCodeALostTailAWrongScaleAndAWrongCount) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (int defect = 0; defect < 5; ++defect) {
    Quantised q(DType::kF32, DType::kE4M3, 3, 131, {});
    q.x.fill_normal(1);
    if (defect == 4) q.x.set(2, 3, 1e-7);
    GetParam().run(q.args(), one_thread());
    if (defect == 1) q.y.set_code(1, 40, q.y.code(1, 40) ^ 1);
    if (defect == 2) q.y.set_code(2, 130, 0xff);
    if (defect == 3) q.y.scales().set(2, 1, 2 * q.y.scales().at(2, 1));
    if (defect == 4) q.x.set(2, 3, 0);  // what was flushed is zero
    EXPECT_EQ(check(q).empty(), defect == 0) << defect;
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Quantise, ::testing::ValuesIn(quantise_kernels().begin(), quantise_kernels().end()),
                         ::rorqual::testing::RowName());

TEST(Quantiser, DoubleIsRoundedToFp32First) {
  Quantised q(DType::kF64, DType::kE4M3, 2, 130, {});
  q.x.fill_normal(4);
  q.x.set(0, 0, 1 + 0x1p-4 + 0x1p-40);
  quantise(q.args(), one_thread());
  EXPECT_EQ(check(q), "");
}

// ---- dispatch

struct Dispatched {
  Matrix x;
  std::vector<int32_t> row_of_choice;
  int64_t top_k;
  Coded y, own;
  QuantiseStatistics statistics;
  Dispatched(DType x_type, DType type, int64_t tokens, int64_t d, int64_t k)
      : x(x_type, tokens, d), top_k(k), y(type, tokens * k + 5, d), own(type, tokens, d, ScaledTensor::Group::kRow, 4) {
    x.fill([](int64_t r, int64_t c) { return awkward_value(6, r, c, true); });
    const int64_t rows = tokens * k;  // rows 2 ... rows + 1 in another order; every fifth choice goes nowhere
    for (int64_t i = 0; i < rows; ++i) row_of_choice.push_back(i % 5 == 4 ? -1 : static_cast<int32_t>(2 + (rows - 1 - i)));
  }
  QuantiseDispatchArgs args(bool with_own) {
    return {.x = x,
            .row_of_choice = row_of_choice.data(),
            .top_k = top_k,
            .y = y,
            .own = with_own ? own.tensor() : ScaledTensor(),
            .quantiser = {.statistics = &statistics}};
  }
};

// What quantise and gather_rows give. Rows that nothing names stay 0xff.
std::string check(Dispatched& d, bool with_own) {
  Coded own(d.y.type(), d.x.rows(), d.x.cols()), y(d.y.type(), d.y.rows(), d.y.cols(), ScaledTensor::Group::kRow, 2);
  QuantiseStatistics statistics;
  quantise({.x = d.x, .y = own, .quantiser = {.statistics = &statistics}}, one_thread());
  std::vector<int32_t> source(static_cast<size_t>(d.y.rows()), -1);
  for (size_t i = 0; i < d.row_of_choice.size(); ++i)
    if (d.row_of_choice[i] >= 0)
      source[static_cast<size_t>(d.row_of_choice[i])] = static_cast<int32_t>(static_cast<int64_t>(i) / d.top_k);
  gather_rows({.x = own.tensor().codes, .source = source.data(), .y = y.tensor().codes}, one_thread());
  gather_rows({.x = own.tensor().scales, .source = source.data(), .y = y.tensor().scales}, one_thread());
  std::string problem = difference(y, d.y);
  if (problem.empty() && with_own) problem = difference(own, d.own);
  if (problem.empty()) problem = difference(statistics.read(), d.statistics.read());
  if (problem.empty()) problem = d.own.written_outside();
  return problem.empty() ? d.y.written_outside() : problem;
}

class QuantiseDispatch : public ::testing::TestWithParam<KernelRow<QuantiseDispatchArgs>> {};

TEST_P(QuantiseDispatch, EqualsQuantiseAndGather) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType type : {DType::kE4M3, DType::kE5M2})
    for (const bool with_own : {true, false})
      for (const int threads : {1, 2, 3})
        for (const int64_t d : {1, 7, 100, 128, 129, 1000}) {
          Dispatched q(d % 2 == 0 ? DType::kBF16 : DType::kF32, type, threads == 1 ? 9 : 300, d, 1 + d % 3);
          ThreadPool pool(threads);
          GetParam().run(q.args(with_own), Stream(pool));
          ASSERT_EQ(check(q, with_own), "") << dtype_name(type) << ", " << d << " columns, " << threads << " threads";
        }
}

TEST_P(QuantiseDispatch, TheCheckSeesARowAtTheWrongPlace) {
  SKIP_IF_CPU_LACKS(GetParam());
  Dispatched q(DType::kF32, DType::kE4M3, 20, 200, 2);
  GetParam().run(q.args(true), one_thread());
  ASSERT_EQ(check(q, true), "");
  std::swap(q.row_of_choice[0], q.row_of_choice[3]);
  EXPECT_NE(check(q, true), "");
}

INSTANTIATE_TEST_SUITE_P(Rows, QuantiseDispatch,
                         ::testing::ValuesIn(quantise_dispatch_kernels().begin(), quantise_dispatch_kernels().end()),
                         ::rorqual::testing::RowName());

// ---- dequantise

struct Dequantised {
  Coded x;
  Matrix y;
  Dequantised(DType type, DType y_type, int64_t rows, int64_t cols) : x(type, rows, cols), y(y_type, rows, cols, 5) {
    // Every code, special ones among them, and scales from end to end.
    constexpr float kScales[] = {1.0f, 0x1p-117f, 0x1p119f, 0.37f, 1e-30f, NAN, 0x1p-126f, 7.3e35f, 0x1.8p122f};
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) x.set_code(r, c, static_cast<uint32_t>((r * 97 + c) & 0xfff));
      for (int64_t g = 0; g < x.scales().cols(); ++g) x.scales().set(r, g, kScales[(r + g) % std::ssize(kScales)]);
    }
  }
  DequantiseArgs args() const { return {.x = x, .y = y}; }
};

std::string check(const Dequantised& d) {
  Matrix truth(d.y.tensor().dtype, d.x.rows(), d.x.cols());
  truth.fill([&](int64_t r, int64_t c) { return static_cast<double>(d.x.value(r, c)); });
  const std::string problem = difference(truth, d.y);
  return problem.empty() ? d.y.written_outside() : problem;
}

class Dequantise : public ::testing::TestWithParam<KernelRow<DequantiseArgs>> {};

TEST_P(Dequantise, EveryCodeEqualsTheTruthAtEveryLength) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType type : kCodedTypes)
    for (const DType y_type : kPlainTypes) {
      for (int64_t cols = 1; cols <= 300; ++cols) {
        Dequantised d(type, y_type, 2, cols);
        GetParam().run(d.args(), one_thread());
        ASSERT_EQ(check(d), "") << dtype_name(type) << " to " << dtype_name(y_type) << ", " << cols << " columns";
      }
      for (const int threads : {1, 2, 3}) {
        Dequantised d(type, y_type, 99, 4100);
        ThreadPool pool(threads);
        GetParam().run(d.args(), Stream(pool));
        ASSERT_EQ(check(d), "") << dtype_name(type) << " to " << dtype_name(y_type) << ", " << threads << " threads";
      }
    }
}

TEST_P(Dequantise, TheCheckSeesAWrongValue) {
  SKIP_IF_CPU_LACKS(GetParam());
  Dequantised d(DType::kE4M3, DType::kF32, 3, 140);
  GetParam().run(d.args(), one_thread());
  ASSERT_EQ(check(d), "");
  d.x.set_code(2, 139, d.x.code(2, 139) ^ 1);
  EXPECT_NE(check(d), "");
}

INSTANTIATE_TEST_SUITE_P(Rows, Dequantise, ::testing::ValuesIn(dequantise_kernels().begin(), dequantise_kernels().end()),
                         ::rorqual::testing::RowName());

TEST(Quantiser, TheBestAllowedRowIsChosenAndDoubleGoesToTheReference) {
  const Quantised q(DType::kBF16, DType::kE4M3, 2, 8, {}), wide(DType::kF64, DType::kE4M3, 2, 8, {});
  EXPECT_EQ(select_row(quantise_kernels(), q.args(), Isa::kAmx).name, "avx512");
  EXPECT_EQ(select_row(quantise_kernels(), q.args(), Isa::kAvx2).name, "avx2");
  EXPECT_EQ(select_row(quantise_kernels(), q.args(), Isa::kReference).name, "reference");
  EXPECT_EQ(select_row(quantise_kernels(), wide.args(), Isa::kAmx).name, "reference");
  const Dequantised d(DType::kE5M6, DType::kF32, 2, 8), to_double(DType::kE5M6, DType::kF64, 2, 8);
  EXPECT_EQ(select_row(dequantise_kernels(), d.args(), Isa::kAvx512).name, "avx512");
  EXPECT_EQ(select_row(dequantise_kernels(), to_double.args(), Isa::kAvx512).name, "reference");
}

}  // namespace
}  // namespace rorqual
