#include "kernels/adamw/sm90a.h"

#include <deque>

#include "kernels/adamw/kernels.h"
#include "kernels/common/sm90a_for_tests.h"

namespace rorqual {
namespace {

using hopper::DeviceBuffer;
using testing::difference;
using testing::Matrix;
using testing::Mirrored;
using AdamWSm90a = hopper::HopperTest;

// A tensor on both sides.
struct Parameter {
  Mirrored w, g, m, v;
  double decay;

  Parameter(int64_t count, DType first, DType second, double weight_decay, uint64_t seed)
      : w(DType::kF32, 1, count), g(DType::kF32, 1, count), m(first, 1, count), v(second, 1, count), decay(weight_decay) {
    w.fill_normal(seed);
    m.fill_normal(seed + 1, 1e-3);
    v.fill([&](int64_t, int64_t c) { return 1e-6 * random_uniform({.seed = seed + 2}, static_cast<uint64_t>(c)); });
    g.fill([&](int64_t, int64_t c) {
      const auto words = random_words({.seed = seed + 3}, static_cast<uint64_t>(c));
      return c % 11 == 5 ? 0.0 : std::ldexp(2.0 * words[0] - 0x1p32, -32 - 80 + static_cast<int>(words[1] % 88));
    });
  }
  void upload() {
    for (Mirrored* x : {&w, &g, &m, &v}) x->upload();
  }
  AdamWTensor host() const { return {w.host(), g.host(), m.host(), v.host(), decay}; }
  AdamWTensor device() const { return {w.device(), g.device(), m.device(), v.device(), decay}; }
  // Host memory holds what the scalar truth made of it.
  void expect_equal() const {
    for (const auto& [name, x] : {std::pair{"w", &w}, {"m", &m}, {"v", &v}}) {
      Matrix got(x->matrix());
      x->fetch(got);
      EXPECT_EQ(difference(x->matrix(), got), "") << name << " of " << w.cols();
      EXPECT_EQ(got.written_outside(), "") << name;
    }
  }
};

AdamWArgs settings(const std::vector<AdamWTensor>& list, int64_t step) {
  return {.tensors = list, .lr = 2.2e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_scale = 0.37, .step = step};
}

void step_both(const std::deque<Parameter>& parameters, int64_t step) {
  std::vector<AdamWTensor> host, device;
  for (const Parameter& p : parameters) {
    host.push_back(p.host());
    device.push_back(p.device());
  }
  adamw_kernels().back().run(settings(host, step), testing::one_thread());
  ASSERT_EQ(refuse_adamw_sm90a(settings(device, step)), "");
  adamw_sm90a(settings(device, step), Stream::on_device());
}

TEST_F(AdamWSm90a, EqualsTheScalarTruthInEveryBit) {
  for (const DType m : {DType::kF32, DType::kBF16})
    for (const DType v : {DType::kF32, DType::kBF16}) {
      std::deque<Parameter> parameters;
      for (const int64_t n : {1, 2, 3, 4, 5, 63, 1000, 0, 8191, 8192, 8193, 20001})
        parameters.emplace_back(n, m, v, n % 2 ? 0.1 : 0.0, static_cast<uint64_t>(10 * n));
      for (int64_t step = 1; step <= 2; ++step) step_both(parameters, step);
      for (const Parameter& p : parameters) p.expect_equal();
    }
}

TEST_F(AdamWSm90a, TakesMoreTensorsThanOneLaunch) {
  std::deque<Parameter> parameters;
  for (int64_t i = 0; i < 1000; ++i)
    parameters.emplace_back(1 + i % 7, i % 3 == 0 ? DType::kF32 : DType::kBF16, i % 2 == 0 ? DType::kF32 : DType::kBF16,
                            0.01 * static_cast<double>(i), static_cast<uint64_t>(i));
  step_both(parameters, 7);
  for (const Parameter& p : parameters) p.expect_equal();
}

TEST_F(AdamWSm90a, SpecialValuesEqualTheScalarTruth) {
  const double special[] = {0.0, -0.0, 1e-40, INFINITY, -INFINITY, std::nan(""), 3e38, -1e30, 1e-20};
  for (const DType moment : {DType::kF32, DType::kBF16}) {
    std::deque<Parameter> parameters;
    Parameter& p = parameters.emplace_back(45, moment, moment, 0.1, 1);
    for (int64_t i = 0; i < 45; ++i) {
      p.g.set(0, i, special[i % 9]);
      if (i >= 9) p.v.set(0, i, i % 2 ? 0.0 : 1e-41);
      if (i >= 18) p.m.set(0, i, special[i / 9]);
    }
    p.upload();
    step_both(parameters, 3);
    p.expect_equal();
  }
}

// ---- Coded copies

struct Copy {
  int64_t n, k, gap;
  DeviceBuffer codes, scales;
  Copy(int64_t rows, int64_t cols, int64_t stride_gap)
      : n(rows),
        k(cols),
        gap(stride_gap),
        codes(static_cast<size_t>(rows * (cols + stride_gap))),
        scales(static_cast<size_t>(4 * scale_groups(rows) * (scale_groups(cols) + 1))) {}
  ScaledTensor tensor() const {
    return {Tensor(codes.data(), DType::kE4M3, n, k, k + gap),
            Tensor(scales.data(), DType::kF32, scale_groups(n), scale_groups(k), scale_groups(k) + 1)};
  }
};

// The codes and scale of block (row, column) of the weight [n, k], found in the copy.
void expect_block(const Mirrored& w, const Copy& copy, const std::vector<uint8_t>& codes, const std::vector<float>& scales,
                  int64_t block_row, int64_t block_column, bool transposed, ScaleRule rule) {
  const int64_t n = transposed ? copy.k : copy.n, k = transposed ? copy.n : copy.k;
  const int64_t end_row = std::min(n, block_row * 128 + 128), end_column = std::min(k, block_column * 128 + 128);
  const float* x = w.host().ptr<float>();
  uint32_t bits = 0;
  for (int64_t r = block_row * 128; r < end_row; ++r)
    for (int64_t c = block_column * 128; c < end_column; ++c)
      bits = std::max(bits, std::bit_cast<uint32_t>(x[r * k + c]) & 0x7fffffffu);
  const float amax = std::bit_cast<float>(bits), scale = scale_of(amax, E4M3::kLargest, rule);
  const int64_t at = transposed ? block_column * (scale_groups(copy.k) + 1) + block_row
                                : block_row * (scale_groups(copy.k) + 1) + block_column;
  const float found = scales[static_cast<size_t>(at)];
  ASSERT_TRUE(found == scale || (std::isnan(found) && std::isnan(scale))) << found << ", not " << scale;
  for (int64_t r = block_row * 128; r < end_row; ++r)
    for (int64_t c = block_column * 128; c < end_column; ++c) {
      const int64_t row = transposed ? c : r, column = transposed ? r : c;
      const uint8_t code = std::isfinite(amax) ? E4M3(scaled(x[r * k + c], scale)).bits : 0;
      ASSERT_EQ(codes[static_cast<size_t>(row * (copy.k + copy.gap) + column)], code)
          << "(" << r << ", " << c << ") of " << n << "×" << k << ": " << x[r * k + c] << " / " << scale;
    }
}

void expect_copy(const Mirrored& w, const Copy& copy, bool transposed, ScaleRule rule) {
  const auto codes = hopper::to_host<uint8_t>(copy.codes);
  const auto scales = hopper::to_host<float>(copy.scales);
  const int64_t n = transposed ? copy.k : copy.n, k = transposed ? copy.n : copy.k;
  for (int64_t r = 0; r < scale_groups(n); ++r)
    for (int64_t c = 0; c < scale_groups(k); ++c) expect_block(w, copy, codes, scales, r, c, transposed, rule);
  for (int64_t row = 0; row < copy.n; ++row)
    for (int64_t c = copy.k; c < copy.k + copy.gap; ++c)
      ASSERT_EQ(codes[static_cast<size_t>(row * (copy.k + copy.gap) + c)], 0xff) << "the gap behind row " << row;
  for (int64_t row = 0; row < scale_groups(copy.n); ++row)
    EXPECT_TRUE(std::isnan(scales[static_cast<size_t>((row + 1) * (scale_groups(copy.k) + 1) - 1)])) << "behind scales " << row;
}

TEST_F(AdamWSm90a, CodesTheNewWeightsInBlocks) {
  struct Shape {
    int64_t n, k;
    bool plain, transposed;
    DType m, v;
    ScaleRule rule;
    int64_t gap;
  };
  const Shape shapes[] = {
      {256, 128, true, true, DType::kBF16, DType::kBF16, ScaleRule::kPow2, 0},
      {144, 196, true, true, DType::kF32, DType::kBF16, ScaleRule::kFp32, 16},
      {16, 4, true, true, DType::kBF16, DType::kF32, ScaleRule::kPow2, 32},
      {131, 132, true, false, DType::kF32, DType::kF32, ScaleRule::kFp32, 4},
      {272, 40, false, true, DType::kBF16, DType::kBF16, ScaleRule::kPow2, 0},
      {1, 8, true, false, DType::kBF16, DType::kBF16, ScaleRule::kPow2, 0},
  };
  std::deque<Parameter> parameters;
  std::deque<Copy> copies, transposed;
  std::vector<AdamWTensor> host, device;
  for (const Shape& s : shapes) {
    Parameter& p = parameters.emplace_back(s.n * s.k, s.m, s.v, 0.1, static_cast<uint64_t>(s.n));
    host.push_back(p.host());
    device.push_back(p.device());
    const Copy& plain = copies.emplace_back(s.n, s.k, s.gap);
    const Copy& other = transposed.emplace_back(s.k, s.n, (16 - s.n % 16) % 16 + s.gap / 16 * 16);
    if (s.plain) device.back().copy = plain.tensor();
    if (s.transposed) device.back().copy_transposed = other.tensor();
    device.back().quantiser.rule = s.rule;
    Parameter& beside = parameters.emplace_back(100, s.m, s.v, 0.0, 77);  // without a copy
    host.push_back(beside.host());
    device.push_back(beside.device());
  }
  adamw_kernels().back().run(settings(host, 2), testing::one_thread());
  ASSERT_EQ(refuse_adamw_sm90a(settings(device, 2)), "");
  adamw_sm90a(settings(device, 2), Stream::on_device());
  for (const Parameter& p : parameters) p.expect_equal();
  for (size_t i = 0; i < std::size(shapes); ++i) {
    SCOPED_TRACE(fmt::format("{}×{}", shapes[i].n, shapes[i].k));
    if (shapes[i].plain) expect_copy(parameters[2 * i].w, copies[i], false, shapes[i].rule);
    if (shapes[i].transposed) expect_copy(parameters[2 * i].w, transposed[i], true, shapes[i].rule);
  }
}

TEST_F(AdamWSm90a, CodesSpecialBlocks) {
  for (const double special : {std::nan(""), static_cast<double>(-INFINITY), 0.0, 1e-42}) {
    std::deque<Parameter> parameters;
    Parameter& p = parameters.emplace_back(16 * 256, DType::kBF16, DType::kBF16, 0.0, 5);
    for (int64_t c = 0; c < 16 * 256; ++c) {
      p.g.set(0, c, 0.0);
      p.m.set(0, c, 0.0);
      if (c % 256 < 128 && (special == 0 || std::abs(special) < 1 || c == 300)) p.w.set(0, c, special);
    }
    p.upload();
    const Copy plain(16, 256, 0), transposed(256, 16, 0);
    std::vector<AdamWTensor> host{p.host()}, device{p.device()};
    device[0].copy = plain.tensor();
    device[0].copy_transposed = transposed.tensor();
    adamw_kernels().back().run(settings(host, 1), testing::one_thread());
    adamw_sm90a(settings(device, 1), Stream::on_device());
    p.expect_equal();
    expect_copy(p.w, plain, false, ScaleRule::kPow2);
    expect_copy(p.w, transposed, true, ScaleRule::kPow2);
  }
}

TEST_F(AdamWSm90a, RefusesWhatItCannotDo) {
  const Parameter p(128, DType::kF32, DType::kF32, 0, 1);
  const Copy plain(8, 16, 0), odd(64, 2, 0), transposed(16, 8, 0);
  const auto why = [&](auto change) {
    std::vector<AdamWTensor> list{p.device()};
    change(list[0]);
    return refuse_adamw_sm90a(settings(list, 1));
  };
  EXPECT_EQ(why([](auto&) {}), "");
  EXPECT_EQ(why([&](auto& t) { t.copy = plain.tensor(); }), "");
  EXPECT_NE(why([](auto& t) { t.w.dtype = DType::kF64; }), "");
  EXPECT_NE(why([](auto& t) { t.m.dtype = DType::kF64; }), "");
  EXPECT_NE(why([](auto& t) { t.g.data = static_cast<float*>(t.g.data) + 1; }), "");
  EXPECT_NE(why([&](auto& t) { t.copy = odd.tensor(); }), "");
  EXPECT_NE(why([&](auto& t) { t.copy_transposed = transposed.tensor(); }), "");
  EXPECT_NE(why([&](auto& t) {
              t.copy = plain.tensor();
              t.copy.codes.dtype = DType::kE5M2;
            }),
            "");
  EXPECT_NE(why([&](auto& t) {
              t.copy = plain.tensor();
              t.quantiser.granularity = Granularity::kTensor;
            }),
            "");
  QuantiseStatistics statistics;
  EXPECT_NE(why([&](auto& t) {
              t.copy = plain.tensor();
              t.quantiser.statistics = &statistics;
            }),
            "");
}

}  // namespace
}  // namespace rorqual
