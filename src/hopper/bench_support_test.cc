#include "hopper/bench_support.h"

#include <cmath>
#include <cstring>

#include "hopper/test_support.h"
#include "numerics/bf16.h"
#include "numerics/fp8.h"

namespace rorqual::hopper {
namespace {

using BenchSupport = HopperTest;

// Mean and deviation of 2^15 values, and how many are 0.
struct Moments {
  double mean = 0, deviation = 0;
  int zeros = 0;
};
Moments moments(const std::vector<double>& values) {
  Moments m;
  for (const double v : values) {
    m.mean += v / static_cast<double>(values.size());
    m.zeros += v == 0;
  }
  for (const double v : values) m.deviation += (v - m.mean) * (v - m.mean) / static_cast<double>(values.size());
  m.deviation = std::sqrt(m.deviation);
  return m;
}

template <class T>
std::vector<double> filled(Fill fill, uint64_t seed = 7) {
  const DeviceBuffer buffer(sizeof(T) << 15);
  fill_random(buffer, fill, seed);
  std::vector<double> values;
  for (const T v : to_host<T>(buffer)) values.push_back(static_cast<double>(static_cast<float>(v)));
  return values;
}

TEST_F(BenchSupport, FillsWithNumbersLikeActivations) {
  for (const auto& values : {filled<Bf16>(Fill::kBf16), filled<float>(Fill::kF32)}) {
    const Moments m = moments(values);
    EXPECT_NEAR(m.mean, 0, 0.03);
    EXPECT_NEAR(m.deviation, 1, 0.03);
    EXPECT_LT(m.zeros, 300);
  }
  const Moments codes = moments(filled<E4M3>(Fill::kE4M3));
  EXPECT_NEAR(codes.mean, 0, 3);
  EXPECT_NEAR(codes.deviation, 100, 3);  // so none is NaN
  EXPECT_LT(codes.zeros, 300);
}

TEST_F(BenchSupport, FillsWithScales) {
  for (const double v : filled<float>(Fill::kScales)) {
    EXPECT_GE(v, 0x1p-8);
    EXPECT_LT(v, 0x1p-7);
  }
  int large = 0;
  for (const double v : filled<float>(Fill::kPow2Scales)) {
    EXPECT_TRUE(v == 0x1p-8 || v == 0x1p-7) << v;
    large += v == 0x1p-7;
  }
  EXPECT_NEAR(large, 1 << 14, 1000);
}

TEST_F(BenchSupport, SeedsGiveNumbersOfTheirOwn) {
  EXPECT_EQ(filled<float>(Fill::kF32, 3), filled<float>(Fill::kF32, 3));
  const auto a = filled<float>(Fill::kF32, 3), b = filled<float>(Fill::kF32, 4);
  double product = 0;
  for (size_t i = 0; i < a.size(); ++i) product += a[i] * b[i] / static_cast<double>(a.size());
  EXPECT_NEAR(product, 0, 0.03);
}

TEST_F(BenchSupport, AGraphRepeatsWhatWasRecorded) {
  const DeviceBuffer a = to_device(std::vector<int>{1, 2, 3, 4}), b(16), c(16);
  const Graph graph([&](DeviceStream stream) {
    copy_on_device(b.data(), a.data(), 16, stream);
    copy_on_device(c.data(), b.data(), 16, stream);
  });
  for (const int first : {5, 6}) {
    a.copy_from(&first, sizeof first);
    graph.launch();
    EXPECT_EQ(to_host<int>(c), (std::vector<int>{first, 2, 3, 4}));
  }
}

// Every set is run as often as the others, contenders by turns; times are positive and in order.
TEST_F(BenchSupport, ContestsTimeEveryContender) {
  const DeviceBuffer from(1 << 20), to(1 << 20);
  std::vector<int> calls(3);
  const auto copy = [&](int contender, size_t bytes) {
    return [&, contender, bytes](int set, DeviceStream stream) {
      EXPECT_LT(set, 2);
      ++calls[static_cast<size_t>(contender)];
      copy_on_device(to.data(), from.data(), bytes, stream);
    };
  };
  const std::vector<Contender> contenders = {{"small", copy(0, 16)}, {"large", copy(1, 1 << 20)}};
  const std::vector<Times> times = contest(contenders, {.sets = 2, .rounds = 5, .replay_us = 200});
  ASSERT_EQ(times.size(), 2u);
  for (const Times& t : times) {
    EXPECT_GT(t.low, 0);
    EXPECT_LE(t.low, t.median);
    EXPECT_LE(t.median, t.high);
  }
  EXPECT_GT(calls[0], 0);
  EXPECT_GT(calls[1], 0);
}

TEST_F(BenchSupport, SetsExceedTheCache) {
  if (is_emulated()) {
    EXPECT_EQ(sets_past_cache(1), 1);
    return;
  }
  const int64_t cache = device_info().l2_bytes;
  EXPECT_EQ(sets_past_cache(1), 64);
  for (const int64_t bytes : {cache / 8, cache, 5 * cache}) EXPECT_GT((sets_past_cache(bytes) - 1) * bytes, 3 * cache - bytes);
  // Loose: other tests may share the GPU.
  EXPECT_GT(copy_bandwidth(), 1e11);
  EXPECT_LT(launch_gap_us(), 1000);
}

}  // namespace
}  // namespace rorqual::hopper
