// Codes that go past the caches are the same codes: an output too large for them, written in one call, against the same rows
// written in two, which stay in them.
#include "kernels/common/past_caches.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <optional>

#include "base/cpu.h"
#include "kernels/gemm/gemm.h"
#include "kernels/quantise/quantise.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/swiglu/swiglu.h"
#include "tensor/arena.h"

namespace rorqual {
namespace {

constexpr MemoryClass kClass = MemoryClass::kScratch;
// Rows of whole lines that end in half a group, and rows that end in half a block.
constexpr int64_t kCols = 8256, kRows = 4160;

uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

void expect_same_bytes(const Tensor& a, const Tensor& b, const char* what) {
  for (int64_t r = 0; r < a.rows; ++r)
    ASSERT_EQ(std::memcmp(a.raw_row(r), b.raw_row(r), static_cast<size_t>(bytes_of(a.dtype, a.cols))), 0)
        << what << ", row " << r;
}

class PastCaches : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (cpu_isa() < GetParam()) GTEST_SKIP() << "this CPU lacks " << isa_name(GetParam());
    forced_.emplace(GetParam());
  }

  // With groups of zeros and one that is not finite.
  Tensor values(DType dtype, int64_t rows, int64_t cols) {
    const Tensor x = arena_.tensor(kClass, dtype, rows, cols);
    stream_.parallel(rows, [&](int64_t r) {
      const float scale = std::ldexp(1.0f, static_cast<int>(r % 9) - 40);
      for (int64_t c = 0; c < cols; ++c) {
        const auto draw = static_cast<int32_t>(mixed(static_cast<uint64_t>(r * cols + c)));
        float value = (r + c / 128) % 17 == 3 ? 0 : static_cast<float>(draw) * scale;
        if (r == 77 && c == 300) value = HUGE_VALF;
        if (dtype == DType::kF32)
          x.row<float>(r)[c] = value;
        else
          x.row<Bf16>(r)[c] = Bf16(value);
      }
    });
    return x;
  }
  ScaledTensor codes(int64_t rows, int64_t cols, ScaledTensor::Group group = ScaledTensor::Group::kRow) {
    const bool by_row = group == ScaledTensor::Group::kRow;
    return {arena_.tensor(kClass, DType::kE4M3, rows, cols),
            arena_.tensor(kClass, DType::kF32, by_row ? rows : scale_groups(rows), by_row ? scale_groups(cols) : cols), group};
  }

  // run(begin, rows, y) writes these rows of the operation to those of y.
  template <class Run>
  void expect_same(int64_t rows, int64_t cols, ScaledTensor::Group group, const Run& run) {
    const ScaledTensor whole = codes(rows, cols, group), parts = codes(rows, cols, group);
    const int64_t first = rows / 256 * 128;  // whole blocks of rows
    ASSERT_TRUE(goes_past_caches(whole.codes));
    ASSERT_FALSE(goes_past_caches(parts.codes.row_range(first, rows - first)));
    run(0, rows, whole);
    run(0, first, parts.row_range(0, first));
    run(first, rows - first, parts.row_range(first, rows - first));
    expect_same_bytes(whole.codes, parts.codes, "codes");
    expect_same_bytes(whole.scales, parts.scales, "scales");
  }

  Arena arena_;
  ThreadPool pool_{2};
  Stream stream_{pool_};

 private:
  std::optional<ScopedIsa> forced_;
};

constexpr auto kByRow = ScaledTensor::Group::kRow, kByColumn = ScaledTensor::Group::kColumn;

TEST_P(PastCaches, RowsAreTheSame) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor x = values(dtype, kRows, kCols);
    expect_same(kRows, kCols, kByRow, [&](int64_t begin, int64_t rows, const ScaledTensor& y) {
      quantise({.x = x.row_range(begin, rows), .y = y, .quantiser = {}}, stream_);
    });
  }
}

