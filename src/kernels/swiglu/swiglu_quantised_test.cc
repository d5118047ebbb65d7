// SwiGLU with codes: the bits of decoding, the same row's plain FP32 computation, and quantising, each by itself.
#include <gtest/gtest.h>

#include "kernels/common/quantise_for_tests.h"
#include "kernels/quantise/quantise.h"
#include "kernels/swiglu/swiglu.h"

namespace rorqual {
namespace {

using ::rorqual::testing::Coded;
using ::rorqual::testing::difference;
using ::rorqual::testing::Matrix;
using ::rorqual::testing::one_thread;

constexpr int64_t kWidths[] = {1, 7, 16, 64, 70, 128, 129, 192, 200, 320, 1024, 1300};  // `up` begins inside a group for most

std::string check_coded(const Matrix& values, const Coded& y, const Quantiser& quantiser, const QuantiseStatistics& found) {
  Coded expected(y.type(), y.rows(), y.cols());
  QuantiseStatistics statistics;
  Quantiser how = quantiser;
  how.statistics = &statistics;
  quantise({.x = values, .y = expected, .quantiser = how}, one_thread());
  std::string problem = difference(expected, y);
  if (problem.empty()) problem = difference(statistics.read(), found.read());
  return problem.empty() ? y.written_outside() : problem;
}

// gate_up, plain and as codes; `plain_source` is what a kernel sees of it in FP32.
struct Source {
  Matrix plain;
  Coded codes;
  bool coded;
  Source(DType type, int64_t rows, int64_t width)
      : plain(type == DType::kE4M3 ? DType::kF32 : type, rows, 2 * width, 3),
        codes(DType::kE4M3, rows, 2 * width),
        coded(type == DType::kE4M3) {
    plain.fill_normal(3, 2.0);
    if (!coded) return;
    quantise({.x = plain, .y = codes}, one_thread());
    dequantise({.x = codes, .y = plain}, one_thread());
  }
  ScaledTensor tensor() const { return coded ? codes.tensor() : ScaledTensor(plain.tensor()); }
};

// ---- forward

struct Forward {
  Source gate_up;
  Matrix weight, h_plain;
  Coded h, cache;
  QuantiseStatistics h_statistics, cache_statistics;
  Quantiser quantiser;
  bool h_coded, cached;
  Forward(DType x_type, DType h_type, int64_t rows, int64_t width, bool with_cache, const Quantiser& how)
      : gate_up(x_type, rows, width),
        weight(DType::kF32, 1, rows),
        h_plain(h_type == DType::kE4M3 || h_type == DType::kE5M2 ? DType::kF32 : h_type, rows, width, 5),
        h(h_type == DType::kE5M2 ? h_type : DType::kE4M3, rows, width),
        cache(DType::kE4M3, rows, 2 * width),
        quantiser(how),
        h_coded(h_type == DType::kE4M3 || h_type == DType::kE5M2),
        cached(with_cache) {
    weight.fill_normal(5);
  }
  SwiGluForwardArgs args() {
    Quantiser of_h = quantiser, of_cache = quantiser;
    of_h.statistics = &h_statistics;
    of_cache.statistics = &cache_statistics;
    return {.gate_up = gate_up.tensor(),
            .weight = weight,
            .h = h_coded ? h.tensor() : ScaledTensor(h_plain.tensor()),
            .quantiser = of_h,
            .cache = cached ? cache.tensor() : ScaledTensor(),
            .cache_quantiser = of_cache};
  }
};

std::string check(const Forward& f, const KernelRow<SwiGluForwardArgs>& row) {
  Matrix h(f.h_plain.tensor().dtype, f.h.rows(), f.h.cols());
  row.run({.gate_up = f.gate_up.plain.tensor(), .weight = f.weight, .h = h.tensor()}, one_thread());
  std::string problem = f.h_coded ? check_coded(h, f.h, f.quantiser, f.h_statistics) : difference(h, f.h_plain);
  if (problem.empty()) problem = f.h_plain.written_outside();
  if (problem.empty() && f.cached) problem = check_coded(f.gate_up.plain, f.cache, f.quantiser, f.cache_statistics);
  return problem;
}

class SwiGluQuantisedForward : public ::testing::TestWithParam<KernelRow<SwiGluForwardArgs>> {};

TEST_P(SwiGluQuantisedForward, EqualsItsParts) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType x_type : {DType::kF32, DType::kBF16, DType::kE4M3})
    for (const DType h_type : {DType::kF32, DType::kBF16, DType::kE4M3, DType::kE5M2})
      for (const int64_t width : kWidths) {
        Forward f(x_type, h_type, 3, width, x_type != DType::kE4M3 && width % 3 != 0,
                  {.rule = width % 5 == 0 ? ScaleRule::kFp32 : ScaleRule::kPow2});
        GetParam().run(f.args(), one_thread());
        ASSERT_EQ(check(f, GetParam()), "") << dtype_name(x_type) << " to " << dtype_name(h_type) << ", width " << width;
      }
}

TEST_P(SwiGluQuantisedForward, EveryGranularityAndAnyNumberOfThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const Granularity granularity : {Granularity::kGroup, Granularity::kBlock, Granularity::kTensor})
    for (const int threads : {1, 2, 3}) {
      Forward f(DType::kBF16, DType::kE4M3, 300, 400, true, {.granularity = granularity});
      ThreadPool pool(threads);
      GetParam().run(f.args(), Stream(pool));
      ASSERT_EQ(check(f, GetParam()), "") << threads << " threads, granularity " << static_cast<int>(granularity);
    }
}

