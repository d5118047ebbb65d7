// The AMX kernels on a software model of the unit: their tiles, panels and edges are tested on machines without it.
#include <gtest/gtest.h>

#include "base/cpu.h"
#include "base/threads.h"
#include "kernels/gemm/amx_model.h"
#include "kernels/gemm/gemm_test_support.h"
#include "kernels/gemm/kernels.h"

namespace rorqual::gemm {
namespace {

uint16_t element(const uint16_t* in, int64_t stride, int64_t steps, int64_t cols, int64_t step, int64_t col) {
  return step < steps && col < cols ? in[step * stride + col] : uint16_t{0};
}
void pack_pairs(const uint16_t* in, int64_t stride, int64_t steps, int64_t cols, uint16_t* out) {
  for (int64_t m = 0; m < 32; ++m)
    for (int64_t n = 0; n < 16; ++n) out[m / 2 * 32 + n * 2 + m % 2] = element(in, stride, steps, cols, m, n);
}
void pack_transposed(const uint16_t* in, int64_t stride, int64_t steps, int64_t cols, uint16_t* out) {
  for (int64_t m = 0; m < 32; ++m)
    for (int64_t n = 0; n < 16; ++n) out[n * 32 + m] = element(in, stride, steps, cols, m, n);
}

#include "kernels/gemm/amx.inc"

using gemm_test::compare;
using gemm_test::Expected;
using gemm_test::Matrix;
using gemm_test::Packed;

struct Size {
  int64_t m, n, k;
};
constexpr Size kSizes[] = {{1, 1, 1},     {1, 16, 32},    {2, 17, 33},   {15, 31, 31},  {16, 32, 64},
                           {17, 33, 65},  {31, 15, 2},    {32, 16, 96},  {33, 48, 127}, {40, 300, 70},
                           {130, 40, 48}, {150, 33, 129}, {64, 64, 128}, {5, 16, 0}};

LinearBlock block_of(const Tensor& a, const PackedWeight& b, const Tensor& c, bool accumulate) {
  return {a.data,       a.stride, b.data,    panel_elements(b.dtype, b.k), c.data, c.stride, a.rows, b.n, b.k,
          DType::kBF16, c.dtype,  accumulate};
}

TEST(AmxModel, LinearAgreesWithExactSums) {
  ThreadPool pool(1);
  const Stream stream(pool);
  for (const Size s : kSizes) {
    for (const DType out : {DType::kF32, DType::kBF16}) {
      for (const bool accumulate : {false, true}) {
        const Matrix a(DType::kBF16, s.m, s.k, s.m % 3), b(DType::kBF16, s.n, s.k), c(out, s.m, s.n, s.n % 5);
        a.fill(1), b.fill(2);
        if (accumulate) c.fill(3);
        const Packed weight(b.tensor(), Transposed::kNo, DType::kBF16, stream);
        const auto want = gemm_test::exact_linear(a.tensor(), b.tensor(), c.tensor(), accumulate);
        const LinearBlock block = block_of(a.tensor(), weight.weight(), c.tensor(), accumulate);
        out == DType::kF32 ? linear_block<float>(block) : linear_block<uint16_t>(block);
        EXPECT_EQ(compare(c.tensor(), want), "") << "m=" << s.m << " n=" << s.n << " k=" << s.k << " accumulate=" << accumulate;
        EXPECT_TRUE(c.gaps_untouched()) << "m=" << s.m << " n=" << s.n << " k=" << s.k;
      }
    }
  }
}

TEST(AmxModel, GradientAgreesWithExactSums) {
  for (Size s : kSizes) {
    if (s.k == 0) continue;
    for (const int64_t tokens : {s.m, s.m + 1050}) {  // within one block of the sum, and beyond it
      if (tokens > 1024 && s.n * s.k > 5000) continue;
      const Matrix a(DType::kBF16, tokens, s.n, s.n % 3), b(DType::kBF16, tokens, s.k, s.m % 5), c(DType::kF32, s.n, s.k);
      a.fill(1), b.fill(2), c.fill(3);
      const auto want = gemm_test::exact_gradient(a.tensor(), b.tensor(), c.tensor());
      const Tensor &ta = a.tensor(), &tb = b.tensor(), &tc = c.tensor();
      gradient_block({ta.data, ta.stride, tb.data, tb.stride, tc.data, tc.stride, tc.rows, tc.cols, ta.rows, DType::kBF16});
      EXPECT_EQ(compare(tc, want), "") << "m=" << tokens << " n=" << s.n << " k=" << s.k;
      EXPECT_TRUE(c.gaps_untouched()) << "m=" << tokens << " n=" << s.n << " k=" << s.k;
    }
  }
}

// A row's bits do not depend on the rows beside it.
TEST(AmxModel, RowsDoNotDependOnEachOther) {
  ThreadPool pool(1);
  const Stream stream(pool);
  const Matrix a(DType::kBF16, 50, 70), b(DType::kBF16, 40, 70), all(DType::kF32, 50, 40), one(DType::kF32, 50, 40);
  a.fill(1), b.fill(2);
  const Packed weight(b.tensor(), Transposed::kNo, DType::kBF16, stream);
  linear_block<float>(block_of(a.tensor(), weight.weight(), all.tensor(), false));
  for (int64_t r = 0; r < 50; ++r)
    linear_block<float>(block_of(a.tensor().row_range(r, 1), weight.weight(), one.tensor().row_range(r, 1), false));
  EXPECT_TRUE(all == one);
}

// NaN and infinity of one panel stay out of its neighbours, also where the last block of steps is not full.
TEST(AmxModel, PanelsDoNotLeak) {
  ThreadPool pool(1);
  const Stream stream(pool);
  const Matrix a(DType::kBF16, 20, 40), b(DType::kBF16, 48, 40), c(DType::kF32, 20, 48);
  a.fill(1), b.fill(2);
  for (int64_t k = 0; k < 40; ++k) gemm_test::set(b.tensor(), 17, k, k % 2 == 0 ? NAN : INFINITY);
  const Packed weight(b.tensor(), Transposed::kNo, DType::kBF16, stream);
  linear_block<float>(block_of(a.tensor(), weight.weight(), c.tensor(), false));
  for (int64_t m = 0; m < 20; ++m)
    for (int64_t n = 0; n < 48; ++n) EXPECT_EQ(std::isnan(gemm_test::get(c.tensor(), m, n)), n == 17) << m << ", " << n;
}

// The instruction's order by hand: even and odd chains, their sum, then the element; denormals are zero.
TEST(AmxModel, InstructionOrder) {
  uint16_t a[512] = {}, b[512] = {};
  float c[256] = {};
  const auto bits = [](float x) { return Bf16(x).bits; };
  // Row 0: even products 1, 2^-24, 2^-24 (each lost against 1), odd products 2^-24, 2^-24 (kept: their sum is 2^-23).
  for (const int i : {0, 2, 4, 1, 3}) a[i] = bits(1);
  for (const int i : {0, 1, 2, 3, 4}) b[i / 2 * 32 + i % 2] = bits(i == 0 ? 1.0f : 0x1p-24f);
  c[0] = 4;
  // Row 1: a denormal operand.
  a[32] = 1, b[2] = bits(0x1p127f);
  tile_model().configure();
  tile_model().load(0, c, 64);
  tile_model().load(4, a, 64);
  tile_model().load(6, b, 64);
  tile_model().dot(0, 4, 6);
  tile_model().store(0, c, 64);
  tile_model().release();
  EXPECT_EQ(c[0], 4 + (1 + 0x1p-23f));
  EXPECT_EQ(c[17], 0);
}

TEST(AmxPacking, Avx512AgreesWithScalar) {
  if (cpu_isa() < Isa::kAvx512) GTEST_SKIP() << "this CPU has no avx512";
  std::vector<uint16_t> in(32 * 19);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i + 1);
  for (const int64_t steps : {1, 2, 3, 16, 31, 32}) {
    for (int64_t cols = 1; cols <= 16; ++cols) {
      uint16_t want[512], got[512];
      pack_pairs(in.data(), 19, steps, cols, want), pack_pairs_avx512(in.data(), 19, steps, cols, got);
      EXPECT_EQ(std::memcmp(want, got, sizeof(want)), 0) << "pairs, steps=" << steps << " cols=" << cols;
      pack_transposed(in.data(), 19, steps, cols, want), pack_transposed_avx512(in.data(), 19, steps, cols, got);
      EXPECT_EQ(std::memcmp(want, got, sizeof(want)), 0) << "transposed, steps=" << steps << " cols=" << cols;
    }
  }
}

// Planted defects: what the comparison must not forgive.
TEST(AmxModel, ComparisonCatchesDefects) {
  ThreadPool pool(1);
  const Stream stream(pool);
  const Matrix a(DType::kBF16, 33, 80), b(DType::kBF16, 33, 80), c(DType::kF32, 33, 33);
  a.fill(1), b.fill(2);
  const Packed weight(b.tensor(), Transposed::kNo, DType::kBF16, stream);
  const auto want = gemm_test::exact_linear(a.tensor(), b.tensor(), c.tensor(), false);
  LinearBlock block = block_of(a.tensor(), weight.weight(), c.tensor(), false);
  linear_block<float>(block);
  ASSERT_EQ(compare(c.tensor(), want), "");
  block.depth = 64;  // the last block of steps dropped
  linear_block<float>(block);
  EXPECT_NE(compare(c.tensor(), want), "");
}

}  // namespace
}  // namespace rorqual::gemm
