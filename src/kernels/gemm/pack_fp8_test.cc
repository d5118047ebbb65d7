// Weights packed into E4M3, in every instruction set: codes and scales by the definition, both copies alike, statistics
// counted.
#include <gtest/gtest.h>

#include "base/cpu.h"
#include "kernels/gemm/gemm_test_support.h"

namespace rorqual {
namespace {

using gemm_test::Matrix;

// Both copies of a source in memory full of 0xff.
class Copies {
 public:
  Copies(const Tensor& source, const Quantiser& quantiser, const Stream& stream, bool with_packed = true,
         bool with_transposed = true) {
    const int64_t n = source.rows, k = source.cols;
    packed = make(n, k, with_packed), transposed = make(k, n, with_transposed);
    const PackWeightArgs args{source, packed, transposed, quantiser};
    pack_weights({&args, 1}, stream);
  }
  // Of element (n, k) of `w`, by gemm.h's formula.
  static uint8_t code(const PackedWeight& w, int64_t n, int64_t k) {
    const int64_t panel = n / 16 * 16 * ((w.k + 3) / 4 * 4);
    return static_cast<const uint8_t*>(w.data)[panel + k / 4 * 64 + (n % 16) / 4 * 16 + (k % 4) / 2 * 8 + (n % 4) * 2 + k % 2];
  }
  static float scale(const PackedWeight& w, int64_t n, int64_t k) { return w.scale[n / 128 * ((w.k + 127) / 128) + k / 128]; }

  PackedWeight packed, transposed;

