// weight_gradient on Hopper against its definition.
#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/rng.h"
#include "hopper/test_support.h"
#include "kernels/gemm/sm90a.h"
#include "kernels/gemm/sm90a_test_support.h"

namespace rorqual {
namespace {

using WeightGradientSm90a = hopper::HopperTest;
using gemm::code_value;
using gemm::ExpectedSum;
using gemm::kNan;
using gemm::kNanCode;
using gemm::random_code;
using gemm::random_scale;
using hopper::DeviceBuffer;
using hopper::to_device;
using hopper::to_host;

// One side of a list of problems: the codes of all in one matrix [channels, tokens], each problem's from a multiple of 128;
// between them, as in gaps between rows, NaN.
class Side {
 public:
  Side(int64_t channels, const std::vector<int64_t>& tokens, ScaleRule rule, uint64_t seed)
      : channels_(channels), tokens_(tokens) {
    for (const int64_t m : tokens) {
      begins_.push_back(total_);
      total_ += scale_groups(m) * kScaleGroup;
    }
    pitch_ = total_ + 16;
    codes_.assign(static_cast<size_t>(channels * pitch_), kNanCode);
    scale_pitch_ = channels + 3;
    scales_.assign(static_cast<size_t>(scale_groups(total_) * scale_pitch_ + 1), kNan);
    for (size_t p = 0; p < tokens.size(); ++p)
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t t = begins_[p]; t < begins_[p] + tokens[p]; ++t)
          codes_[static_cast<size_t>(c * pitch_ + t)] = random_code(seed, static_cast<uint64_t>(c * pitch_ + t));
        for (int64_t g = begins_[p] / kScaleGroup; g < scale_groups(begins_[p] + tokens[p]); ++g)
          scale(g, c) = random_scale(seed, static_cast<uint64_t>(g * channels + c), rule);
      }
  }
  void upload() {
    device_codes_ = to_device(codes_);
    device_scales_ = to_device(scales_);
  }
  ScaledTensor tensor(size_t p) const {
    const Tensor codes(device_codes_.data(), DType::kE4M3, channels_, total_, pitch_);
    // One element from the start, so that nothing is aligned to more than an element.
    const Tensor scales(device_scales_.as<float>() + 1, DType::kF32, scale_groups(total_), channels_, scale_pitch_);
    if (tokens_[p] == 0) return {Tensor(nullptr, DType::kE4M3, channels_, 0), Tensor(), ScaledTensor::Group::kColumnTransposed};
    return ScaledTensor(codes, scales, ScaledTensor::Group::kColumnTransposed).row_range(begins_[p], tokens_[p]);
  }
  float& scale(int64_t group, int64_t channel) { return scales_[static_cast<size_t>(group * scale_pitch_ + channel + 1)]; }
  float scale_of_block(size_t p, int64_t block, int64_t channel) { return scale(begins_[p] / kScaleGroup + block, channel); }
  // The codes' values of a problem's channel.
  std::vector<float> values(size_t p, int64_t channel) const {
    std::vector<float> out(static_cast<size_t>(tokens_[p]));
    for (size_t t = 0; t < out.size(); ++t) out[t] = code_value(codes_[static_cast<size_t>(channel * pitch_ + begins_[p]) + t]);
    return out;
  }

 private:
  int64_t channels_, total_ = 0, pitch_ = 0, scale_pitch_ = 0;
  std::vector<int64_t> tokens_, begins_;
  std::vector<uint8_t> codes_;
  std::vector<float> scales_;
  DeviceBuffer device_codes_, device_scales_;
};

// What an element of problem p must be, added to `before`.
ExpectedSum expected(Side& a, Side& b, size_t p, int64_t n, int64_t k, float before) {
  return gemm::expected_sum(
      a.values(p, n), b.values(p, k),
      [&](int64_t block) { return a.scale_of_block(p, block, n) * b.scale_of_block(p, block, k); }, before);
}

// A list of problems with gradients that hold something before, gaps between them.
class Problems {
 public:
  static constexpr int64_t kGap = 8;
  Problems(int64_t n, int64_t k, std::vector<int64_t> tokens, ScaleRule rule = ScaleRule::kFp32)
      : n_(n), k_(k), tokens_(std::move(tokens)), a_(n, tokens_, rule, 1), b_(k, tokens_, rule, 2) {
    before_.assign(static_cast<size_t>(gradient_at(tokens_.size())), kNan);
    for (size_t p = 0; p < tokens_.size(); ++p)
      for (int64_t i = 0; i < n * k; ++i)
        before_[static_cast<size_t>(gradient_at(p) + i)] =
            static_cast<float>(random_normal({.seed = 3}, static_cast<uint64_t>(gradient_at(p) + i)));
  }
  Side& a() { return a_; }
  Side& b() { return b_; }

