// linear on Hopper against its definition.
#include <gmock/gmock.h>

#include <cstring>
#include <functional>
#include <set>

#include "base/rng.h"
#include "hopper/test_support.h"
#include "kernels/gemm/sm90a.h"
#include "kernels/gemm/sm90a_linear_testing.h"
#include "kernels/gemm/sm90a_test_support.h"

namespace rorqual {
namespace {

using LinearSm90a = hopper::HopperTest;
using gemm::code_value;
using gemm::ExpectedSum;
using gemm::kNan;
using gemm::kNanCode;
using gemm::LinearTile;
using gemm::random_code;
using gemm::random_scale;
using gemm::Share;
using hopper::DeviceBuffer;
using hopper::to_device;
using hopper::to_host;

// Codes [rows, cols] in rows of `pitch`, NaN between and behind them, and scales one element from their buffer's start.
struct Codes {
  int64_t rows, cols, pitch, scale_rows, scale_pitch;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  DeviceBuffer device_codes, device_scales;

  Codes(int64_t r, int64_t c, int64_t gap, int64_t rows_per_scale, ScaleRule rule, uint64_t seed)
      : rows(r),
        cols(c),
        pitch(c + gap),
        scale_rows((r + rows_per_scale - 1) / rows_per_scale),
        scale_pitch(scale_groups(c) + (rows_per_scale == 1 ? gap % 3 : 0)) {
    codes.assign(static_cast<size_t>(r * pitch), kNanCode);
    scales.assign(static_cast<size_t>(scale_rows * scale_pitch + 1), kNan);
    for (int64_t i = 0; i < r; ++i)
      for (int64_t j = 0; j < c; ++j)
        codes[static_cast<size_t>(i * pitch + j)] = random_code(seed, static_cast<uint64_t>(i * c + j));
    for (int64_t i = 0; i < scale_rows; ++i)
      for (int64_t g = 0; g < scale_groups(c); ++g)
        scale(i, g) = random_scale(seed, static_cast<uint64_t>(i * scale_groups(c) + g), rule);
  }
  float& scale(int64_t row, int64_t group) { return scales[static_cast<size_t>(row * scale_pitch + group + 1)]; }
  void upload() {
    device_codes = to_device(codes);
    device_scales = to_device(scales);
  }
  std::vector<float> values(int64_t row) const {
    std::vector<float> out(static_cast<size_t>(cols));
    for (size_t j = 0; j < out.size(); ++j) out[j] = code_value(codes[static_cast<size_t>(row * pitch) + j]);
    return out;
  }
};

struct Options {
  DType out = DType::kBF16;
  bool accumulate = false;
  ScaleRule rule = ScaleRule::kFp32;
  std::vector<int32_t> rows_in_use = {};  // empty: all
  const LinearTile* tile = nullptr;
};

// Problems of one n and k whose rows follow one another in one matrix A and one C, each with a weight of its own.
class Problems {
 public:
  static constexpr int64_t kGap = 16;
  Problems(int64_t n, int64_t k, std::vector<int64_t> rows, const Options& options = {})
      : n_(n),
        k_(k),
        rows_(std::move(rows)),
        options_(options),
        a_(total(), k, kGap, 1, options.rule, 1),
        c_pitch_((n + 7) / 8 * 8 + 8) {
    for (size_t p = 0; p < rows_.size(); ++p) b_.emplace_back(n, k, 0, kScaleGroup, options.rule, 10 + p);
    before_.assign(static_cast<size_t>(std::max<int64_t>(total(), 1) * c_pitch_), kNan);
    for (int64_t r = 0; r < total(); ++r)
      for (int64_t j = 0; j < n; ++j) {
        const auto x = static_cast<float>(random_normal({.seed = 3}, static_cast<uint64_t>(r * n + j)));
        before_[static_cast<size_t>(r * c_pitch_ + j)] = static_cast<float>(Bf16(x));
      }
  }
  Codes& a() { return a_; }
  Codes& b(size_t p) { return b_[p]; }
  int64_t begin_of(size_t p) const {
    int64_t begin = 0;
    for (size_t i = 0; i < p; ++i) begin += rows_[i];
    return begin;
  }
  int64_t total() const { return begin_of(rows_.size()); }