 private:
  PackedWeight make(int64_t n, int64_t k, bool exists) {
    if (!exists) return {};
    const int64_t bytes = PackedWeight::bytes(DType::kE4M3, n, k);
    Matrix& data = *memory_.emplace_back(std::make_unique<Matrix>(DType::kU8, 1, bytes + 64));
    Matrix& scales = *memory_.emplace_back(std::make_unique<Matrix>(DType::kF32, 1, PackedWeight::scale_count(n, k)));
    auto address = (reinterpret_cast<uintptr_t>(data.tensor().data) + 63) / 64 * 64;
    return {reinterpret_cast<void*>(address), DType::kE4M3, n, k, static_cast<float*>(scales.tensor().data)};
  }
  std::vector<std::unique_ptr<Matrix>> memory_;
};

float amax_of(const Tensor& t, int64_t row, int64_t col, int64_t rows, int64_t cols) {
  float amax = 0;
  for (int64_t r = row; r < std::min(row + rows, t.rows); ++r)
    for (int64_t c = col; c < std::min(col + cols, t.cols); ++c) {
      const auto x = static_cast<float>(gemm_test::get(t, r, c));
      if (!std::isfinite(x)) return INFINITY;
      amax = std::max(amax, std::fabs(x));
    }
  return amax;
}

// What the definition gives for one block, and the counts it adds.
struct Definition {
  float scale;
  bool zero;
};
Definition define(const Tensor& t, int64_t row, int64_t col, const Quantiser& q) {
  float amax = amax_of(t, row / 128 * 128, col / 128 * 128, 128, 128);
  if (q.granularity == Granularity::kTensor && std::isfinite(amax))
    amax = q.amax > 0 ? q.amax : amax_of(t, 0, 0, t.rows, t.cols);
  const float scale = scale_of(amax, E4M3::kLargest, q.rule);
  return {scale, std::isnan(scale)};
}

std::string check(const Tensor& t, const Copies& copies, const Quantiser& q) {
  const auto bad = [](const char* which, int64_t n, int64_t k, uint8_t got, uint8_t want) {
    return fmt::format("{} [{}, {}] is {:#x} instead of {:#x}", which, n, k, got, want);
  };
  const auto up = [](int64_t x, int64_t to) { return (x + to - 1) / to * to; };
  std::vector<Definition> blocks;
  const int64_t across = (t.cols + 127) / 128;
  for (int64_t n = 0; n < t.rows; n += 128)
    for (int64_t k = 0; k < t.cols; k += 128) blocks.push_back(define(t, n, k, q));
  for (int64_t n = 0; n < up(t.rows, 16); ++n)
    for (int64_t k = 0; k < up(t.cols, 16); ++k) {
      uint8_t want = 0;
      if (n < t.rows && k < t.cols) {
        const Definition d = blocks[static_cast<size_t>(n / 128 * across + k / 128)];
        if (!d.zero) want = E4M3(static_cast<float>(gemm_test::get(t, n, k)) / d.scale).bits;
        for (const PackedWeight& w : {copies.packed, copies.transposed}) {
          if (!w) continue;
          const bool swap = w.data == copies.transposed.data;
          const float scale = swap ? Copies::scale(w, k, n) : Copies::scale(w, n, k);
          if (!(scale == d.scale || (std::isnan(scale) && d.zero)))
            return fmt::format("scale of [{}, {}] is {} instead of {}", n, k, scale, d.scale);
        }
      }
      if (copies.packed && k < up(t.cols, 4)) {
        const uint8_t got = Copies::code(copies.packed, n, k);
        if (got != want) return bad("packed", n, k, got, want);
      }
      if (copies.transposed && n < up(t.rows, 4)) {
        const uint8_t got = Copies::code(copies.transposed, k, n);
        if (got != want) return bad("transposed", n, k, got, want);
      }
    }
  return {};
}

struct Size {
  int64_t rows, cols;
};
constexpr Size kSizes[] = {{1, 1},    {16, 4},    {17, 3},    {31, 40},   {40, 31},  {5, 64},   {64, 5},
                           {33, 257}, {300, 500}, {128, 128}, {129, 127}, {576, 72}, {16, 160}, {144, 260}};

// Values of many magnitudes, ties and zeros among them.
void fill(const Tensor& t, uint64_t seed) {
  const RandomKey key{.seed = seed};
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t c = 0; c < t.cols; ++c) {
      const auto words = random_words(key, static_cast<uint64_t>(r * t.cols + c));
      const float sign = (words[0] & 1) != 0 ? -1.0f : 1.0f;
      const float steps = static_cast<float>(words[1] % 33) / 16;  // a tie of three mantissa bits half of the time
      const float magnitude = words[2] % 16 == 0 ? 0 : steps * power_of_two(-static_cast<int>(words[3] % 24));
      gemm_test::set(t, r, c, sign * (words[2] % 3 == 0 ? magnitude * 1.37f : magnitude));
    }
}

TEST(PackFp8, BlocksAreQuantisedAsDefinedInEverySet) {
  ThreadPool pool(2);
  const Stream stream(pool);
  for (const Size s : kSizes)
    for (const DType from : {DType::kF32, DType::kF64, DType::kBF16})
      for (const ScaleRule rule : {ScaleRule::kPow2, ScaleRule::kFp32})
        for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
          if (isa > cpu_isa()) continue;
          const ScopedIsa scoped(isa);
          const Matrix source(from, s.rows, s.cols, s.rows % 3);
          fill(source.tensor(), 7);
          const Quantiser q{.rule = rule};
          for (const auto& [packed, transposed] : {std::pair{true, true}, {true, false}, {false, true}}) {
            const Copies copies(source.tensor(), q, stream, packed, transposed);
            ASSERT_EQ(check(source.tensor(), copies, q), "")
                << s.rows << " x " << s.cols << " of " << dtype_name(from) << " on " << isa_name(isa);
          }
        }
}

TEST(PackFp8, OneScaleForATensorMeasuredOrKnown) {
  ThreadPool pool(3);
  const Stream stream(pool);
  const Matrix source(DType::kF32, 300, 400);
  fill(source.tensor(), 8);
  gemm_test::set(source.tensor(), 299, 399, 77);
  for (const float known : {0.0f, 0.5f, 1000.0f}) {
    QuantiseStatistics statistics;
    const Quantiser q{.granularity = Granularity::kTensor, .amax = known, .statistics = &statistics};
    const Copies copies(source.tensor(), q, stream);
    EXPECT_EQ(check(source.tensor(), copies, q), "") << known;
    EXPECT_EQ(statistics.read().amax, 77);
    EXPECT_EQ(statistics.read().saturated > 0, known == 0.5f);  // beyond 448 · 2^-9
  }
}

