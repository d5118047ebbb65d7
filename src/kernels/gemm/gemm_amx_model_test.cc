// The AMX kernels on a software model of the unit: their tiles, panels and edges are tested on machines without it.
#include <gtest/gtest.h>

#include "base/cpu.h"
#include "base/threads.h"
#include "kernels/gemm/amx_model.h"
#include "kernels/gemm/gemm_fp8_test_support.h"
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

// FP8: the value times the scale cut to bf16, which is exact but below 2^-126. The tests run with these and with AVX-512's.
uint16_t bf16_of(DType codes, uint8_t code, float scale) {
  const float value = gemm_test::decode(codes, code) * scale;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>(bits >> 16);
}
bool use_avx512 = false;

void decode_row(DType codes, const uint8_t* in, int64_t depth, const float* scales, int64_t block, uint16_t* out) {
  if (use_avx512) return decode_row_avx512(codes, in, depth, scales, block, out);
  for (int64_t k = 0; k < (depth + 31) / 32 * 32; ++k)
    out[k / 32 * block + k % 32] = k < depth ? bf16_of(codes, in[k], scales[k / 128]) : uint16_t{0};
}
void decode_panel(const uint8_t* in, int64_t depth, const float* scales, uint16_t* out) {
  if (use_avx512) return decode_panel_avx512(in, depth, scales, out);
  for (int64_t k = 0; k < (depth + 31) / 32 * 32; ++k)
    for (int64_t n = 0; n < 16; ++n)
      out[panel_index<uint16_t>(n, k)] =
          k < depth ? bf16_of(DType::kE4M3, in[panel_index<uint8_t>(n, k)], scales[k / 128]) : uint16_t{0};
}
void pack_scaled(bool transposed, DType codes, const uint8_t* in, int64_t stride, int64_t steps, int64_t cols,
                 const float* scales, uint16_t* out) {
  std::vector<uint16_t> values(32 * 16);
  for (int64_t m = 0; m < steps; ++m)
    for (int64_t n = 0; n < cols; ++n) values[static_cast<size_t>(m * 16 + n)] = bf16_of(codes, in[m * stride + n], scales[n]);
  (transposed ? pack_transposed : pack_pairs)(values.data(), 16, steps, cols, out);
}
void pack_scaled_pairs(DType codes, const uint8_t* in, int64_t stride, int64_t steps, int64_t cols, const float* scales,
                       uint16_t* out) {
  if (use_avx512) return pack_scaled_pairs_avx512(codes, in, stride, steps, cols, scales, out);
  pack_scaled(false, codes, in, stride, steps, cols, scales, out);
}
void pack_scaled_transposed(DType codes, const uint8_t* in, int64_t stride, int64_t steps, int64_t cols, const float* scales,
                            uint16_t* out) {
  if (use_avx512) return pack_scaled_transposed_avx512(codes, in, stride, steps, cols, scales, out);
  pack_scaled(true, codes, in, stride, steps, cols, scales, out);
}

#include "kernels/gemm/amx.inc"

using gemm_test::compare;
using gemm_test::differing;
using gemm_test::Expected;
using gemm_test::Fill;
using gemm_test::Fp8Weight;
using gemm_test::Matrix;
using gemm_test::Packed;
using gemm_test::Scaled;
using Group = ScaledTensor::Group;

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

