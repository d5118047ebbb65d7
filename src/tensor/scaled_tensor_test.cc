#include "tensor/scaled_tensor.h"

#include <gtest/gtest.h>

#include <limits>
#include <thread>
#include <vector>

#include "tensor/arena.h"

namespace rorqual {
namespace {

QuantiseCounts counts(int64_t values, float amax, float smallest, float largest) {
  QuantiseCounts c;
  c.values = values;
  c.amax = amax;
  c.smallest_scale = smallest;
  c.largest_scale = largest;
  return c;
}

void expect_equal(const QuantiseCounts& a, const QuantiseCounts& b) {
  EXPECT_EQ(a.values, b.values);
  EXPECT_EQ(a.saturated, b.saturated);
  EXPECT_EQ(a.flushed, b.flushed);
  EXPECT_EQ(a.amax, b.amax);
  EXPECT_EQ(a.smallest_scale, b.smallest_scale);
  EXPECT_EQ(a.largest_scale, b.largest_scale);
  EXPECT_EQ(a.not_finite, b.not_finite);
}

// Parts as kernels' tasks hand them over: some all zero (no scale), one with a NaN, denormal amax among them.
std::vector<QuantiseCounts> parts() {
  std::vector<QuantiseCounts> list = {counts(128, 3.5f, 0.0078125f, 0.0078125f), counts(64, 0, 0, 0),
                                      counts(1, 1e-40f, 0x1p-117f, 0x1p-117f), counts(256, 1e30f, 1.0f, 0x1p92f),
                                      counts(0, 0, 0, 0)};
  list[0].saturated = 3;
  list[2].flushed = 1;
  list[3].flushed = 7;
  list[3].not_finite = true;
  return list;
}

TEST(QuantiseCounts, MergeInAnyOrder) {
  const std::vector<QuantiseCounts> list = parts();
  QuantiseCounts forward, backward;
  for (const QuantiseCounts& c : list) forward.merge(c);
  for (auto c = list.rbegin(); c != list.rend(); ++c) backward.merge(*c);
  QuantiseCounts expected = counts(449, 1e30f, 0x1p-117f, 0x1p92f);
  expected.saturated = 3;
  expected.flushed = 8;
  expected.not_finite = true;
  expect_equal(forward, expected);
  expect_equal(backward, expected);
}

TEST(QuantiseStatistics, MergesAsCountsDo) {
  QuantiseStatistics statistics;
  expect_equal(statistics.read(), QuantiseCounts());
  QuantiseCounts expected;
  for (const QuantiseCounts& c : parts()) {
    statistics.merge(c);
    expected.merge(c);
    expect_equal(statistics.read(), expected);
  }
  statistics.reset();
  expect_equal(statistics.read(), QuantiseCounts());
}

TEST(QuantiseStatistics, MergesFromManyThreads) {
  QuantiseStatistics statistics;
  constexpr int kThreads = 4, kEach = 2000;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&statistics, t] {
      for (int i = 1; i <= kEach; ++i) {
        const float x = static_cast<float>(i * kThreads + t);
        statistics.merge(counts(2, x, 1 / x, x));
      }
    });
  for (std::thread& thread : threads) thread.join();
  const float most = kEach * kThreads + kThreads - 1;
  expect_equal(statistics.read(), counts(2 * kThreads * kEach, most, 1 / most, most));
}

TEST(ScaledTensor, RowRangeOfPlainValues) {
  std::vector<float> data(5 * 3);
  const ScaledTensor x = Tensor(data.data(), DType::kF32, 5, 3);
  EXPECT_TRUE(x.is_plain());
  EXPECT_EQ(x.bytes(), 60);
  const ScaledTensor rows = x.row_range(2, 2);
  EXPECT_TRUE(rows.is_plain());
  EXPECT_EQ(rows.rows(), 2);
  EXPECT_EQ(rows.codes.data, data.data() + 6);
}