  // What linear takes, in device memory that this object owns.
  std::vector<LinearProblem> upload() {
    a_.upload();
    for (Codes& b : b_) b.upload();
    counts_ = to_device(options_.rows_in_use);
    std::vector<Bf16> narrow;
    for (const float x : before_) narrow.emplace_back(x);
    c_ = options_.out == DType::kBF16 ? to_device(narrow) : to_device(before_);
    const ScaledTensor a(Tensor(a_.device_codes.data(), DType::kE4M3, total(), k_, a_.pitch),
                         Tensor(a_.device_scales.as<float>() + 1, DType::kF32, total(), scale_groups(k_), a_.scale_pitch));
    const Tensor c(c_.data(), options_.out, total(), n_, c_pitch_);
    std::vector<LinearProblem> list;
    for (size_t p = 0; p < rows_.size(); ++p)
      list.push_back({a.row_range(begin_of(p), rows_[p]),
                      {.data = b_[p].device_codes.data(),
                       .dtype = DType::kE4M3,
                       .n = n_,
                       .k = k_,
                       .scale = b_[p].device_scales.as<float>() + 1,
                       .layout = PackedWeight::Layout::kRows},
                      c.row_range(begin_of(p), rows_[p]),
                      options_.rows_in_use.empty() ? nullptr : counts_.as<int32_t>() + p});
    return list;
  }
  // C as floats, gaps and all.
  std::vector<float> result() const {
    if (options_.out == DType::kF32) return to_host<float>(c_);
    std::vector<float> out;
    for (const Bf16 x : to_host<Bf16>(c_)) out.push_back(static_cast<float>(x));
    return out;
  }
  std::vector<float> run() {
    const std::vector<LinearProblem> list = upload();
    const LinearArgs args{.problems = list, .accumulate = options_.accumulate, .scales = options_.rule};
    if (options_.tile != nullptr)
      gemm::linear_with_tile(args, *options_.tile, Stream::on_device());
    else
      linear_sm90a(args, Stream::on_device());
    return result();
  }
  int64_t used(size_t p) const {
    return options_.rows_in_use.empty() ? rows_[p] : std::min<int64_t>(rows_[p], options_.rows_in_use[p]);
  }
  // NaN in all that a problem's rows beyond those in use hold.
  void poison_unused() {
    for (size_t p = 0; p < rows_.size(); ++p)
      for (int64_t r = begin_of(p) + used(p); r < begin_of(p) + rows_[p]; ++r) {
        std::fill_n(&a_.codes[static_cast<size_t>(r * a_.pitch)], k_, kNanCode);
        for (int64_t g = 0; g < scale_groups(k_); ++g) a_.scale(r, g) = kNan;
      }
  }

  ExpectedSum expected(size_t p, int64_t row, int64_t column) {
    const int64_t r = begin_of(p) + row;
    const float before = options_.accumulate ? before_[static_cast<size_t>(r * c_pitch_ + column)] : 0.0f;
    ExpectedSum want = gemm::expected_sum(
        a_.values(r), b_[p].values(column),
        [&](int64_t block) { return a_.scale(r, block) * b_[p].scale(column / kScaleGroup, block); }, before);
    if (options_.out == DType::kBF16) {
      want.model = static_cast<float>(Bf16(want.model));
      want.bound += 0x1p-8 * (std::abs(want.sum) + want.bound);
    }
    return want;
  }

  void expect_right(const std::vector<float>& got) {
    for (size_t p = 0; p < rows_.size(); ++p)
      for (int64_t row = 0; row < used(p); ++row)
        for (int64_t j = 0; j < n_; ++j) {
          const ExpectedSum want = expected(p, row, j);
          const float value = got[static_cast<size_t>((begin_of(p) + row) * c_pitch_ + j)];
          const auto where = [&] {
            return fmt::format("element [{}, {}] of problem {}: [{}, {}] · [{}, {}]ᵀ", row, j, p, rows_[p], k_, n_, k_);
          };
          ASSERT_NEAR(static_cast<double>(value), want.sum, want.bound) << where();
          ASSERT_LT(want.bound, 0.02 * (want.size + std::abs(want.sum)) + 1e-6) << "a bound that proves nothing: " << where();
          if (hopper::is_emulated()) {
            ASSERT_EQ(value, want.model) << where();
          }
        }
    for (int64_t r = 0; r < total(); ++r)
      for (int64_t j = n_; j < c_pitch_; ++j)
        ASSERT_TRUE(std::isnan(got[static_cast<size_t>(r * c_pitch_ + j)])) << "behind row " << r;
  }
  int64_t c_pitch() const { return c_pitch_; }

