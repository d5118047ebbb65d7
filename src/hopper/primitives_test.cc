// The primitives of device code against what the headers of hopper/ptx promise: the emulator must pass what the hardware does.
#include "hopper/primitives_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/rng.h"
#include "hopper/layout.h"
#include "hopper/test_support.h"
#include "numerics/bf16.h"
#include "numerics/fp8.h"

namespace rorqual::hopper {
namespace {

using Primitives = HopperTest;

std::vector<uint8_t> random_bytes(size_t n, uint64_t seed) {
  std::vector<uint8_t> bytes(n);
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<uint8_t>(random_words({.seed = seed}, i)[0]);
  return bytes;
}

TEST(Layout, SwizzleIsItsOwnInverseAndKeepsRows) {
  for (uint32_t at = 0; at < 4096; ++at) {
    EXPECT_EQ(swizzle_128(swizzle_128(at)), at);
    EXPECT_EQ(swizzle_128(at) / 128, at / 128);
    EXPECT_EQ(swizzle_128(at) % 16, at % 16);
  }
  EXPECT_EQ(swizzled_offset(1, 0), 128u + 16u);
  EXPECT_EQ(swizzled_offset(7, 16), 7 * 128u + 6 * 16u);
}

TEST(Layout, FragmentsCoverTheResultOnce) {
  std::vector<int> seen(64 * 32, 0);
  for (int t = 0; t < 128; ++t)
    for (int i = 0; i < 16; ++i) ++seen[static_cast<size_t>(fragment_row(t, i) * 32 + fragment_column(t, i))];
  for (const int count : seen) EXPECT_EQ(count, 1);
}

TEST_F(Primitives, BoxesLieAsLayoutSaysAndZerosFillWhatIsOutside) {
  constexpr int64_t kRows = 50, kColumns = 200, kPitch = 208, kDepth = 3;
  const auto data = random_bytes(kDepth * kRows * kPitch, 1);
  const DeviceBuffer from = to_device(data), to(data.size());
  for (const bool swizzle : {false, true}) {
    TensorMapShape s{.data = from.data(),
                     .columns = kColumns,
                     .rows = kRows,
                     .depth = kDepth,
                     .row_bytes = kPitch,
                     .matrix_bytes = kRows * kPitch,
                     .box_columns = 128,
                     .box_rows = 16,
                     .swizzle = swizzle};
    const TensorMap in = make_tensor_map(s);
    s.data = to.data();
    const TensorMap out = make_tensor_map(s);
    for (const auto& [column, row] : {std::pair{0, 0}, {128, 40}, {-16, 3}}) {
      to.fill(0xff);
      const DeviceBuffer raw(16 * 128);
      primitives::load_and_store_box(in, out, column, row, 1, 16 * 128, raw.as<uint8_t>());
      const auto tile = to_host<uint8_t>(raw), back = to_host<uint8_t>(to);
      for (int r = 0; r < 16; ++r)
        for (int c = 0; c < 128; ++c) {
          const bool inside = row + r < kRows && column + c >= 0 && column + c < kColumns;
          const auto at = static_cast<size_t>((kRows + row + r) * kPitch + column + c);
          const size_t place =
              swizzle ? swizzled_offset(static_cast<uint32_t>(r), static_cast<uint32_t>(c)) : static_cast<size_t>(r * 128 + c);
          ASSERT_EQ(tile[place], inside ? data[at] : 0) << "row " << r << ", column " << c << ", swizzle " << swizzle;
          if (inside) {
            ASSERT_EQ(back[at], data[at]);
          }
        }
      size_t written = 0;
      for (size_t i = 0; i < back.size(); ++i) written += back[i] != 0xff && back[i] == data[i] ? 1 : 0;
      EXPECT_LE(written, 16u * 128u);
      EXPECT_EQ(back[0], 0xff) << "another matrix was written";
    }
  }
}

TEST_F(Primitives, AddsBoxes) {
  std::vector<float> base(16 * 32), values(8 * 16);
  for (size_t i = 0; i < base.size(); ++i) base[i] = static_cast<float>(i);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 1000 + static_cast<float>(i);
  const DeviceBuffer to = to_device(base), from = to_device(values);
  const TensorMap map = make_tensor_map({.data = to.data(),
                                         .element = Element::kF32,
                                         .columns = 32,
                                         .rows = 16,
                                         .row_bytes = 128,
                                         .box_columns = 16,
                                         .box_rows = 8});
  for (int i = 0; i < 2; ++i) primitives::add_box(map, from.as<float>(), 128, 16, 12);
  const auto sum = to_host<float>(to);
  for (size_t r = 0; r < 16; ++r)
    for (size_t c = 0; c < 32; ++c) {
      const bool inside = r >= 12 && c >= 16;
      EXPECT_EQ(sum[r * 32 + c], base[r * 32 + c] + (inside ? 2 * values[(r - 12) * 16 + c - 16] : 0));
    }
}

// Σ a·b and Σ |a·b| of [rows_a, k] and [rows_b, k].
template <class At>
void expect_product(const std::vector<float>& d, int n, int k, const At& a, const At& b, double tolerance) {
  for (int i = 0; i < 64; ++i)
    for (int j = 0; j < n; ++j) {
      double sum = 0, size = 0;
      for (int x = 0; x < k; ++x) {
        sum += a(i, x) * b(j, x);
        size += std::abs(a(i, x) * b(j, x));
      }
      ASSERT_NEAR(static_cast<double>(d[static_cast<size_t>(i * n + j)]), sum, tolerance * size + 1e-30)
          << "row " << i << ", column " << j << " of 64×" << n << ", K = " << k;
    }
}

TEST_F(Primitives, MultipliesE4M3) {
  for (const int n : {16, 64, 96, 128, 192, 256}) {
    const int k = 256;
    auto a = random_bytes(static_cast<size_t>(64 * k), 2), b = random_bytes(static_cast<size_t>(n * k), 3);
    for (auto* codes : {&a, &b})
      for (uint8_t& code : *codes)
        if ((code & 0x7f) == 0x7f) code ^= 1;
    const DeviceBuffer da = to_device(a), db = to_device(b), d(static_cast<size_t>(64 * n) * 4);
    const auto map = [&](const DeviceBuffer& buffer, int rows) {
      return make_tensor_map({.data = buffer.data(),
                              .columns = k,
                              .rows = rows,
                              .row_bytes = k,
                              .box_columns = 128,
                              .box_rows = rows,
                              .swizzle = true});
    };
    primitives::multiply_e4m3(map(da, 64), map(db, n), n, k, d.as<float>());
    using At = std::function<double(int, int)>;
    const auto at = [k](const std::vector<uint8_t>& m) -> At {
      return [&m, k](int r, int x) { return static_cast<float>(E4M3::from_bits(m[static_cast<size_t>(r * k + x)])); };
    };
    // 33 terms are cut at the largest one's 13th fraction bit, eight times.
    expect_product(to_host<float>(d), n, k, at(a), at(b), 33 * 8 * 0x1p-13);
  }
}

TEST_F(Primitives, MultipliesBf16InEveryMajorness) {
  const int k = 128;
  for (const int n : {64, 128})
    for (const bool registers : {false, true})
      for (const Major a_major : {Major::kK, Major::kMN})
        for (const Major b_major : {Major::kK, Major::kMN}) {
          if (registers && a_major == Major::kMN) continue;
          const auto values = [&](int rows, uint64_t seed) {
            std::vector<uint16_t> bits(static_cast<size_t>(rows * k));
            for (size_t i = 0; i < bits.size(); ++i)
              bits[i] = Bf16(static_cast<float>(random_words({.seed = seed}, i)[0]) * 0x1p-31f - 1).bits;
            return bits;
          };
          const auto a = values(64, 4), b = values(n, 5);
          const DeviceBuffer da = to_device(a), db = to_device(b), d(static_cast<size_t>(64 * n) * 4);
          const auto map = [&](const DeviceBuffer& buffer, int rows, Major major) {
            const bool along_k = major == Major::kK;
            return make_tensor_map({.data = buffer.data(),
                                    .element = Element::kBF16,
                                    .columns = along_k ? k : rows,
                                    .rows = along_k ? rows : k,
                                    .row_bytes = 2 * (along_k ? k : rows),
                                    .box_columns = 64,
                                    .box_rows = along_k ? rows : 64,
                                    .swizzle = true});
          };
          primitives::multiply_bf16(map(da, 64, a_major), map(db, n, b_major), n, k, a_major, b_major, registers,
                                    d.as<float>());
          using At = std::function<double(int, int)>;
          const auto at = [k](const std::vector<uint16_t>& m, int rows, Major major) -> At {
            return [&m, k, rows, major](int r, int x) {
              return static_cast<float>(Bf16::from_bits(m[static_cast<size_t>(major == Major::kK ? r * k + x : x * rows + r)]));
            };
          };
          SCOPED_TRACE(fmt::format("n {}, registers {}, A {}, B {}", n, registers, a_major == Major::kK ? "K" : "M",
                                   b_major == Major::kK ? "K" : "N"));
          expect_product(to_host<float>(d), n, k, at(a, 64, a_major), at(b, n, b_major), k * 0x1p-22);
        }
}

TEST_F(Primitives, MatricesGoThroughRegisters) {
  std::vector<uint16_t> in(256);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(1000 + i);
  const DeviceBuffer from = to_device(in);
  for (const bool load_transposed : {false, true})
    for (const bool store_transposed : {false, true}) {
      const DeviceBuffer registers(32 * 16), to(512);
      primitives::matrices(from.as<uint16_t>(), load_transposed, store_transposed, registers.as<uint32_t>(), to.as<uint16_t>());
      const auto r = to_host<uint32_t>(registers);
      const auto out = to_host<uint16_t>(to);
      const auto at = [&](size_t j, size_t row, size_t column) { return in[j * 64 + row * 8 + column]; };
      for (size_t lane = 0; lane < 32; ++lane)
        for (size_t j = 0; j < 4; ++j)
          for (size_t e = 0; e < 2; ++e) {
            const size_t row = lane / 4, column = lane % 4 * 2 + e;
            EXPECT_EQ(static_cast<uint16_t>(r[lane * 4 + j] >> (16 * e)),
                      load_transposed ? at(j, column, row) : at(j, row, column));
          }
      for (size_t j = 0; j < 4; ++j)
        for (size_t row = 0; row < 8; ++row)
          for (size_t column = 0; column < 8; ++column)
            EXPECT_EQ(out[j * 64 + row * 8 + column],
                      load_transposed == store_transposed ? at(j, row, column) : at(j, column, row));
    }
}

TEST_F(Primitives, ConvertsAsTheScalarTruth) {
  std::vector<float> in;
  for (uint32_t i = 0; i < 4096; ++i) in.push_back(std::bit_cast<float>(random_words({.seed = 6}, i)[0]));
  for (uint32_t i = 0; i < 65536; ++i) in.push_back(std::bit_cast<float>(i << 16 | (i * 40503u & 0xffff)));
  for (int e = -20; e <= 20; ++e)
    for (int m = 0; m < 64; ++m) in.push_back(std::ldexp(1 + static_cast<float>(m) / 64, e));
  if (in.size() % 2 != 0) in.push_back(0);
  const size_t n = in.size();
  const DeviceBuffer from = to_device(in), e4m3(n), e5m2(n), bf16(2 * n), from_e4m3(4 * n), from_e5m2(4 * n);
  primitives::convert(from.as<float>(), static_cast<int>(n), e4m3.as<uint8_t>(), e5m2.as<uint8_t>(), bf16.as<uint16_t>(),
                      from_e4m3.as<float>(), from_e5m2.as<float>());
  const auto a = to_host<uint8_t>(e4m3), b = to_host<uint8_t>(e5m2);
  const auto c = to_host<uint16_t>(bf16);
  const auto x = to_host<float>(from_e4m3), y = to_host<float>(from_e5m2);
  for (size_t i = 0; i < n; ++i) {
    if (std::isnan(in[i])) {
      EXPECT_EQ(a[i] & 0x7f, 0x7f);
      EXPECT_TRUE(E5M2::from_bits(b[i]).is_nan());
      EXPECT_TRUE(std::isnan(x[i]) && std::isnan(y[i]));
      EXPECT_TRUE(std::isnan(static_cast<float>(Bf16::from_bits(c[i]))));
      continue;
    }
    ASSERT_EQ(a[i], E4M3(in[i]).bits) << in[i];
    ASSERT_EQ(b[i], E5M2(in[i]).bits) << in[i];
    ASSERT_EQ(c[i], Bf16(in[i]).bits) << in[i];
    ASSERT_EQ(x[i], static_cast<float>(E4M3(in[i])));
    ASSERT_EQ(y[i], static_cast<float>(E5M2(in[i])));
  }
}

TEST_F(Primitives, OneBlockLoadsForTheCluster) {
  const auto data = random_bytes(3 * 1024, 7);
  const DeviceBuffer from = to_device(data), out(6 * 1024);
  primitives::multicast(
      make_tensor_map({.data = from.data(), .columns = 128, .rows = 24, .row_bytes = 128, .box_columns = 128, .box_rows = 8}),
      out.as<uint8_t>());
  const auto got = to_host<uint8_t>(out);
  for (size_t round = 0; round < 3; ++round)
    for (size_t i = 0; i < 2048; ++i) ASSERT_EQ(got[round * 2048 + i], data[round * 1024 + i % 1024]) << round << ", " << i;
}

TEST_F(Primitives, BlocksWaitForThoseBefore) {
  const std::vector<int> zero(1, 0);
  const DeviceBuffer counter = to_device(zero), out = to_device(zero);
  primitives::in_order(20, counter.as<int>(), out.as<int>());
  int expected = 0;
  for (int i = 0; i < 20; ++i) expected = expected * 2 + i;
  EXPECT_EQ(to_host<int>(out)[0], expected);
}

TEST_F(Primitives, SmallCopiesFillWithZeros) {
  std::vector<uint32_t> in(1024);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint32_t>(i + 1);
  const DeviceBuffer from = to_device(in), out(4096);
  primitives::small_copies(from.as<uint32_t>(), 1024, 900, out.as<uint32_t>());
  const auto got = to_host<uint32_t>(out);
  for (size_t i = 0; i < 1024; ++i) EXPECT_EQ(got[i], i < 900 ? i + 1 : 0);
}

TEST_F(Primitives, LanesSeeTheirExtremes) {
  constexpr size_t kCount = 256;
  std::vector<uint32_t> in(kCount);
  for (size_t i = 0; i < kCount; ++i) in[i] = random_words({.seed = 8}, i)[0];
  const DeviceBuffer from = to_device(in), out(kCount * 8);
  primitives::extremes(from.as<uint32_t>(), static_cast<int>(kCount), out.as<uint32_t>());
  const auto got = to_host<uint32_t>(out);
  for (size_t i = 0; i < kCount; ++i) {
    const auto [smallest, largest] = std::minmax_element(in.begin() + static_cast<int64_t>(i / 32 * 32),
                                                         in.begin() + static_cast<int64_t>(i / 32 * 32 + 32));
    EXPECT_EQ(got[i / 32 * 64 + i % 32], *largest) << i;
    EXPECT_EQ(got[i / 32 * 64 + 32 + i % 32], *smallest) << i;
  }
}

TEST(TensorMaps, RefuseWhatTheCopyEngineCannotTake) {
  alignas(16) static const uint8_t data[64] = {};
  const TensorMapShape good{.data = data, .columns = 16, .rows = 4, .row_bytes = 16, .box_columns = 16, .box_rows = 4};
  EXPECT_NO_THROW(check_tensor_map(good));
  const auto refused = [&](auto change) {
    TensorMapShape s = good;
    change(s);
    EXPECT_THROW(check_tensor_map(s), Error);
  };
  refused([](auto& s) { s.data = data + 1; });
  refused([](auto& s) { s.row_bytes = 24; });
  refused([](auto& s) { s.row_bytes = 0; });
  refused([](auto& s) { s.rows = 0; });
  refused([](auto& s) { s.box_rows = 257; });
  refused([](auto& s) { s.box_columns = 8; });
  refused([](auto& s) { s.swizzle = true; });
  refused([](auto& s) { s.depth = 2; });
}

}  // namespace
}  // namespace rorqual::hopper