// FP8 on the tiles is defined to the bit: values as bf16, sums in the order that amx.inc documents.
float flushed(float x) {
  return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x;
}
template <class A, class B>
float defined_sum(int64_t depth, const A& a, const B& b) {
  float sum = 0;
  for (int64_t block = 0; block < depth; block += 32) {
    float chain[2] = {0, 0};
    for (int64_t k = block; k < std::min(block + 32, depth); ++k)
      chain[k % 2] = flushed(std::fma(flushed(a(k)), flushed(b(k)), chain[k % 2]));
    sum = flushed(sum + flushed(chain[0] + chain[1]));
  }
  return sum;
}
void defined_linear(const Scaled& a, const Fp8Weight& b, const Tensor& c, bool accumulate) {
  for (int64_t m = 0; m < c.rows; ++m)
    for (int64_t n = 0; n < c.cols; ++n)
      gemm_test::put(c, m, n,
                     defined_sum(
                         a.tensor().cols(), [&](int64_t k) { return a.value(m, k) * a.scale(m, k); },
                         [&](int64_t k) { return b.value(n, k) * b.scale(n, k); }),
                     accumulate);
}
void defined_gradient(const Scaled& a, const Scaled& b, const Tensor& c) {
  for (int64_t n = 0; n < c.rows; ++n)
    for (int64_t k = 0; k < c.cols; ++k)
      gemm_test::put(c, n, k,
                     defined_sum(
                         a.tensor().rows(), [&](int64_t m) { return a.value(m, n) * a.scale(m, n); },
                         [&](int64_t m) { return b.value(m, k) * b.scale(m, k); }),
                     true);
}
LinearBlock block_of(const Scaled& a, const Fp8Weight& b, const Tensor& c, bool accumulate) {
  LinearBlock block = block_of(a.tensor().codes, b.weight(), c, accumulate);
  block.operands = a.tensor().dtype();
  block.a_scales = {static_cast<const float*>(a.tensor().scales.data), a.tensor().scales.stride};
  block.b_scales = {b.weight().scale, scale_groups(b.weight().k)};
  return block;
}
GradientBlock block_of(const Scaled& a, const Scaled& b, const Tensor& c) {
  const ScaledTensor &x = a.tensor(), &y = b.tensor();
  return {x.codes.data,
          x.codes.stride,
          y.codes.data,
          y.codes.stride,
          c.data,
          c.stride,
          c.rows,
          c.cols,
          x.rows(),
          x.dtype(),
          {static_cast<const float*>(x.scales.data), x.scales.stride},
          {static_cast<const float*>(y.scales.data), y.scales.stride}};
}
void run_linear(const LinearBlock& block) {
  block.out == DType::kF32 ? linear_block_fp8<float>(block) : linear_block_fp8<uint16_t>(block);
}
// The scalar packers of this file, and AVX-512's where the CPU has it.
std::vector<bool> packers() {
  return cpu_isa() >= Isa::kAvx512 ? std::vector<bool>{false, true} : std::vector<bool>{false};
}

// Every remainder of 16 and 32 rows and columns, of 4, 16, 32 and 128 steps; several groups, blocks of steps, rows and columns.
std::vector<Size> fp8_sizes() {
  std::vector<Size> out(std::begin(kSizes), std::end(kSizes));
  for (int64_t i = 1; i <= 34; ++i) out.push_back({i, 1 + i * 7 % 35, 1 + i * 11 % 39});
  for (const Size s : {Size{3, 20, 127}, Size{17, 33, 129}, Size{33, 17, 161}, Size{20, 150, 260}, Size{35, 40, 1030},
                       Size{260, 20, 40}, Size{2, 530, 33}, Size{258, 514, 3}})
    out.push_back(s);
  return out;
}

TEST(AmxModelFp8, LinearIsItsDefinitionBitForBit) {
  for (const DType operand : {DType::kE4M3, DType::kE5M2}) {
    for (const Size s : fp8_sizes()) {
      const Scaled a(operand, s.m, s.k, Group::kRow, 1, {}, s.m % 4);
      const Fp8Weight b(s.n, s.k, 2, {});
      for (const DType out : {DType::kF32, DType::kBF16}) {
        for (const bool accumulate : {false, true}) {
          const Matrix start(out, s.m, s.n, s.n % 5);
          if (accumulate) start.fill(3);
          const Matrix want = start.copy();
          defined_linear(a, b, want.tensor(), accumulate);
          for (const bool vectors : packers()) {
            use_avx512 = vectors;
            const Matrix c = start.copy();
            run_linear(block_of(a, b, c.tensor(), accumulate));
            const std::string words = fmt::format("{} m={} n={} k={} into {}, accumulate={} avx512={}", dtype_name(operand),
                                                  s.m, s.n, s.k, dtype_name(out), accumulate, vectors);
            EXPECT_EQ(differing(c.tensor(), want.tensor()), "") << words;
            EXPECT_TRUE(c.gaps_untouched()) << words;
          }
        }
      }
    }
  }
}