 private:
  int64_t n_, k_;
  std::vector<int64_t> rows_;
  Options options_;
  Codes a_;
  std::vector<Codes> b_;
  int64_t c_pitch_;
  std::vector<float> before_;
  DeviceBuffer counts_, c_;
};

void expect_right(int64_t n, int64_t k, std::vector<int64_t> rows, const Options& options = {}) {
  SCOPED_TRACE(fmt::format("n {}, k {}, {} problems of {} rows …", n, k, rows.size(), rows.empty() ? 0 : rows[0]));
  Problems problems(n, k, std::move(rows), options);
  problems.poison_unused();
  problems.expect_right(problems.run());
}

TEST_F(LinearSm90a, SizesOfEveryKind) {
  expect_right(1, 16, {1});
  expect_right(8, 16, {1});
  expect_right(24, 128, {3}, {.rule = ScaleRule::kPow2});
  expect_right(17, 144, {65});
  expect_right(130, 272, {63});
  expect_right(40, 1040, {5});
  expect_right(200, 48, {130});
}

TEST_F(LinearSm90a, WritesEveryType) {
  for (const DType out : {DType::kBF16, DType::kF32})
    for (const bool accumulate : {false, true}) {
      expect_right(72, 160, {70}, {.out = out, .accumulate = accumulate});
      expect_right(33, 32, {9}, {.out = out, .accumulate = accumulate});
    }
}

// Each tile with tiles to spare on both sides, so that neighbours share, blocks take several, and scales change inside a tile.
TEST_F(LinearSm90a, EveryTile) {
  std::set<std::string> seen;
  for (const LinearTile& tile : gemm::linear_tiles()) {
    SCOPED_TRACE(fmt::format("tiles of {}×{}, share {}", tile.rows, tile.columns, static_cast<int>(tile.share)));
    const bool wide = tile.share != Share::kNothing;
    const int64_t rows = tile.rows + (tile.share == Share::kB ? tile.rows : 1), n = tile.columns * (wide ? 1 : 2) + 24;
    expect_right(n, 144, {rows}, {.out = DType::kBF16, .tile = &tile});
    if (tile.columns == 112 || tile.columns == 160) expect_right(n, 16, {2}, {.out = DType::kF32, .tile = &tile});
  }
}

TEST_F(LinearSm90a, SameBitsWhateverTheTileAndTheOrder) {
  std::vector<float> first;
  for (const LinearTile& tile : gemm::linear_tiles()) {
    if (hopper::is_emulated() && tile.columns < 64) continue;
    Problems problems(200, 272, {70, 3}, {.out = DType::kF32, .tile = &tile});
    const std::vector<float> got = problems.run();
    if (first.empty()) first = got;
    ASSERT_EQ(std::memcmp(first.data(), got.data(), got.size() * 4), 0)
        << "tiles of " << tile.rows << "×" << tile.columns << ", share " << static_cast<int>(tile.share);
  }
}

// More steps than stages, more tiles than blocks.
TEST_F(LinearSm90a, TheRingGoesRound) {
  const LinearTile small{64, 16, Share::kNothing}, large{128, 128, Share::kNothing};
  expect_right(16, 1600, {4}, {.tile = &small});
  expect_right(100, 256, {70}, {.tile = &small});
  expect_right(16, 1312, {4}, {.tile = &large});
  for (const LinearTile& tile : gemm::linear_tiles())
    if (tile.share != Share::kNothing)  // both blocks of a cluster have elements that count
      expect_right(tile.share == Share::kA ? tile.columns + 16 : 16, 1312, {tile.share == Share::kB ? tile.rows + 2 : 2},
                   {.tile = &tile});
  if (!hopper::is_emulated()) {
    expect_right(512, 2048, {700});
    expect_right(2112, 1536, {300});
  }
}

TEST_F(LinearSm90a, GroupsOfEveryKind) {
  expect_right(40, 144, {0, 5, 1, 0, 70, 17, 0});
  expect_right(40, 144, {0, 0});
  expect_right(24, 32, {0, 130, 0});
  std::vector<int64_t> many(70, 1);
  many[7] = 0;
  many[69] = 66;
  expect_right(8, 16, many);
  const LinearTile shared{128, 128, Share::kB};
  expect_right(24, 32, {130, 1, 257}, {.tile = &shared});
}

TEST_F(LinearSm90a, OnlyTheDeviceKnowsHowManyRowsCount) {
  expect_right(40, 144, {64, 64, 64, 64}, {.rows_in_use = {0, 1, 64, 17}});
  expect_right(40, 144, {200, 200}, {.out = DType::kF32, .rows_in_use = {130, 0}});
  expect_right(24, 32, {16, 16}, {.rows_in_use = {0, 0}});
  expect_right(24, 32, {16, 70}, {.rows_in_use = {17, 1000}});
  for (const DType out : {DType::kBF16, DType::kF32})
    expect_right(40, 144, {64, 20}, {.out = out, .accumulate = true, .rows_in_use = {3, 20}});
}

TEST_F(LinearSm90a, ProblemsOfAnyShapesAndPlaces) {
  std::vector<Problems> all;
  all.emplace_back(40, 144, std::vector<int64_t>{5, 0, 66});
  all.emplace_back(24, 144, std::vector<int64_t>{3});
  all.emplace_back(40, 32, std::vector<int64_t>{130, 1});
  all.emplace_back(40, 144, std::vector<int64_t>{7});
  std::vector<LinearProblem> list;
  for (Problems& problems : all)
    for (const LinearProblem& p : problems.upload()) list.push_back(p);
  linear_sm90a({.problems = list}, Stream::on_device());
  for (Problems& problems : all) problems.expect_right(problems.result());
}

TEST_F(LinearSm90a, ARowsBitsAreItsOwn) {
  Problems many(72, 272, {130}, {.out = DType::kF32}), few(72, 272, {3}, {.out = DType::kF32});
  const auto all = many.run(), some = few.run();
  for (int64_t r = 0; r < 3; ++r)
    EXPECT_EQ(std::memcmp(&all[static_cast<size_t>(r * many.c_pitch())], &some[static_cast<size_t>(r * few.c_pitch())], 72 * 4),
              0)
        << "row " << r;
}

TEST_F(LinearSm90a, GroupsThatHeldNanGiveNan) {
  Problems problems(140, 256, {20}, {.out = DType::kF32});
  problems.a().scale(5, 1) = kNan;
  problems.b(0).scale(1, 0) = kNan;
  const auto got = problems.run();
  for (int64_t r = 0; r < 20; ++r)
    for (int64_t j = 0; j < 140; ++j)
      EXPECT_EQ(std::isnan(got[static_cast<size_t>(r * problems.c_pitch() + j)]), r == 5 || j >= 128) << r << ", " << j;
}

TEST_F(LinearSm90a, SaysWhatItDoesNotTake) {
  const DeviceBuffer memory(1 << 16);
  const auto reason = [&](auto change) {
    auto* m = memory.as<uint8_t>();
    std::vector<LinearProblem> list = {{ScaledTensor(Tensor(m, DType::kE4M3, 4, 160), Tensor(m, DType::kF32, 4, 2)),
                                        {.data = m,
                                         .dtype = DType::kE4M3,
                                         .n = 24,
                                         .k = 160,
                                         .scale = memory.as<float>(),
                                         .layout = PackedWeight::Layout::kRows},
                                        Tensor(m, DType::kBF16, 4, 24)}};
    LinearArgs args{.problems = list};
    change(args, list[0]);
    return refuse_linear_sm90a(args);
  };
  using ::testing::HasSubstr;
  EXPECT_EQ(reason([](auto&, auto&) {}), "");
  EXPECT_EQ(refuse_linear_sm90a({}), "");
  EXPECT_THAT(reason([](auto& args, auto&) { args.accumulator = gemm::kTensorCores; }), HasSubstr("accumulator"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.a.codes.dtype = DType::kE5M2; }), HasSubstr("A holds F8_E5M2"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.a.group = ScaledTensor::Group::kColumn; }), HasSubstr("of 128 of a row"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.a.scales.cols = 1; }), HasSubstr("need F32 scales [4, 2]"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.a.codes.stride = 168; }), HasSubstr("168 bytes apart"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.a.codes.data = static_cast<uint8_t*>(p.a.codes.data) + 8; }),
              HasSubstr("A's codes"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.b.dtype = DType::kBF16; }), HasSubstr("B holds BF16"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.b.layout = PackedWeight::Layout::kPanels; }), HasSubstr("panels"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.b.scale = nullptr; }), HasSubstr("no scales"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.b.k = 150; }), HasSubstr("multiple of 16"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.c.cols = 23; }), HasSubstr("into [4, 23]"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.c.dtype = DType::kF64; }), HasSubstr("C holds F64"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.c.stride = 28; }), HasSubstr("56 bytes apart"));
  EXPECT_THAT(reason([](auto&, auto& p) { p.c.data = static_cast<uint8_t*>(p.c.data) + 4; }), HasSubstr("C is not aligned"));
}

}  // namespace
}  // namespace rorqual
