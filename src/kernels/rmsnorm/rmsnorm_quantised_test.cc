// RMSNorm fused with quantising: the bits of the same row's plain FP32 output, quantised by itself.
#include <gtest/gtest.h>

#include "kernels/common/quantise_for_tests.h"
#include "kernels/quantise/quantise.h"
#include "kernels/rmsnorm/rmsnorm.h"

namespace rorqual {
namespace {

using ::rorqual::testing::Coded;
using ::rorqual::testing::difference;
using ::rorqual::testing::Matrix;
using ::rorqual::testing::one_thread;

constexpr Granularity kGranularities[] = {Granularity::kGroup, Granularity::kBlock, Granularity::kTensor};

struct Fused {
  Matrix x, w, plain;
  Coded y;
  QuantiseStatistics statistics;
  Quantiser quantiser;
  Fused(DType x_type, DType y_type, DType plain_type, int64_t rows, int64_t d, const Quantiser& how)
      : x(x_type, rows, d), w(DType::kF32, 1, d), plain(plain_type, rows, d, 5), y(y_type, rows, d), quantiser(how) {
    x.fill([](int64_t r, int64_t c) { return ::rorqual::testing::awkward_value(7, r, c % 100, false); });
    w.fill_normal(8);
    quantiser.statistics = &statistics;
  }
  RmsNormForwardArgs args(bool with_plain) const {
    return {.x = x, .w = w, .y = y, .eps = 1e-6, .y_plain = with_plain ? plain.tensor() : Tensor(), .quantiser = quantiser};
  }
};

std::string check(const Fused& f, const KernelRow<RmsNormForwardArgs>& row, bool with_plain) {
  Matrix values(DType::kF32, f.x.rows(), f.x.cols()), plain(f.plain.tensor().dtype, f.x.rows(), f.x.cols());
  row.run({.x = f.x, .w = f.w, .y = values.tensor(), .eps = 1e-6, .y_plain = plain}, one_thread());
  Coded y(f.y.type(), f.x.rows(), f.x.cols());
  QuantiseStatistics statistics;
  Quantiser how = f.quantiser;
  how.statistics = &statistics;
  quantise({.x = values, .y = y, .quantiser = how}, one_thread());
  std::string problem = difference(y, f.y);
  if (problem.empty() && with_plain) problem = difference(plain, f.plain);
  if (problem.empty()) problem = difference(statistics.read(), f.statistics.read());
  if (problem.empty()) problem = f.plain.written_outside();
  return problem.empty() ? f.y.written_outside() : problem;
}

class RmsNormQuantised : public ::testing::TestWithParam<KernelRow<RmsNormForwardArgs>> {};

TEST_P(RmsNormQuantised, EqualsQuantisingThePlainOutput) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType x_type : {DType::kF32, DType::kBF16})
    for (const DType y_type : {DType::kE4M3, DType::kE5M2, DType::kE5M6})
      for (const int64_t d : {1, 5, 16, 31, 127, 128, 129, 300, 1024, 1025, 2111}) {
        const bool with_plain = d % 3 != 0;
        Fused f(x_type, y_type, d % 2 == 0 ? DType::kF32 : DType::kBF16, 3, d,
                {.rule = d % 5 == 0 ? ScaleRule::kFp32 : ScaleRule::kPow2});
        GetParam().run(f.args(with_plain), one_thread());
        ASSERT_EQ(check(f, GetParam(), with_plain), "") << dtype_name(x_type) << " to " << dtype_name(y_type) << ", d " << d;
      }
}

TEST_P(RmsNormQuantised, EveryGranularityAndAnyNumberOfThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const Granularity granularity : kGranularities)
    for (const int threads : {1, 2, 3}) {
      Fused f(DType::kBF16, DType::kE4M3, DType::kBF16, 300, 1200, {.granularity = granularity});
      ThreadPool pool(threads);
      GetParam().run(f.args(true), Stream(pool));
      ASSERT_EQ(check(f, GetParam(), true), "") << threads << " threads, granularity " << static_cast<int>(granularity);
    }
}

TEST_P(RmsNormQuantised, TheCheckSeesAWrongCodeAndALostChunk) {
  SKIP_IF_CPU_LACKS(GetParam());
  Fused f(DType::kF32, DType::kE4M3, DType::kF32, 3, 1100, {});
  GetParam().run(f.args(true), one_thread());
  ASSERT_EQ(check(f, GetParam(), true), "");
  f.y.set_code(2, 1099, f.y.code(2, 1099) ^ 1);
  EXPECT_NE(check(f, GetParam(), true), "");
  Fused lost(DType::kF32, DType::kE4M3, DType::kF32, 3, 1100, {});
  RmsNormForwardArgs args = lost.args(true);
  args.y_plain = args.y_plain.col_range(0, 1100);
  GetParam().run(args, one_thread());
  lost.plain.set(1, 1024, 0);
  EXPECT_NE(check(lost, GetParam(), true), "");
}

INSTANTIATE_TEST_SUITE_P(Rows, RmsNormQuantised,
                         ::testing::ValuesIn(rmsnorm_forward_kernels().begin(), rmsnorm_forward_kernels().end()),
                         ::rorqual::testing::RowName());

}  // namespace
}  // namespace rorqual