TEST_P(SwiGluQuantisedForward, TheCheckSeesAWrongCodeOfEither) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (int defect = 0; defect < 3; ++defect) {
    Forward f(DType::kBF16, DType::kE4M3, 3, 200, true, {});
    GetParam().run(f.args(), one_thread());
    if (defect == 1) f.h.set_code(2, 199, f.h.code(2, 199) ^ 1);
    if (defect == 2) f.cache.set_code(2, 399, f.cache.code(2, 399) ^ 1);
    EXPECT_EQ(check(f, GetParam()).empty(), defect == 0) << defect;
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, SwiGluQuantisedForward,
                         ::testing::ValuesIn(swiglu_forward_kernels().begin(), swiglu_forward_kernels().end()),
                         ::rorqual::testing::RowName());

// ---- backward

struct Backward {
  Source gate_up;
  Matrix weight, d_h, d_plain, d_weight;
  Coded d_gate_up;
  QuantiseStatistics statistics;
  Quantiser quantiser;
  bool coded;
  Backward(DType x_type, DType dh_type, DType dx_type, int64_t rows, int64_t width, const Quantiser& how)
      : gate_up(x_type, rows, width),
        weight(DType::kF32, 1, rows),
        d_h(dh_type, rows, width, 1),
        d_plain(dx_type == DType::kE4M3 || dx_type == DType::kE5M2 ? DType::kF32 : dx_type, rows, 2 * width, 6),
        d_weight(DType::kF32, 1, rows),
        d_gate_up(dx_type == DType::kE5M2 ? dx_type : DType::kE4M3, rows, 2 * width),
        quantiser(how),
        coded(dx_type == DType::kE4M3 || dx_type == DType::kE5M2) {
    weight.fill_normal(5);
    d_h.fill_normal(6, 1e-3);
    quantiser.statistics = &statistics;
  }
  SwiGluBackwardArgs args() const {
    return {.gate_up = gate_up.tensor(),
            .weight = weight,
            .d_h = d_h,
            .d_gate_up = coded ? d_gate_up.tensor() : ScaledTensor(d_plain.tensor()),
            .d_weight = d_weight,
            .quantiser = quantiser};
  }
};

std::string check(const Backward& b, const KernelRow<SwiGluBackwardArgs>& row) {
  Matrix d(b.d_plain.tensor().dtype, b.d_h.rows(), 2 * b.d_h.cols()), d_weight(DType::kF32, 1, b.d_h.rows());
  row.run(
      {.gate_up = b.gate_up.plain.tensor(), .weight = b.weight, .d_h = b.d_h, .d_gate_up = d.tensor(), .d_weight = d_weight},
      one_thread());
  std::string problem = b.coded ? check_coded(d, b.d_gate_up, b.quantiser, b.statistics) : difference(d, b.d_plain);
  if (problem.empty()) problem = difference(d_weight, b.d_weight);
  return problem.empty() ? b.d_plain.written_outside() : problem;
}

class SwiGluQuantisedBackward : public ::testing::TestWithParam<KernelRow<SwiGluBackwardArgs>> {};

TEST_P(SwiGluQuantisedBackward, EqualsItsParts) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType x_type : {DType::kF32, DType::kBF16, DType::kE4M3})
    for (const DType dx_type : {DType::kF32, DType::kBF16, DType::kE4M3, DType::kE5M2})
      for (const int64_t width : kWidths) {
        Backward b(x_type, width % 2 == 0 ? DType::kBF16 : DType::kF32, dx_type, 3, width,
                   {.rule = width % 5 == 0 ? ScaleRule::kFp32 : ScaleRule::kPow2});
        GetParam().run(b.args(), one_thread());
        ASSERT_EQ(check(b, GetParam()), "") << dtype_name(x_type) << " to " << dtype_name(dx_type) << ", width " << width;
      }
}

TEST_P(SwiGluQuantisedBackward, EveryGranularityAndAnyNumberOfThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const Granularity granularity : {Granularity::kGroup, Granularity::kBlock, Granularity::kTensor})
    for (const int threads : {1, 2, 3}) {
      Backward b(DType::kE4M3, DType::kBF16, DType::kE4M3, 300, 400, {.granularity = granularity});
      ThreadPool pool(threads);
      GetParam().run(b.args(), Stream(pool));
      ASSERT_EQ(check(b, GetParam()), "") << threads << " threads, granularity " << static_cast<int>(granularity);
    }
}

TEST_P(SwiGluQuantisedBackward, TheCheckSeesAWrongCodeAndAWrongWeightGradient) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (int defect = 0; defect < 3; ++defect) {
    Backward b(DType::kE4M3, DType::kF32, DType::kE4M3, 3, 200, {});
    GetParam().run(b.args(), one_thread());
    if (defect == 1) b.d_gate_up.set_code(2, 399, b.d_gate_up.code(2, 399) ^ 1);
    if (defect == 2) b.d_weight.set(0, 1, b.d_weight.at(0, 1) * (1 + 0x1p-23));
    EXPECT_EQ(check(b, GetParam()).empty(), defect == 0) << defect;
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, SwiGluQuantisedBackward,
                         ::testing::ValuesIn(swiglu_backward_kernels().begin(), swiglu_backward_kernels().end()),
                         ::rorqual::testing::RowName());

}  // namespace
}  // namespace rorqual