  // The gradients after one call for the problems [begin, end).
  std::vector<float> run(size_t begin = 0, size_t end = SIZE_MAX) {
    a_.upload();
    b_.upload();
    const DeviceBuffer c = to_device(before_);
    std::vector<WeightGradientProblem> list;
    for (size_t p = begin; p < std::min(end, tokens_.size()); ++p)
      list.push_back({a_.tensor(p), b_.tensor(p), Tensor(c.as<float>() + gradient_at(p), DType::kF32, n_, k_)});
    weight_gradient_sm90a({.problems = list}, Stream::on_device());
    return to_host<float>(c);
  }

  // Every element, or 20,000 of a large gradient's.
  void expect_right(const std::vector<float>& got) {
    const int64_t count = n_ * k_, step = count <= 1 << 18 ? 1 : count / 20000 | 1;
    for (size_t p = 0; p < tokens_.size(); ++p) {
      for (int64_t i = count - 1; i >= 0; i -= step) ASSERT_NO_FATAL_FAILURE(expect_element(got, p, i));
      for (int64_t i = count; i < count + kGap; ++i)
        ASSERT_TRUE(std::isnan(got[static_cast<size_t>(gradient_at(p) + i)])) << "behind problem " << p;
    }
  }

 private:
  void expect_element(const std::vector<float>& got, size_t p, int64_t i) {
    const auto at = static_cast<size_t>(gradient_at(p) + i);
    const ExpectedSum want = expected(a_, b_, p, i / k_, i % k_, before_[at]);
    const auto where = [&] {
      return fmt::format("element [{}, {}] of [{}, {}], problem {} of {} tokens", i / k_, i % k_, n_, k_, p, tokens_[p]);
    };
    ASSERT_NEAR(static_cast<double>(got[at]), want.sum, want.bound) << where();
    if (hopper::is_emulated() || tokens_[p] == 0) {
      ASSERT_EQ(got[at], want.model) << where();
    }
  }
  int64_t gradient_at(size_t p) const { return static_cast<int64_t>(p) * (n_ * k_ + kGap); }
  int64_t n_, k_;
  std::vector<int64_t> tokens_;
  Side a_, b_;
  std::vector<float> before_;
};

// Does the same under other orders of warps and copies.
template <class Body>
void under_seeds(const Body& body) {
  if (!hopper::is_emulated()) {
    body();
    return;
  }
  const char* given = std::getenv("RORQUAL_EMULATOR_SEED");
  const std::string before = given == nullptr ? "" : given;
  for (const char* seed : {"11", "12", "13"}) {
    setenv("RORQUAL_EMULATOR_SEED", seed, 1);
    hopper::restart_schedule();
    body();
  }
  if (given == nullptr)
    unsetenv("RORQUAL_EMULATOR_SEED");
  else
    setenv("RORQUAL_EMULATOR_SEED", before.c_str(), 1);
}

void expect_right(int64_t n, int64_t k, std::vector<int64_t> tokens, ScaleRule rule = ScaleRule::kFp32) {
  SCOPED_TRACE(fmt::format("n {}, k {}, {} problems", n, k, tokens.size()));
  Problems problems(n, k, std::move(tokens), rule);
  problems.expect_right(problems.run());
}

TEST_F(WeightGradientSm90a, TokensOfAnyNumber) {
  for (const int64_t m : {1, 2, 16, 31, 32, 33, 127, 128, 129, 255, 257, 300}) expect_right(24, 40, {m});
}

TEST_F(WeightGradientSm90a, ChannelsOfAnyNumber) {
  expect_right(1, 4, {17});
  expect_right(8, 8, {40}, ScaleRule::kPow2);
  expect_right(16, 136, {130});
  expect_right(136, 16, {130});
  expect_right(65, 132, {129});
}

// Rows of two tiles share B, columns of two tiles share A, odd numbers of tiles nothing.
TEST_F(WeightGradientSm90a, NeighboursShareOperands) {
  expect_right(200, 72, {390});
  expect_right(72, 200, {390});
  expect_right(256, 256, {128}, ScaleRule::kPow2);
}

// More tiles than blocks, more 128s of tokens than stages.
TEST_F(WeightGradientSm90a, BlocksComputeTilesInTurn) {
  expect_right(264, 328, {140});
  expect_right(136, 520, {100, 0, 260});
  expect_right(32, 48, {1000});
  if (!hopper::is_emulated()) {
    expect_right(1408, 2048, {3000});
    expect_right(512, 7168, {700, 0, 4000, 129});
  }
}

TEST_F(WeightGradientSm90a, GroupsOfEveryKind) {
  expect_right(48, 64, {0, 100, 128, 0, 1, 256, 17, 0});
  expect_right(48, 64, {0, 0, 0});
  expect_right(48, 64, {0, 0, 129});
  expect_right(136, 24, {64, 300, 5});
  expect_right(24, 136, {64, 300, 5});
}

TEST_F(WeightGradientSm90a, ListsLongerThanALaunch) {
  std::vector<int64_t> tokens(70, 5);
  tokens[3] = 0;
  tokens[69] = 130;
  expect_right(8, 12, tokens);
}

