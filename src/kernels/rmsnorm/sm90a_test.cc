// RMSNorm on Hopper against the double-precision truth of the same inputs; quantised rows against the scalar quantiser on the
// kernel's own FP32 values, bit for bit.
#include "kernels/rmsnorm/sm90a.h"

#include "kernels/common/sm90a_for_tests.h"
#include "kernels/quantise/quantise.h"

namespace rorqual {
namespace {

using namespace testing;  // NOLINT

using RmsNormSm90a = hopper::HopperTest;

constexpr double kEps = 1e-6, kUnit = 0x1p-24;
constexpr DType kTypes[] = {DType::kF32, DType::kBF16};
// Roundings in the longest chain of a row's sum: 32 values of a lane, 5 exchanges, 15 warps; and the product before it.
constexpr double kSumRoundings = 53;
// Of r: half of the sum's (a root halves a relative error), mean, eps, root, quotient.
constexpr double kInverseRoundings = kSumRoundings / 2 + 4;

double unit(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : kUnit;
}

std::vector<int64_t> widths() {
  std::vector<int64_t> all = {1, 3, 7, 8, 100, 128, 511, 512, 520, 1536, 4096, 4100, 7168, 16384};
  if (!hopper::is_emulated()) all.push_back(12345);
  return all;
}

double inverse_rms(const Mirrored& x, int64_t r) {
  double squares = 0;
  for (int64_t i = 0; i < x.cols(); ++i) squares += x.at(r, i) * x.at(r, i);
  return 1 / std::sqrt(squares / static_cast<double>(x.cols()) + kEps);
}

template <class Truth, class Bound>
std::string check(const Mirrored& actual, const Truth& truth, const Bound& bound) {
  return beyond_bounds(actual, [&](int64_t r, int64_t c) { return std::pair{truth(r, c), bound(r, c)}; });
}

// ---- forward

TEST_F(RmsNormSm90a, ForwardAgreesWithTheDefinition) {
  for (const DType x_type : kTypes)
    for (const DType y_type : kTypes)
      for (const int64_t d : widths()) {
        Mirrored x(x_type, 3, d), w(DType::kF32, 1, d), y(y_type, 3, d), plain(DType::kBF16, 3, d);
        x.fill_normal(1, 3);
        w.fill_normal(2);
        rmsnorm_forward_sm90a({.x = x.device(), .w = w.device(), .y = y.device(), .eps = kEps, .y_plain = plain.device()},
                              Stream::on_device());
        y.download();
        plain.download();
        std::vector<double> r;
        for (int64_t t = 0; t < 3; ++t) r.push_back(inverse_rms(x, t));
        const auto truth = [&](int64_t t, int64_t c) { return x.at(t, c) * r[static_cast<size_t>(t)] * w.at(0, c); };
        const auto bound = [&](DType type) {
          return [&, type](int64_t t, int64_t c) {
            return ((kInverseRoundings + 2) * kUnit + unit(type)) * std::abs(truth(t, c));
          };
        };
        ASSERT_EQ(check(y, truth, bound(y_type)), "") << dtype_name(x_type) << " to " << dtype_name(y_type);
        ASSERT_EQ(check(plain, truth, bound(DType::kBF16)), "") << dtype_name(x_type);
      }
}

TEST_F(RmsNormSm90a, QuantisesItsOwnValues) {
  const ScopedIsa isa(Isa::kReference);
  for (const DType x_type : kTypes)
    for (const ScaleRule rule : kRules)
      for (const int64_t d : widths()) {
        const bool with_plain = d % 2 == 0;
        Mirrored x(x_type, 3, d), w(DType::kF32, 1, d), values(DType::kF32, 3, d), plain(DType::kBF16, 3, d);
        x.fill([](int64_t r, int64_t c) { return r == 1 && c == 90 ? NAN : awkward_value(7, r, c % 100, false); });
        w.fill_normal(8);
        MirroredCodes expected(DType::kE4M3, 3, d), actual = expected;
        RmsNormForwardArgs args{.x = x.device(), .w = w.device(), .y = values.device(), .eps = kEps};
        rmsnorm_forward_sm90a(args, Stream::on_device());
        args.y = actual.device();
        args.quantiser.rule = rule;
        if (with_plain) args.y_plain = plain.device();
        rmsnorm_forward_sm90a(args, Stream::on_device());
        values.download();
        plain.download();
        actual.download();
        quantise({.x = values.host(), .y = expected.host(), .quantiser = {.rule = rule}}, one_thread());
        ASSERT_EQ(difference(expected, actual), "") << dtype_name(x_type) << ", d " << d;
        for (int64_t r = 0; with_plain && r < 3; ++r)
          for (int64_t c = 0; c < d; ++c) {
            const auto rounded = static_cast<double>(Bf16(values.at(r, c)));
            ASSERT_TRUE(plain.at(r, c) == rounded || (std::isnan(plain.at(r, c)) && std::isnan(rounded))) << r << ", " << c;
          }
      }
}

// ---- gradient of x

TEST_F(RmsNormSm90a, InputGradientAgreesWithTheDefinition) {
  for (const DType x_type : kTypes)
    for (const DType d_y_type : kTypes)
      for (const bool accumulate : {false, true})
        for (const int64_t d : widths()) {
          const DType d_x_type = (d + (accumulate ? 1 : 0)) % 2 == 0 ? DType::kF32 : DType::kBF16;
          Mirrored x(x_type, 2, d), w(DType::kF32, 1, d), d_y(d_y_type, 2, d), d_x(d_x_type, 2, d);
          x.fill_normal(3, 2);
          w.fill_normal(4);
          d_y.fill_normal(5);
          if (accumulate) d_x.fill_normal(6);
          const Mirrored before = d_x;
          rmsnorm_input_gradient_sm90a({.x = x.device(),
                                        .w = w.device(),
                                        .d_y = d_y.device(),
                                        .d_x = d_x.device(),
                                        .accumulate = accumulate,
                                        .eps = kEps},
                                       Stream::on_device());
          d_x.download();
          double r[2], pull[2], pull_error[2];
          for (int64_t t = 0; t < 2; ++t) {
            double dot = 0, magnitude = 0;
            for (int64_t c = 0; c < d; ++c) {
              dot += x.at(t, c) * w.at(0, c) * d_y.at(t, c);
              magnitude += std::abs(x.at(t, c) * w.at(0, c) * d_y.at(t, c));
            }
            r[t] = inverse_rms(x, t);
            pull[t] = r[t] * r[t] * dot / static_cast<double>(d);
            pull_error[t] =
                r[t] * r[t] * magnitude / static_cast<double>(d) * (kSumRoundings + 2 * kInverseRoundings + 5) * kUnit;
          }
          const auto old = [&](int64_t t, int64_t c) { return accumulate ? before.at(t, c) : 0.0; };
          const auto truth = [&](int64_t t, int64_t c) {
            return old(t, c) + r[t] * (w.at(0, c) * d_y.at(t, c) - x.at(t, c) * pull[t]);
          };
          const auto bound = [&](int64_t t, int64_t c) {
            const double terms = r[t] * (std::abs(w.at(0, c) * d_y.at(t, c)) + std::abs(x.at(t, c) * pull[t]));
            return terms * (kInverseRoundings + 4) * kUnit + r[t] * std::abs(x.at(t, c)) * pull_error[t] +
                   std::abs(truth(t, c)) * (kUnit + unit(d_x_type) * 1.01);
          };
          ASSERT_EQ(check(d_x, truth, bound), "") << dtype_name(x_type) << ", d_y " << dtype_name(d_y_type) << ", d " << d;
        }
}

// ---- gradient of w

struct WeightGradient {
  Mirrored x, d_y, d_w;
  hopper::DeviceBuffer scratch;
  WeightGradient(DType x_type, DType d_y_type, int64_t rows, int64_t d, int64_t gap = 16)
      : x(x_type, rows, d, gap),
        d_y(d_y_type, rows, d, gap + 32),
        d_w(DType::kF32, 1, d),
        scratch(static_cast<size_t>(rmsnorm_weight_gradient_sm90a_scratch(rows, d)) * 4) {
    x.fill_normal(9, 2);
    d_y.fill_normal(10);
    d_w.fill_normal(11);
  }
  RmsNormWeightGradientArgs args() const {
    const int64_t count = rmsnorm_weight_gradient_sm90a_scratch(x.rows(), x.cols());
    return {.x = x.device(),
            .d_y = d_y.device(),
            .d_w = d_w.device(),
            .eps = kEps,
            .scratch = Tensor(scratch.data(), DType::kF32, 1, count)};
  }
};

TEST_F(RmsNormSm90a, WeightGradientAgreesWithTheDefinition) {
  std::vector<std::pair<int64_t, int64_t>> shapes = {{1, 1}, {3, 130}, {127, 20}, {128, 1030}, {129, 64}, {300, 24}, {2, 4100}};
  if (!hopper::is_emulated()) shapes.push_back({300, 7168});
  for (const DType x_type : kTypes)
    for (const DType d_y_type : kTypes)
      for (const auto& [rows, d] : shapes) {
        WeightGradient g(x_type, d_y_type, rows, d);
        const Mirrored before = g.d_w;
        rmsnorm_weight_gradient_sm90a(g.args(), Stream::on_device());
        g.d_w.download();
        std::vector<double> truth(static_cast<size_t>(d)), magnitude(truth);
        for (int64_t t = 0; t < rows; ++t) {
          const double r = inverse_rms(g.x, t);
          for (int64_t c = 0; c < d; ++c) {
            const double term = g.d_y.at(t, c) * g.x.at(t, c) * r;
            truth[static_cast<size_t>(c)] += term;
            magnitude[static_cast<size_t>(c)] += std::abs(term);
          }
        }
        const double blocks = std::ceil(static_cast<double>(rows) / 128);
        const double roundings = kInverseRoundings + 2 + std::min<double>(128, static_cast<double>(rows)) + blocks;
        const auto at = [&](const std::vector<double>& v, int64_t c) { return v[static_cast<size_t>(c)]; };
        ASSERT_EQ(check(
                      g.d_w, [&](int64_t, int64_t c) { return before.at(0, c) + at(truth, c); },
                      [&](int64_t, int64_t c) {
                        return (at(magnitude, c) * roundings + std::abs(before.at(0, c)) * blocks) * kUnit * 1.01;
                      }),
                  "")
            << rows << " rows, x " << dtype_name(x_type) << ", d_y " << dtype_name(d_y_type);
      }
}

// The order of sums is that of rmsnorm.h: blocks of 128 rows from zero, added in order. Rows with x = ±1 have r = 1 to within
// rounding that is the same for all, so that the scalar kernel's sums are those of the GPU.
TEST_F(RmsNormSm90a, WeightGradientAddsBlocksInOrder) {
  const ScopedIsa isa(Isa::kReference);
  const int64_t rows = 300, d = 16;  // a power of two: squares and their mean are exact
  WeightGradient g(DType::kF32, DType::kF32, rows, d);
  g.x.fill([](int64_t r, int64_t c) { return (r * 7 + c * 3) % 5 < 2 ? -1.0 : 1.0; });
  Mirrored expected = g.d_w;
  RmsNormWeightGradientArgs args{.x = g.x.host(), .d_y = g.d_y.host(), .d_w = expected.host(), .eps = kEps};
  rmsnorm_weight_gradient(args, one_thread());
  rmsnorm_weight_gradient_sm90a(g.args(), Stream::on_device());
  g.d_w.download();
  EXPECT_EQ(difference(expected, g.d_w), "");
}

TEST_F(RmsNormSm90a, WeightGradientDoesNotDependOnWhereRowsLie) {
  WeightGradient a(DType::kBF16, DType::kBF16, 200, 520), b(DType::kBF16, DType::kBF16, 200, 520, 64);
  rmsnorm_weight_gradient_sm90a(a.args(), Stream::on_device());
  rmsnorm_weight_gradient_sm90a(b.args(), Stream::on_device());
  a.d_w.download();
  b.d_w.download();
  EXPECT_EQ(difference(a.d_w, b.d_w), "");
}

// ---- a row alone

TEST_F(RmsNormSm90a, ARowDependsOnItselfAlone) {
  const int64_t d = 4100;
  Mirrored x(DType::kBF16, 3, d), w(DType::kF32, 1, d), all(DType::kF32, 3, d), one(DType::kF32, 1, d);
  x.fill_normal(12);
  w.fill_normal(13);
  rmsnorm_forward_sm90a({.x = x.device(), .w = w.device(), .y = all.device(), .eps = kEps}, Stream::on_device());
  rmsnorm_forward_sm90a({.x = x.device().row_range(2, 1), .w = w.device(), .y = one.device(), .eps = kEps},
                        Stream::on_device());
  all.download();
  one.download();
  EXPECT_EQ(std::memcmp(all.host().raw_row(2), one.host().raw_row(0), static_cast<size_t>(4 * d)), 0);
}

TEST_F(RmsNormSm90a, SaysWhatItDoesNotTake) {
  const Mirrored x(DType::kBF16, 2, 256), w(DType::kF32, 1, 256), wide(DType::kBF16, 1, 16385), wide_w(DType::kF32, 1, 16385);
  const MirroredCodes codes(DType::kE4M3, 2, 256), other(DType::kE5M2, 2, 256);
  const RmsNormForwardArgs good{.x = x.device(), .w = w.device(), .y = x.device()};
  const auto refused = [&](auto change) {
    RmsNormForwardArgs args = good;
    change(args);
    return !refuse_rmsnorm_forward_sm90a(args).empty();
  };
  QuantiseStatistics statistics;
  EXPECT_FALSE(refused([](auto&) {}));
  EXPECT_FALSE(refused([&](auto& args) { args.y = codes.device(); }));
  EXPECT_TRUE(refused([&](auto& args) { args.y = other.device(); }));
  EXPECT_TRUE(refused([&](auto& args) { args.y = codes.device(), args.quantiser.statistics = &statistics; }));
  EXPECT_TRUE(refused([&](auto& args) { args.y = codes.device(), args.quantiser.granularity = Granularity::kTensor; }));
  EXPECT_TRUE(refused([&](auto& args) { args.x.dtype = DType::kF64; }));
  EXPECT_TRUE(refused([&](auto& args) { args.x = args.x.col_range(1, 255); }));
  EXPECT_TRUE(refused([&](auto& args) { args.y_plain = args.x.col_range(1, 255); }));
  EXPECT_TRUE(refused([&](auto& args) { args = {.x = wide.device(), .w = wide_w.device(), .y = wide.device()}; }));

  RmsNormInputGradientArgs gradient{.x = x.device(), .w = w.device(), .d_y = x.device(), .d_x = x.device()};
  EXPECT_EQ(refuse_rmsnorm_input_gradient_sm90a(gradient), "");
  gradient.d_y.stride = 257;
  EXPECT_NE(refuse_rmsnorm_input_gradient_sm90a(gradient), "");

  const WeightGradient g(DType::kF32, DType::kF32, 130, 16);
  RmsNormWeightGradientArgs args = g.args();
  EXPECT_EQ(refuse_rmsnorm_weight_gradient_sm90a(args), "");
  args.scratch.cols -= 1;
  EXPECT_NE(refuse_rmsnorm_weight_gradient_sm90a(args), "");
  args.scratch = {};
  EXPECT_NE(refuse_rmsnorm_weight_gradient_sm90a(args), "");
}

}  // namespace
}  // namespace rorqual