TEST(ScaledTensor, RowRangeTakesTheScalesAlong) {
  std::vector<E4M3> codes(300 * 200);
  std::vector<float> scales(300 * 4);
  // Two groups a row; the scales' rows are further apart.
  const ScaledTensor x{Tensor(codes.data(), DType::kE4M3, 300, 200), Tensor(scales.data(), DType::kF32, 300, 2, 4)};
  EXPECT_FALSE(x.is_plain());
  EXPECT_EQ(x.bytes(), 300 * 200 + 300 * 2 * 4) << "one byte a value, one scale a group";
  const ScaledTensor rows = x.row_range(7, 150);
  EXPECT_EQ(rows.rows(), 150);
  EXPECT_EQ(rows.cols(), 200);
  EXPECT_EQ(rows.codes.data, codes.data() + 7 * 200);
  EXPECT_EQ(rows.scales.data, scales.data() + 7 * 4);
  EXPECT_EQ(rows.scales.rows, 150);
  EXPECT_EQ(rows.scales.stride, 4);
  EXPECT_EQ(rows.group, ScaledTensor::Group::kRow);
}

TEST(ScaledTensor, RowRangeOfColumnGroupsIsCutBetweenGroups) {
  std::vector<E4M3> codes(300 * 5);
  std::vector<float> scales(3 * 5);
  const ScaledTensor x{Tensor(codes.data(), DType::kE4M3, 300, 5), Tensor(scales.data(), DType::kF32, 3, 5),
                       ScaledTensor::Group::kColumn};
  const ScaledTensor rows = x.row_range(128, 172);
  EXPECT_EQ(rows.codes.data, codes.data() + 128 * 5);
  EXPECT_EQ(rows.scales.data, scales.data() + 5);
  EXPECT_EQ(rows.scales.rows, 2) << "172 rows are two groups, the last one ragged";
  EXPECT_EQ(rows.group, ScaledTensor::Group::kColumn);
  EXPECT_EQ(x.row_range(256, 44).scales.rows, 1);
  EXPECT_EQ(x.row_range(128, 0).scales.rows, 0);
  EXPECT_DEATH(x.row_range(64, 64), "row 64 is inside a group");
}

TEST(ScaleGroups, CountsTheRaggedOne) {
  static_assert(scale_groups(0) == 0 && scale_groups(1) == 1 && scale_groups(128) == 1 && scale_groups(129) == 2);
  static_assert(scale_groups(576) == 5 && scale_groups(7168) == 56);
}

TEST(E5M6Tensors, PackTwoValuesInThreeBytes) {
  static_assert(bytes_of(DType::kE5M6, 128) == 192);
  MemoryUse use;
  Arena arena(&use);
  const Tensor even = arena.tensor(MemoryClass::kAttentionOutputs, DType::kE5M6, 4, 128);
  EXPECT_EQ(even.stride, 128);
  EXPECT_EQ(even.bytes(), 4 * 192) << "12 bits a value";
  EXPECT_EQ(use.now[static_cast<size_t>(MemoryClass::kAttentionOutputs)], 4 * 192);
  const Tensor odd = arena.tensor(MemoryClass::kAttentionOutputs, DType::kE5M6, 3, 7);
  EXPECT_EQ(odd.stride, 8) << "rows begin at even elements";
  for (int64_t r = 0; r < 3; ++r)
    EXPECT_EQ(odd.raw_row(r), static_cast<std::byte*>(odd.data) + r * 12) << "8 values a row are 12 bytes";
  EXPECT_EQ(even.row_range(2, 2).data, even.raw_row(2));
  EXPECT_EQ(even.col_range(64, 64).data, static_cast<std::byte*>(even.data) + 96);
}

// Neighbouring rows share no byte, also where a row has an odd number of values.
TEST(E5M6Tensors, RowsDoNotTouch) {
  Arena arena;
  const Tensor t = arena.tensor(MemoryClass::kAttentionOutputs, DType::kE5M6, 3, 7);
  const auto code = [](int64_t r, int64_t c) { return static_cast<uint16_t>(0x101 * (r + 1) + 37 * c); };
  for (const int64_t r : {2, 0, 1})
    for (int64_t c = 6; c >= 0; --c) E5M6::from_bits(code(r, c)).write(reinterpret_cast<uint8_t*>(t.raw_row(r)), c);
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t c = 0; c < 7; ++c)
      EXPECT_EQ(E5M6::read(reinterpret_cast<const uint8_t*>(t.raw_row(r)), c).bits, code(r, c)) << r << ", " << c;
}

}  // namespace
}  // namespace rorqual