TEST(AmxModelFp8, GradientIsItsDefinitionBitForBit) {
  for (const DType operand : {DType::kE4M3, DType::kE5M2}) {
    for (const Size s : fp8_sizes()) {
      if (s.k == 0) continue;
      const int64_t tokens = s.k, n = s.m, k = s.n;  // the sum's length varies most
      const Scaled a(operand, tokens, n, Group::kColumn, 1, {}, s.m % 4), b(DType::kE4M3, tokens, k, Group::kColumn, 2, {}, 3);
      const Matrix start(DType::kF32, n, k);
      start.fill(3);
      const Matrix want = start.copy();
      defined_gradient(a, b, want.tensor());
      for (const bool vectors : packers()) {
        use_avx512 = vectors;
        const Matrix c = start.copy();
        gradient_block_fp8(block_of(a, b, c.tensor()));
        EXPECT_EQ(differing(c.tensor(), want.tensor()), "")
            << dtype_name(operand) << " tokens=" << tokens << " n=" << n << " k=" << k << " avx512=" << vectors;
        EXPECT_TRUE(c.gaps_untouched());
      }
    }
  }
}

// The unit itself, through the tables' rows, on CPUs that have one.
template <class Args>
const KernelRow<Args>& row_named(std::span<const KernelRow<Args>> rows, std::string_view name) {
  for (const auto& row : rows)
    if (row.name == name) return row;
  fail("no row {}", name);
}
TEST(AmxUnitFp8, RowsAreTheModelBitForBit) {
  if (cpu_isa() < Isa::kAmx) GTEST_SKIP() << "this CPU has no amx";
  ThreadPool pool(2);
  const Stream stream(pool);
  for (const DType operand : {DType::kE4M3, DType::kE5M2}) {
    for (const Size s : fp8_sizes()) {
      const std::string words = fmt::format("{} m={} n={} k={}", dtype_name(operand), s.m, s.n, s.k);
      const Scaled a(operand, s.m, s.k, Group::kRow, 1, {}, s.m % 4);
      const Fp8Weight b(s.n, s.k, 2, {});
      const Matrix c(DType::kBF16, s.m, s.n), want(DType::kBF16, s.m, s.n);
      defined_linear(a, b, want.tensor(), false);
      const LinearProblem problem{a.tensor(), b.weight(), c.tensor()};
      row_named(linear_kernels(), "amx_fp8").run({.problems = {&problem, 1}}, stream);
      EXPECT_EQ(differing(c.tensor(), want.tensor()), "") << words;
      if (s.k == 0) continue;
      const Scaled x(operand, s.k, s.m, Group::kColumn, 1, {}), y(DType::kE4M3, s.k, s.n, Group::kColumn, 2, {});
      const Matrix g(DType::kF32, s.m, s.n), sum(DType::kF32, s.m, s.n);
      g.fill(3), sum.fill(3);
      defined_gradient(x, y, sum.tensor());
      const WeightGradientProblem gradient{x.tensor(), y.tensor(), g.tensor()};
      row_named(weight_gradient_kernels(), "amx_fp8").run({.problems = {&gradient, 1}}, stream);
      EXPECT_EQ(differing(g.tensor(), sum.tensor()), "") << words;
    }
  }
}

// A block within a weight takes the scales of its own columns.
TEST(AmxModelFp8, BlocksTakeTheirColumnsScales) {
  const Scaled a(DType::kE4M3, 5, 140, Group::kRow, 1, {});
  const Fp8Weight b(300, 140, 2, {});
  const Matrix all(DType::kF32, 5, 300), want(DType::kF32, 5, 300);
  defined_linear(a, b, want.tensor(), false);
  for (const bool vectors : packers()) {
    use_avx512 = vectors;
    for (const auto& [begin, end] : {std::pair{0, 112}, {112, 144}, {144, 300}}) {
      LinearBlock block = block_of(a, b, all.tensor().col_range(begin, end - begin), false);
      block.b = static_cast<const uint8_t*>(block.b) + begin / 16 * block.panel_stride;
      block.cols = end - begin, block.col_begin = begin;
      run_linear(block);
    }
    EXPECT_EQ(differing(all.tensor(), want.tensor()), "");
  }
}