TEST(PackFp8, StatisticsCountWhatIsLostAndNameWhatIsNotFinite) {
  ThreadPool pool(2);
  const Stream stream(pool);
  for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    if (isa > cpu_isa()) continue;
    const ScopedIsa scoped(isa);
    const Matrix source(DType::kF32, 140, 270);
    for (int64_t r = 0; r < 140; ++r)
      for (int64_t c = 0; c < 270; ++c) gemm_test::set(source.tensor(), r, c, 0);
    gemm_test::set(source.tensor(), 0, 0, 448);        // scale 1
    gemm_test::set(source.tensor(), 1, 1, 0x1p-11);    // flushed
    gemm_test::set(source.tensor(), 2, 1, -0x1p-10);   // a tie, to zero: flushed
    gemm_test::set(source.tensor(), 3, 1, 0x1.8p-10);  // kept
    gemm_test::set(source.tensor(), 5, 130, -3.5f);    // scale 2^-7
    gemm_test::set(source.tensor(), 139, 269, 0x1p127f);
    QuantiseStatistics statistics;
    const Quantiser q{.statistics = &statistics};
    {
      const Copies copies(source.tensor(), q, stream);
      EXPECT_EQ(check(source.tensor(), copies, q), "");
    }
    QuantiseCounts seen = statistics.read();
    EXPECT_EQ(seen.values, 140 * 270);
    EXPECT_EQ(seen.flushed, 2);
    EXPECT_EQ(seen.saturated, 0);
    EXPECT_EQ(seen.amax, 0x1p127f);
    EXPECT_EQ(seen.smallest_scale, 0x1p-7f);
    EXPECT_EQ(seen.largest_scale, 0x1p119f);
    EXPECT_FALSE(seen.not_finite);

    gemm_test::set(source.tensor(), 139, 3, NAN);
    gemm_test::set(source.tensor(), 138, 258, -INFINITY);
    statistics.reset();
    const Copies copies(source.tensor(), q, stream);
    EXPECT_EQ(check(source.tensor(), copies, q), "");
    EXPECT_TRUE(std::isnan(Copies::scale(copies.packed, 128, 0)));
    EXPECT_EQ(Copies::scale(copies.packed, 0, 0), 1);
    seen = statistics.read();
    EXPECT_TRUE(seen.not_finite);
    EXPECT_EQ(seen.values, 140 * 270);
    EXPECT_EQ(seen.amax, 448);
  }
}

// The smallest and the largest amax, denormals too.
TEST(PackFp8, EndsOfTheRange) {
  ThreadPool pool(1);
  const Stream stream(pool);
  for (const float amax : {0x1p-149f, 0x1p-127f, 0x1p-126f, 0x1p-109f, 0x1p-108f, 0x1.fffffep127f, 0x1.cp127f, 0x1.c00002p8f})
    for (const ScaleRule rule : {ScaleRule::kPow2, ScaleRule::kFp32})
      for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
        if (isa > cpu_isa()) continue;
        const ScopedIsa scoped(isa);
        const Matrix source(DType::kF32, 20, 36);
        fill(source.tensor(), 9);
        for (int64_t r = 0; r < 20; ++r)
          for (int64_t c = 0; c < 36; ++c)
            source.tensor().row<float>(r)[c] = std::clamp(source.tensor().row<float>(r)[c], -1.0f, 1.0f) * amax;
        const Quantiser q{.rule = rule};
        const Copies copies(source.tensor(), q, stream);
        EXPECT_EQ(check(source.tensor(), copies, q), "") << amax << " on " << isa_name(isa);
      }
}

TEST(PackFp8, ADefectIsCaught) {
  ThreadPool pool(1);
  const Stream stream(pool);
  const Matrix source(DType::kF32, 140, 150);
  fill(source.tensor(), 10);
  const Copies copies(source.tensor(), {}, stream);
  ASSERT_EQ(check(source.tensor(), copies, {}), "");
  static_cast<uint8_t*>(copies.transposed.data)[777] ^= 1;
  EXPECT_NE(check(source.tensor(), copies, {}), "");
  static_cast<uint8_t*>(copies.transposed.data)[777] ^= 1;
  copies.packed.scale[3] *= 2;
  EXPECT_NE(check(source.tensor(), copies, {}), "");
}

}  // namespace
}  // namespace rorqual