TEST_F(WeightGradientSm90a, ShapesMayDiffer) {
  Problems first(24, 40, {150}), second(40, 24, {200});
  first.a().upload(), first.b().upload(), second.a().upload(), second.b().upload();
  const DeviceBuffer c(2 * 24 * 40 * 4);
  c.fill(0);
  const std::vector<WeightGradientProblem> list = {
      {first.a().tensor(0), first.b().tensor(0), Tensor(c.data(), DType::kF32, 24, 40)},
      {second.a().tensor(0), second.b().tensor(0), Tensor(c.as<float>() + 24 * 40, DType::kF32, 40, 24)}};
  weight_gradient_sm90a({.problems = list}, Stream::on_device());
  const auto got = to_host<float>(c);
  for (size_t i = 0; i < 24 * 40; ++i) {
    const auto at = static_cast<int64_t>(i);
    const ExpectedSum x = expected(first.a(), first.b(), 0, at / 40, at % 40, 0);
    const ExpectedSum y = expected(second.a(), second.b(), 0, at / 24, at % 24, 0);
    ASSERT_NEAR(static_cast<double>(got[i]), x.sum, x.bound) << "element " << i << " of the first";
    ASSERT_NEAR(static_cast<double>(got[24 * 40 + i]), y.sum, y.bound) << "element " << i << " of the second";
  }
}

TEST_F(WeightGradientSm90a, SameBitsWhateverTheOrderAndTheCompany) {
  Problems problems(200, 136, {100, 300, 128});
  const std::vector<float> together = problems.run();
  const auto same = [&](const std::vector<float>& got) {
    EXPECT_EQ(std::memcmp(got.data(), together.data(), got.size() * 4), 0);
  };
  under_seeds([&] { same(problems.run()); });
  std::vector<float> apart = problems.run(0, 1);
  const auto part = apart.size() / 3;
  for (size_t p = 1; p < 3; ++p) {
    const std::vector<float> one = problems.run(p, p + 1);
    std::copy_n(one.begin() + static_cast<std::ptrdiff_t>(p * part), part,
                apart.begin() + static_cast<std::ptrdiff_t>(p * part));
  }
  same(apart);
}

TEST_F(WeightGradientSm90a, GroupsThatHeldNanGiveNan) {
  Problems problems(24, 16, {200});
  problems.a().scale(1, 5) = kNan;
  problems.b().scale(0, 7) = kNan;
  const auto got = problems.run();
  for (int64_t n = 0; n < 24; ++n)
    for (int64_t k = 0; k < 16; ++k)
      EXPECT_EQ(std::isnan(got[static_cast<size_t>(n * 16 + k)]), n == 5 || k == 7) << n << ", " << k;
}

TEST_F(WeightGradientSm90a, SaysWhatItDoesNotTake) {
  Problems problems(32, 48, {200});
  problems.a().upload(), problems.b().upload();
  const DeviceBuffer c(32 * 48 * 4);
  const auto reason = [&](auto change) {
    std::vector<WeightGradientProblem> list = {
        {problems.a().tensor(0), problems.b().tensor(0), Tensor(c.data(), DType::kF32, 32, 48)}};
    WeightGradientArgs args{.problems = list};
    change(args, list[0]);
    return refuse_weight_gradient_sm90a(args);
  };
  using ::testing::HasSubstr;
  EXPECT_EQ(reason([](auto&, auto&) {}), "");
  EXPECT_EQ(refuse_weight_gradient_sm90a({}), "");
  EXPECT_THAT(reason([](auto& args, auto&) { args.accumulator = gemm::kTensorCores; }), HasSubstr("accumulator"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.a.codes.dtype = DType::kE5M2; }), HasSubstr("A holds F8_E5M2"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.b.codes.dtype = DType::kBF16; }), HasSubstr("B holds BF16"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.a.group = ScaledTensor::Group::kColumn; }), HasSubstr("not contiguous"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.a.codes.stride += 8; }), HasSubstr("not a multiple of 16"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.b.codes.data = static_cast<uint8_t*>(p.b.codes.data) + 8; }),
              HasSubstr("B's codes are not aligned"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.b.scales.rows = 1; }), HasSubstr("need F32 scales [2, 48]"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.c.rows = 31; }), HasSubstr("into [31, 48]"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.c.dtype = DType::kBF16; }), HasSubstr("C holds BF16"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.c.stride = 64; }), HasSubstr("64 elements apart"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.c.data = static_cast<float*>(p.c.data) + 1; }), HasSubstr("C is not aligned"));
  EXPECT_THAT(reason([&](auto&, auto& p) { p.b.codes.rows = p.b.scales.cols = p.c.cols = p.c.stride = 46; }),
              HasSubstr("46 elements are not a multiple"));
}

}  // namespace
}  // namespace rorqual