// Every code with every power of two, and scales that are none: AVX-512's packers as the scalar ones. Codes with the smallest
// scales are denormals there, and the tiles take them for zero.
TEST(AmxModelFp8, EveryCodeWithEveryScale) {
  if (cpu_isa() < Isa::kAvx512) GTEST_SKIP() << "this CPU has no avx512";
  const auto same = [](const std::vector<uint16_t>& x, const std::vector<uint16_t>& y) {
    for (size_t i = 0; i < x.size(); ++i)
      if (x[i] != y[i] && !((x[i] & 0x7fff) > 0x7f80 && (y[i] & 0x7fff) > 0x7f80)) return false;
    return true;
  };
  std::vector<uint8_t> codes(256 * 16);  // as a panel, every column has all codes of some order
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 37);
  std::vector<float> scales = {NAN, INFINITY, 0, -1, 3, 0x1p-149f};
  for (int e = -126; e <= 127; ++e) scales.push_back(power_of_two(e));
  for (const float scale : scales) {
    const std::vector<float> groups(32, scale);
    for (const DType format : {DType::kE4M3, DType::kE5M2}) {
      std::vector<uint16_t> want[4], got[4];
      for (const bool vectors : {false, true}) {
        use_avx512 = vectors;
        auto& out = vectors ? got : want;
        for (auto& o : out) o.resize(256 * 16);
        decode_row(format, codes.data(), 256, groups.data(), 32, out[0].data());
        decode_panel(codes.data(), 256, groups.data(), out[1].data());
        for (int64_t t = 0; t < 8; ++t) {
          pack_scaled_pairs(format, codes.data() + t * 512, 16, 32, 16, groups.data(), out[2].data() + t * 512);
          pack_scaled_transposed(format, codes.data() + t * 512, 16, 32, 16, groups.data(), out[3].data() + t * 512);
        }
      }
      for (int i = 0; i < 4; ++i)
        EXPECT_TRUE(same(want[i], got[i])) << "packer " << i << ", " << dtype_name(format) << " with scale " << scale;
    }
  }
}

// Ends that fill no block: zeros up to the block's end, nothing beyond.
TEST(AmxModelFp8, RaggedEnds) {
  if (cpu_isa() < Isa::kAvx512) GTEST_SKIP() << "this CPU has no avx512";
  std::vector<uint8_t> codes(16 * 304);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 37 % 0x7c);  // finite in both
  const std::vector<float> scales = {0.5f, 2, 0x1p-7f, 1, 4, 8, 16, 32, 0.25f, 0.125f, 3, 5, 1, 2, 0x1p-100f, 0x1p90f};
  for (int64_t n = 1; n <= 300; ++n) {
    std::vector<uint16_t> want[2], got[2];
    for (const bool vectors : {false, true}) {
      use_avx512 = vectors;
      auto& out = vectors ? got : want;
      for (auto& o : out) o.assign(330 * 16, 0xffff);
      decode_row(DType::kE4M3, codes.data(), n, scales.data(), 48, out[0].data());
      std::vector<uint8_t> panel(codes.begin(), codes.begin() + 16 * 304);
      for (int64_t k = n; k < 304; ++k)
        for (int64_t c = 0; c < 16; ++c)
          panel[static_cast<size_t>(panel_index<uint8_t>(c, k))] = k < (n + 3) / 4 * 4 ? 0 : 0x7f;
      decode_panel(panel.data(), n, scales.data(), out[1].data());
    }
    EXPECT_EQ(want[0], got[0]) << "row of " << n;
    EXPECT_EQ(want[1], got[1]) << "panel of " << n;
  }
  for (int64_t steps = 1; steps <= 32; ++steps)
    for (int64_t cols = 1; cols <= 16; ++cols)
      for (const bool transposed : {false, true}) {
        std::vector<uint16_t> want(512, 0xffff), got(512, 0xffff);
        pack_scaled(transposed, DType::kE5M2, codes.data(), 19, steps, cols, scales.data(), want.data());
        (transposed ? pack_scaled_transposed_avx512 : pack_scaled_pairs_avx512)(DType::kE5M2, codes.data(), 19, steps, cols,
                                                                                scales.data(), got.data());
        EXPECT_EQ(want, got) << "transposed=" << transposed << " steps=" << steps << " cols=" << cols;
      }
}

