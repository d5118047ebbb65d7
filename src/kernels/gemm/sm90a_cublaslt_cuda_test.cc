// Products by cuBLASLt against their definitions, on a GPU.
#include <gmock/gmock.h>

#include <cmath>

#include "base/rng.h"
#include "hopper/test_support.h"
#include "kernels/gemm/sm90a_cublaslt.h"

namespace rorqual {
namespace {

using CublasLtSm90a = hopper::HopperTest;
using hopper::DeviceBuffer;
using hopper::to_device;
using hopper::to_host;

float uniform(uint64_t seed, uint64_t i) {  // [-1, 1)
  return static_cast<float>(random_words({.seed = seed}, i)[0] >> 8) * 0x1p-23f - 1;
}

// A matrix on both sides; what lies between rows is NaN.
struct Matrix {
  DType dtype;
  int64_t rows, cols, stride;
  std::vector<uint8_t> host;
  DeviceBuffer device;
  Matrix(DType type, int64_t r, int64_t c, int64_t gap, uint64_t seed)
      : dtype(type), rows(r), cols(c), stride(c + gap), host(static_cast<size_t>(bytes_of(type, r * stride)), 0xff) {
    for (int64_t i = 0; i < r; ++i)
      for (int64_t j = 0; j < c; ++j) put(i * stride + j, uniform(seed, static_cast<uint64_t>(i * c + j)));
    device = to_device(host);
  }
  void put(int64_t at, float value) {
    if (dtype == DType::kF32) reinterpret_cast<float*>(host.data())[at] = value;
    if (dtype == DType::kBF16) reinterpret_cast<Bf16*>(host.data())[at] = Bf16(value);
    if (dtype == DType::kE4M3) host[static_cast<size_t>(at)] = E4M3(400 * value).bits;
  }
  static float read(DType dtype, const std::vector<uint8_t>& bytes, int64_t at) {
    if (dtype == DType::kF32) return reinterpret_cast<const float*>(bytes.data())[at];
    if (dtype == DType::kBF16) return static_cast<float>(reinterpret_cast<const Bf16*>(bytes.data())[at]);
    return static_cast<float>(E4M3::from_bits(bytes[static_cast<size_t>(at)]));
  }
  double at(int64_t r, int64_t c) const { return static_cast<double>(read(dtype, host, r * stride + c)); }
  Tensor tensor() const { return {device.data(), dtype, rows, cols, stride}; }

  // Each element is what it was (if `before`) plus sum(row, column, size), where the sum of its terms' magnitudes goes to size;
  // off by at most epsilon of that, and the rounding to dtype.
  template <class Sum>
  void expect(bool before, double epsilon, const Sum& sum) const {
    const auto got = to_host<uint8_t>(device);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < stride; ++c) {
        const auto value = static_cast<double>(read(dtype, got, r * stride + c));
        if (c >= cols) {
          ASSERT_TRUE(std::isnan(value)) << "behind row " << r;
          continue;
        }
        double size = 0;
        const double want = sum(r, c, size) + (before ? at(r, c) : 0);
        const double rounding = (dtype == DType::kBF16 ? 0x1p-8 : 0x1p-23) * (std::abs(want) + epsilon * size);
        ASSERT_NEAR(value, want, epsilon * (size + std::abs(at(r, c))) + rounding)
            << "element [" << r << ", " << c << "] of [" << rows << ", " << cols << "]";
      }
  }
};

TEST_F(CublasLtSm90a, LinearInBf16) {
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 8, 8}, {5, 24, 40}, {130, 136, 72}, {256, 512, 1024}})
    for (const DType out : {DType::kBF16, DType::kF32})
      for (const bool accumulate : {false, true}) {
        const Matrix a(DType::kBF16, m, k, 8, 1), w(DType::kBF16, n, k, 0, 2), c(out, m, n, 16, 3);
        const PackedWeight weight{w.device.data(), DType::kBF16, n, k, nullptr, PackedWeight::Layout::kRows};
        const std::vector<LinearProblem> list = {{a.tensor(), weight, c.tensor()}};
        for (int i = 0; i < (accumulate ? 1 : 2); ++i)  // the second time from the cache
          linear_cublaslt({.problems = list, .accumulate = accumulate}, Stream::on_device());
        SCOPED_TRACE(fmt::format("m {}, n {}, k {}, {}, accumulate {}", m, n, k, dtype_name(out), accumulate));
        c.expect(accumulate, static_cast<double>(k) * 0x1p-23, [&](int64_t r, int64_t col, double& size) {
          double sum = 0;
          for (int64_t i = 0; i < k; ++i) {
            sum += a.at(r, i) * w.at(col, i);
            size += std::abs(a.at(r, i) * w.at(col, i));
          }
          return sum;
        });
      }
}