TEST_P(PastCaches, NormalisedRowsAreTheSame) {
  const Tensor x = values(DType::kF32, kRows, kCols), w = values(DType::kF32, 1, kCols);
  expect_same(kRows, kCols, kByRow, [&](int64_t begin, int64_t rows, const ScaledTensor& y) {
    rmsnorm_forward({.x = x.row_range(begin, rows), .w = w, .y = y, .eps = 1e-6}, stream_);
  });
}

TEST_P(PastCaches, SwiGluAndItsCacheAreTheSame) {
  constexpr int64_t kWidth = kCols / 128 * 64;  // gate and up are whole groups of the cache
  const Tensor gate_up = values(DType::kBF16, 2 * kRows, 2 * kWidth);
  const ScaledTensor whole = codes(2 * kRows, 2 * kWidth), parts = codes(2 * kRows, 2 * kWidth);
  ASSERT_TRUE(goes_past_caches(whole.codes));
  expect_same(2 * kRows, kWidth, kByRow, [&](int64_t begin, int64_t rows, const ScaledTensor& h) {
    const ScaledTensor& cache = rows == 2 * kRows ? whole : parts;
    swiglu_forward({.gate_up = gate_up.row_range(begin, rows), .weight = {}, .h = h, .cache = cache.row_range(begin, rows)},
                   stream_);
  });
  expect_same_bytes(whole.codes, parts.codes, "codes of the cache");
  expect_same_bytes(whole.scales, parts.scales, "scales of the cache");
}

TEST_P(PastCaches, ColumnsAreTheSame) {
  const Tensor x = values(DType::kF32, kRows, kCols);
  const ScaledTensor coded = codes(kRows, kCols);
  quantise({.x = x, .y = coded, .quantiser = {}}, stream_);
  for (const ScaledTensor& source : {coded, ScaledTensor(x)}) {
    expect_same(kRows, kCols, kByColumn, [&](int64_t begin, int64_t rows, const ScaledTensor& y) {
      const RequantiseProblem problem{source.row_range(begin, rows), y};
      requantise_columns({{&problem, 1}, {}}, stream_);
    });
  }
}

// Both copies of a weight in one call are too large, each alone is not.
TEST_P(PastCaches, PackedWeightsAreTheSame) {
  constexpr int64_t kN = 4176, kK = 4240;
  const Tensor x = values(DType::kF32, kN, kK);
  struct Copy {
    Tensor codes, scales;
    PackedWeight weight;
  };
  const auto copy = [&](int64_t n, int64_t k) {
    Copy c{arena_.tensor(kClass, DType::kU8, 1, PackedWeight::bytes(DType::kE4M3, n, k)),
           arena_.tensor(kClass, DType::kF32, 1, PackedWeight::scale_count(n, k)),
           {}};
    c.weight = {c.codes.data, DType::kE4M3, n, k, c.scales.ptr<float>()};
    return c;
  };
  const Copy straight = copy(kN, kK), across = copy(kK, kN), alone = copy(kN, kK), across_alone = copy(kK, kN);
  ASSERT_GT(straight.codes.bytes() + across.codes.bytes(), kKeptInCaches);
  ASSERT_LT(straight.codes.bytes(), kKeptInCaches);
  for (const PackWeightArgs& args : {PackWeightArgs{x, straight.weight, across.weight, {}},
                                     PackWeightArgs{x, alone.weight, {}, {}}, PackWeightArgs{x, {}, across_alone.weight, {}}})
    pack_weights({&args, 1}, stream_);
  expect_same_bytes(straight.codes, alone.codes, "packed");
  expect_same_bytes(straight.scales, alone.scales, "its scales");
  expect_same_bytes(across.codes, across_alone.codes, "transposed");
  expect_same_bytes(across.scales, across_alone.scales, "its scales");
}

INSTANTIATE_TEST_SUITE_P(Isas, PastCaches, ::testing::Values(Isa::kAvx512, Isa::kAvx2),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

}  // namespace
}  // namespace rorqual