// A NaN scale shows in its row or column alone, also where zeros fill up the last block of steps; E5M2's codes with the
// smallest scale count as zero where they are denormals.
TEST(AmxModelFp8, ScalesAtTheEnds) {
  for (const bool vectors : packers()) {
    use_avx512 = vectors;
    const Scaled a(DType::kE5M2, 20, 140, Group::kRow, 1, {.zero_groups = false});
    Fp8Weight b(160, 140, 2, {});
    a.scale(3, 130) = NAN;
    b.scale(130, 0) = NAN;
    for (int64_t k = 0; k < 128; ++k) a.code(5, k) = 0x3c, a.code(6, k) = 0x04;  // 1 and 2^-14
    a.scale(5, 0) = a.scale(6, 0) = power_of_two(-117);
    const Matrix c(DType::kF32, 20, 160), want(DType::kF32, 20, 160);
    run_linear(block_of(a, b, c.tensor(), false));
    defined_linear(a, b, want.tensor(), false);
    EXPECT_EQ(differing(c.tensor(), want.tensor()), "");
    for (int64_t m = 0; m < 20; ++m)
      for (int64_t n = 0; n < 160; ++n)
        EXPECT_EQ(std::isnan(gemm_test::get(c.tensor(), m, n)), m == 3 || n >= 128) << m << ", " << n;

    const Scaled x(DType::kE4M3, 140, 20, Group::kColumn, 1, {}), y(DType::kE4M3, 140, 40, Group::kColumn, 2, {});
    x.scale(130, 7) = NAN;
    y.scale(0, 33) = NAN;
    const Matrix g(DType::kF32, 20, 40);
    g.fill(3);
    gradient_block_fp8(block_of(x, y, g.tensor()));
    for (int64_t n = 0; n < 20; ++n)
      for (int64_t k = 0; k < 40; ++k)
        EXPECT_EQ(std::isnan(gemm_test::get(g.tensor(), n, k)), n == 7 || k == 33) << n << ", " << k;
  }
}

// Planted defects: a row's scales taken from the next, a block of steps dropped, a group's scales taken from the first.
TEST(AmxModelFp8, ComparisonCatchesDefects) {
  const Fill fill{.zero_groups = false};
  const Scaled a(DType::kE4M3, 20, 160, Group::kRow, 1, fill);
  const Fp8Weight b(40, 160, 2, fill);
  const Matrix c(DType::kF32, 20, 40), want(DType::kF32, 20, 40);
  defined_linear(a, b, want.tensor(), false);
  LinearBlock block = block_of(a, b, c.tensor(), false);
  run_linear(block);
  ASSERT_EQ(differing(c.tensor(), want.tensor()), "");
  block.depth = 128;
  run_linear(block);
  EXPECT_NE(differing(c.tensor(), want.tensor()), "");
  block.depth = 160, block.rows = 19, block.a_scales.data += block.a_scales.stride;
  run_linear(block);
  EXPECT_NE(differing(c.tensor(), want.tensor()), "");

  const Scaled x(DType::kE5M2, 160, 20, Group::kColumn, 1, fill), y(DType::kE4M3, 160, 40, Group::kColumn, 2, fill);
  const Matrix g(DType::kF32, 20, 40), start(DType::kF32, 20, 40);
  g.fill(3), start.fill(3);
  defined_gradient(x, y, start.tensor());
  GradientBlock gradient = block_of(x, y, g.tensor());
  gradient_block_fp8(gradient);
  ASSERT_EQ(differing(g.tensor(), start.tensor()), "");
  g.fill(3);
  gradient.a_scales.stride = 0;
  gradient_block_fp8(gradient);
  EXPECT_NE(differing(g.tensor(), start.tensor()), "");
}

}  // namespace
}  // namespace rorqual::gemm
