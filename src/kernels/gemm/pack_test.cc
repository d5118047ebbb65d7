#include <gtest/gtest.h>

#include "base/cpu.h"
#include "kernels/gemm/gemm_test_support.h"

namespace rorqual {
namespace {

using gemm_test::Matrix;
using gemm_test::Packed;

constexpr DType kFloats[] = {DType::kF64, DType::kF32, DType::kBF16};

// Element (n, k) of the packed weight, by the formulas of gemm.h.
template <class T>
T packed_at(const PackedWeight& w, int64_t n, int64_t k) {
  const int64_t panel = n / 16 * 16 * ((w.k + 1) / 2 * 2);
  const int64_t within = sizeof(T) == 2 ? ((k / 2) * 16 + n % 16) * 2 + k % 2 : k * 16 + n % 16;
  return static_cast<const T*>(w.data)[panel + within];
}

template <class T>
void check_packed(const PackedWeight& w, const Tensor& source, Transposed transposed) {
  for (int64_t n = 0; n < (w.n + 15) / 16 * 16; ++n) {
    for (int64_t k = 0; k < (w.k + 1) / 2 * 2; ++k) {
      double value = 0;
      if (n < w.n && k < w.k)
        value = transposed == Transposed::kYes ? gemm_test::get(source, k, n) : gemm_test::get(source, n, k);
      // Rounded once; an F64 source reaches bf16 through FP32, as Bf16 converts a double.
      const T want = static_cast<T>(value);
      const T got = packed_at<T>(w, n, k);
      ASSERT_EQ(std::memcmp(&got, &want, sizeof(T)), 0) << "n=" << n << " k=" << k << " of " << w.n << " x " << w.k;
    }
  }
}

TEST(PackWeights, EveryElementStandsWhereTheHeaderSays) {
  ThreadPool pool(2);
  const Stream stream(pool);
  struct Size {
    int64_t rows, cols;
  };
  for (const Size s : {Size{1, 1}, {16, 2}, {17, 3}, {31, 40}, {40, 31}, {5, 64}, {64, 5}, {33, 257}, {300, 500}}) {
    for (const DType from : kFloats) {
      for (const DType to : kFloats) {
        if (to == DType::kF64 && from != DType::kF64) continue;
        for (const Transposed transposed : {Transposed::kNo, Transposed::kYes}) {
          const Matrix source(from, s.rows, s.cols, s.rows % 3);
          source.fill(7);
          for (const Isa isa : {Isa::kReference, cpu_isa()}) {
            const ScopedIsa scoped(isa);
            const Packed packed(source.tensor(), transposed, to, stream);
            visit_float(to, [&](auto zero) { check_packed<decltype(zero)>(packed.weight(), source.tensor(), transposed); });
          }
        }
      }
    }
  }
}

// Rounding, denormals, infinities and NaN through every path of conversion.
TEST(PackWeights, RoundsLikeBf16) {
  ThreadPool pool(1);
  const Stream stream(pool);
  const Matrix source(DType::kF32, 48, 64);
  const RandomKey key{.seed = 5};
  for (int64_t r = 0; r < 48; ++r) {
    for (int64_t c = 0; c < 64; ++c) {
      uint32_t bits = random_words(key, static_cast<uint64_t>(r * 64 + c))[0];
      if (c % 4 == 1) bits = (bits & 0xffff0000u) | 0x8000u;  // ties
      if (c % 8 == 2) bits &= 0x807fffffu;                    // denormals
      if (c % 8 == 6) bits |= 0x7f800000u;                    // NaN, infinity
      source.tensor().row<float>(r)[c] = std::bit_cast<float>(bits);
    }
  }
  for (const Transposed transposed : {Transposed::kNo, Transposed::kYes}) {
    const Packed packed(source.tensor(), transposed, DType::kBF16, stream);
    const PackedWeight& w = packed.weight();
    for (int64_t n = 0; n < w.n; ++n)
      for (int64_t k = 0; k < w.k; ++k) {
        const float x = transposed == Transposed::kYes ? source.tensor().row<float>(k)[n] : source.tensor().row<float>(n)[k];
        ASSERT_EQ(packed_at<Bf16>(w, n, k).bits, Bf16(x).bits) << n << ", " << k << ": " << x;
      }
  }
}

TEST(PackWeights, BytesCoverWholePanels) {
  EXPECT_EQ(PackedWeight::bytes(DType::kF32, 17, 3), 32 * 4 * 4);
  EXPECT_EQ(PackedWeight::bytes(DType::kBF16, 16, 8), 16 * 8 * 2);
  EXPECT_EQ(PackedWeight::bytes(DType::kF64, 1, 1), 16 * 2 * 8);
}

}  // namespace
}  // namespace rorqual