TEST_F(CublasLtSm90a, WeightGradientInBf16) {
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 8, 8}, {100, 24, 40}, {513, 136, 72}}) {
    const Matrix a(DType::kBF16, m, n, 8, 1), b(DType::kBF16, m, k, 0, 2), c(DType::kF32, n, k, 0, 3);
    const Matrix none(DType::kBF16, 0, n, 0, 1), empty(DType::kBF16, 0, k, 0, 1);
    const std::vector<WeightGradientProblem> list = {{a.tensor(), b.tensor(), c.tensor()},
                                                     {none.tensor(), empty.tensor(), c.tensor()}};
    weight_gradient_cublaslt({.problems = list}, Stream::on_device());
    SCOPED_TRACE(fmt::format("m {}, n {}, k {}", m, n, k));
    c.expect(true, static_cast<double>(m + 1) * 0x1p-23, [&](int64_t r, int64_t col, double& size) {
      double sum = 0;
      for (int64_t i = 0; i < m; ++i) {
        sum += a.at(i, r) * b.at(i, col);
        size += std::abs(a.at(i, r) * b.at(i, col));
      }
      return sum;
    });
  }
}

// With scales per 128×128 of B, and per 128 of both.
TEST_F(CublasLtSm90a, BlockScaledFp8) {
  const int64_t m = 64, n = 384, k = 640, groups = k / 128, padded = 8;
  for (const bool blocks : {true, false})
    for (const DType out : {DType::kBF16, DType::kF32}) {
      const Matrix a(DType::kE4M3, m, k, 16, 1), b(DType::kE4M3, n, k, 0, 2), c(out, m, n, 0, 3);
      const auto scales = [](int64_t count, uint64_t seed) {
        std::vector<float> values(static_cast<size_t>(count));
        for (size_t i = 0; i < values.size(); ++i) values[i] = 0x1p-9f * (1.5f + 0.5f * uniform(seed, i));
        return values;
      };
      const std::vector<float> of_a = scales(groups * m, 4), of_b = scales(blocks ? n / 128 * padded : groups * n, 5);
      const DeviceBuffer a_scale = to_device(of_a), b_scale = to_device(of_b);
      multiply_fp8_cublaslt({a.tensor(), a_scale.as<float>(), b.tensor(), b_scale.as<float>(), blocks, c.tensor()},
                            Stream::on_device());
      SCOPED_TRACE(fmt::format("blocks {}, {}", blocks, dtype_name(out)));
      // 128 products at a time on tensor cores that keep 13 fraction bits.
      c.expect(false, 4 * 34 * 0x1p-13, [&](int64_t r, int64_t col, double& size) {
        double sum = 0;
        for (int64_t i = 0; i < k; ++i) {
          const auto g = static_cast<size_t>(i / 128);
          const auto at = static_cast<size_t>(blocks ? col / 128 * padded : col);
          const double scale = static_cast<double>(of_a[g * static_cast<size_t>(m) + static_cast<size_t>(r)]) *
                               static_cast<double>(of_b[blocks ? at + g : g * static_cast<size_t>(n) + at]);
          sum += a.at(r, i) * b.at(col, i) * scale;
          size += std::abs(a.at(r, i) * b.at(col, i) * scale);
        }
        return sum;
      });
    }
}

TEST(CublasLt, SaysWhatItDoesNotTake) {
  using ::testing::HasSubstr;
  alignas(64) static std::byte memory[64];
  const auto linear = [&](auto change) {
    LinearProblem p{Tensor(memory, DType::kBF16, 1, 8),
                    {memory, DType::kBF16, 2, 8, nullptr, PackedWeight::Layout::kRows},
                    Tensor(memory, DType::kF32, 1, 2)};
    change(p);
    return refuse_linear_cublaslt({.problems = {&p, 1}});
  };
  EXPECT_EQ(linear([](auto&) {}), "");
  EXPECT_THAT(linear([](auto& p) { p.a.codes.dtype = DType::kF32; }), HasSubstr("A holds F32"));
  EXPECT_THAT(linear([](auto& p) { p.b.layout = PackedWeight::Layout::kPanels; }), HasSubstr("panels"));
  EXPECT_THAT(linear([](auto& p) { p.b.dtype = DType::kE4M3; }), HasSubstr("weight holds F8_E4M3"));
  EXPECT_THAT(linear([](auto& p) { p.c.dtype = DType::kF64; }), HasSubstr("C holds F64"));
  EXPECT_THAT(linear([](auto& p) { p.c.cols = 3; }), HasSubstr("into [1, 3]"));
  const auto gradient = [&](auto change) {
    WeightGradientProblem p{Tensor(memory, DType::kBF16, 1, 2), Tensor(memory, DType::kBF16, 1, 4),
                            Tensor(memory, DType::kF32, 2, 4)};
    change(p);
    return refuse_weight_gradient_cublaslt({.problems = {&p, 1}});
  };
  EXPECT_EQ(gradient([](auto&) {}), "");
  EXPECT_THAT(gradient([](auto& p) { p.b.codes.dtype = DType::kE4M3; }), HasSubstr("B holds F8_E4M3"));
  EXPECT_THAT(gradient([](auto& p) { p.c.dtype = DType::kBF16; }), HasSubstr("C holds BF16"));
  EXPECT_THAT(gradient([](auto& p) { p.c.stride = 5; }), HasSubstr("stride 5"));
}

}  // namespace
}  // namespace rorqual
