// SwiGLU on Hopper against the double-precision definition; with codes: the bits of decoding, the plain kernel, and quantising,
// each by itself.
#include "kernels/swiglu/sm90a.h"

#include "kernels/common/sm90a_for_tests.h"
#include "kernels/quantise/quantise.h"

namespace rorqual {
namespace {

using testing::beyond_bounds;
using testing::difference;
using testing::Mirrored;
using testing::MirroredCodes;
using testing::one_thread;
using SwiGluSm90a = hopper::HopperTest;

// Parts of a strip, whole ones, several; d_weight in one block and by blocks of several rows.
constexpr int64_t kWidths[] = {8, 16, 40, 128, 136, 512, 520, 640, 1536, 4736};
const Stream kDevice = Stream::on_device();

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}
// The error of rounding a number of this size to `dtype`: relative, and half the distance between denormals.
double rounding(DType dtype, double value) {
  return dtype == DType::kBF16 ? 0x1p-8 * std::abs(value) + 0x1p-134 : 0x1p-24 * std::abs(value) + 0x1p-150;
}

// Normal numbers, and in every row a few gates where exp under- or overflows.
double gate_or_up(int64_t r, int64_t c, int64_t width) {
  constexpr double kSpecial[] = {0.0, -0.0, 100.0, -100.0, 88.5, -88.5, -86.0, 1e20, -1e20, 1e-40};
  if (c < width && (c + r) % 11 == 3) return kSpecial[static_cast<size_t>((c / 11 + r) % 10)];
  return 3 * random_normal({.seed = static_cast<uint64_t>(width)}, static_cast<uint64_t>(r * 16384 + c));
}

// gate_up: plain, or codes whose values `plain` holds.
struct Source {
  Mirrored plain;
  MirroredCodes codes;
  bool coded;
  Source(DType type, int64_t rows, int64_t width)
      : plain(type == DType::kE4M3 ? DType::kF32 : type, rows, 2 * width),
        codes(DType::kE4M3, rows, 2 * width),
        coded(type == DType::kE4M3) {
    if (!coded) {
      plain.fill([&](int64_t r, int64_t c) { return gate_or_up(r, c, width); });
      return;
    }
    plain.fill_normal(3, 2.0);
    quantise({.x = plain.host(), .y = codes.host()}, one_thread());
    dequantise({.x = codes.host(), .y = plain.host()}, one_thread());
    plain.upload();
    codes.codes.upload();
    codes.scales.upload();
  }
  ScaledTensor device() const { return coded ? codes.device() : ScaledTensor(plain.device()); }
};

std::string check_codes(const Mirrored& values, MirroredCodes& found, const Quantiser& quantiser) {
  MirroredCodes expected(found.codes.host().dtype, found.codes.rows(), found.codes.cols());
  quantise({.x = values.host(), .y = expected.host(), .quantiser = quantiser}, one_thread());
  found.download();
  return difference(expected, found);
}

// ---- Forward

struct Forward {
  Source gate_up;
  Mirrored weight, h;
  bool weighted;
  Forward(DType x_type, DType h_type, int64_t rows, int64_t width, bool with_weight)
      : gate_up(x_type, rows, width), weight(DType::kF32, 1, rows), h(h_type, rows, width), weighted(with_weight) {
    weight.fill_normal(5);
  }
  SwiGluForwardArgs args() const {
    return {.gate_up = gate_up.device(), .weight = weighted ? weight.device() : Tensor(), .h = h.device()};
  }
  void run(const SwiGluForwardArgs& a) {
    EXPECT_EQ(refuse_swiglu_forward_sm90a(a), "");
    swiglu_forward_sm90a(a, kDevice);
    h.download();
  }
};

// The sigmoid errs by 8 units of 2^-24 (and a denormal one by 2 of the smallest number), three products by one each.
std::string check(const Forward& f) {
  const int64_t width = f.h.cols();
  return beyond_bounds(f.h, [&](int64_t r, int64_t c) {
    const double gate = f.gate_up.plain.at(r, c);
    const double rest = f.gate_up.plain.at(r, width + c) * (f.weighted ? f.weight.at(0, r) : 1);
    const double h = gate * sigmoid(gate) * rest;
    return std::pair{h, 12 * 0x1p-24 * std::abs(h) + 3 * 0x1p-149 * (1 + std::abs(gate)) * (1 + std::abs(rest)) +
                            rounding(f.h.host().dtype, h)};
  });
}

TEST_F(SwiGluSm90a, ForwardAgreesWithTheDefinition) {
  for (const DType x : {DType::kF32, DType::kBF16, DType::kE4M3})
    for (const DType h : {DType::kF32, DType::kBF16})
      for (const int64_t width : kWidths) {
        Forward f(x, h, width % 3 + 3, width, width % 16 == 0);
        f.run(f.args());
        ASSERT_EQ(check(f), "") << dtype_name(x) << " to " << dtype_name(h) << ", width " << width;
      }
}

TEST_F(SwiGluSm90a, TheCheckSeesAZeroedElementAndAForgottenWeight) {
  Forward f(DType::kBF16, DType::kF32, 4, 40, true);
  SwiGluForwardArgs args = f.args();
  args.weight = {};
  f.run(args);
  EXPECT_NE(check(f), "");
  f.run(f.args());
  EXPECT_EQ(check(f), "");
  f.h.host().row<float>(3)[39] = 0;
  EXPECT_NE(check(f), "");
}

TEST_F(SwiGluSm90a, ForwardQuantisesAsItsParts) {
  for (const DType x : {DType::kF32, DType::kBF16, DType::kE4M3})
    for (const int64_t width : kWidths) {
      const Quantiser quantiser{.rule = width % 5 == 0 ? ScaleRule::kFp32 : ScaleRule::kPow2};
      Forward plain(x, DType::kF32, 3, width, true);
      plain.run(plain.args());
      const bool cached = x != DType::kE4M3 && width % 128 == 0;
      MirroredCodes h(DType::kE4M3, 3, width), cache(DType::kE4M3, 3, 2 * width);
      SwiGluForwardArgs args = plain.args();
      args.h = h.device();
      args.quantiser = args.cache_quantiser = quantiser;
      if (cached) args.cache = cache.device();
      ASSERT_EQ(refuse_swiglu_forward_sm90a(args), "");
      swiglu_forward_sm90a(args, kDevice);
      SCOPED_TRACE(fmt::format("{}, width {}", dtype_name(x), width));
      EXPECT_EQ(check_codes(plain.h, h, quantiser), "");
      if (cached) {
        EXPECT_EQ(check_codes(plain.gate_up.plain, cache, quantiser), "");
      }
    }
}

// Plain h beside a cache.
TEST_F(SwiGluSm90a, ForwardCachesBesidePlainOutput) {
  Forward f(DType::kBF16, DType::kBF16, 5, 256, true);
  MirroredCodes cache(DType::kE4M3, 5, 512);
  SwiGluForwardArgs args = f.args();
  args.cache = cache.device();
  f.run(args);
  EXPECT_EQ(check(f), "");
  EXPECT_EQ(check_codes(f.gate_up.plain, cache, {}), "");
}

// ---- Backward

struct Backward {
  Source gate_up;
  Mirrored weight, d_h, d_gate_up, d_weight;
  bool weighted;
  Backward(DType x_type, DType dh_type, DType dx_type, int64_t rows, int64_t width, bool with_weight)
      : gate_up(x_type, rows, width),
        weight(DType::kF32, 1, rows),
        d_h(dh_type, rows, width),
        d_gate_up(dx_type, rows, 2 * width),
        d_weight(DType::kF32, 1, rows),
        weighted(with_weight) {
    weight.fill_normal(6);
    d_h.fill_normal(7);
  }
  SwiGluBackwardArgs args() const {
    return {.gate_up = gate_up.device(),
            .weight = weighted ? weight.device() : Tensor(),
            .d_h = d_h.device(),
            .d_gate_up = d_gate_up.device(),
            .d_weight = weighted ? d_weight.device() : Tensor()};
  }
  void run(const SwiGluBackwardArgs& a) {
    EXPECT_EQ(refuse_swiglu_backward_sm90a(a), "");
    swiglu_backward_sm90a(a, kDevice);
    d_gate_up.download();
    d_weight.download();
  }
};

// Sigmoids err by 8 units; slope = s·(1 + gate·(1 − s)) by 8 + 8 + 3 of the sum of magnitudes; products by one each. d_weight:
// the terms' 10, a lane's 16 sums, the tree's 5, and the strips.
std::string check(const Backward& b) {
  const int64_t width = b.d_h.cols();
  struct Terms {
    double gate, up, d, weighted, s, rest, tiny;
  };
  const auto terms = [&](int64_t r, int64_t c) {
    const double gate = b.gate_up.plain.at(r, c), up = b.gate_up.plain.at(r, width + c), d = b.d_h.at(r, c);
    const double weighted = d * (b.weighted ? b.weight.at(0, r) : 1);
    const double tiny = 4 * 0x1p-149 * (1 + std::abs(gate)) * (1 + std::abs(up)) * (1 + std::abs(d)) * (1 + std::abs(weighted));
    return Terms{gate, up, d, weighted, sigmoid(gate), sigmoid(-gate), tiny};
  };
  const DType out = b.d_gate_up.host().dtype;
  const std::string problem = beyond_bounds(b.d_gate_up, [&](int64_t r, int64_t c) {
    const Terms t = terms(r, c % width);
    if (c >= width) {
      const double d_up = t.weighted * t.gate * t.s;
      return std::pair{d_up, 12 * 0x1p-24 * std::abs(d_up) + t.tiny + rounding(out, d_up)};
    }
    const double d_gate = t.weighted * t.up * t.s * (1 + t.gate * t.rest);
    return std::pair{d_gate, 24 * 0x1p-24 * std::abs(t.weighted * t.up) * t.s * (1 + std::abs(t.gate) * t.rest) +
                                 t.tiny * (1 + std::abs(t.gate)) + rounding(out, d_gate)};
  });
  if (!problem.empty() || !b.weighted) return problem;
  const std::string sums = beyond_bounds(b.d_weight, [&](int64_t, int64_t r) {
    double d_weight = 0, magnitude = 0, least = 0;
    for (int64_t c = 0; c < width; ++c) {
      const Terms t = terms(r, c);
      d_weight += t.d * t.gate * t.s * t.up;
      magnitude += std::abs(t.d * t.gate * t.s * t.up);
      least += t.tiny;
    }
    return std::pair{d_weight, (12 + 16 + 5 + static_cast<double>(width) / 512 + 1) * 0x1p-24 * magnitude + least};
  });
  return sums.empty() ? "" : "d_weight " + sums;
}

TEST_F(SwiGluSm90a, BackwardAgreesWithTheDefinition) {
  for (const DType x : {DType::kF32, DType::kBF16, DType::kE4M3})
    for (int types = 0; types < 4; ++types)
      for (const int64_t width : kWidths) {
        constexpr DType kTypes[] = {DType::kF32, DType::kBF16};
        Backward b(x, kTypes[types & 1], kTypes[types >> 1], width > 1000 ? 2 : 11, width, width % 3 != types % 3);
        b.run(b.args());
        ASSERT_EQ(check(b), "") << dtype_name(x) << ", types " << types << ", width " << width;
      }
}

TEST_F(SwiGluSm90a, TheCheckSeesSwappedHalvesAndAWrongWeightGradient) {
  Backward b(DType::kF32, DType::kF32, DType::kF32, 4, 40, true);
  b.run(b.args());
  ASSERT_EQ(check(b), "");
  std::swap(b.d_gate_up.host().row<float>(2)[7], b.d_gate_up.host().row<float>(2)[47]);
  EXPECT_NE(check(b), "");
  b.run(b.args());
  const double gate = b.gate_up.plain.at(3, 39);  // the last column left out of the sum
  b.d_weight.host().row<float>(0)[3] -= static_cast<float>(b.d_h.at(3, 39) * gate * sigmoid(gate) * b.gate_up.plain.at(3, 79));
  EXPECT_NE(check(b), "");
}

TEST_F(SwiGluSm90a, BackwardMayWriteInPlace) {
  for (const DType type : {DType::kF32, DType::kBF16})
    for (const int64_t width : {16, 640}) {
      Backward apart(type, DType::kBF16, type, 3, width, true), together(apart);
      apart.run(apart.args());
      SwiGluBackwardArgs args = together.args();
      args.d_gate_up = args.gate_up;
      together.run(args);
      together.gate_up.plain.download();
      EXPECT_EQ(difference(apart.d_gate_up, together.gate_up.plain), "");
      EXPECT_EQ(difference(apart.d_weight, together.d_weight), "");
    }
}

TEST_F(SwiGluSm90a, BackwardQuantisesAsItsParts) {
  for (const DType x : {DType::kF32, DType::kBF16, DType::kE4M3})
    for (const DType code : {DType::kE4M3, DType::kE5M2})
      for (const int64_t width : {128, 640, 1536}) {
        const Quantiser quantiser{.rule = width % 5 == 0 ? ScaleRule::kFp32 : ScaleRule::kPow2};
        Backward plain(x, DType::kBF16, DType::kF32, 3, width, true), coded(plain);
        plain.run(plain.args());
        MirroredCodes d_gate_up(code, 3, 2 * width);
        SwiGluBackwardArgs args = coded.args();
        args.d_gate_up = d_gate_up.device();
        args.quantiser = quantiser;
        coded.run(args);
        SCOPED_TRACE(fmt::format("{} to {}, width {}", dtype_name(x), dtype_name(code), width));
        EXPECT_EQ(check_codes(plain.d_gate_up, d_gate_up, quantiser), "");
        EXPECT_EQ(difference(plain.d_weight, coded.d_weight), "");
      }
}

TEST_F(SwiGluSm90a, ARowDependsOnItselfAlone) {
  Backward all(DType::kBF16, DType::kBF16, DType::kF32, 9, 1032, true);
  all.run(all.args());
  for (const int64_t r : {0, 4, 8}) {
    Backward one(all);
    SwiGluBackwardArgs args = one.args();
    args.gate_up = args.gate_up.row_range(r, 1);
    args.weight = args.weight.col_range(r, 1);
    args.d_h = args.d_h.row_range(r, 1);
    args.d_gate_up = args.d_gate_up.row_range(r, 1);
    args.d_weight = args.d_weight.col_range(r, 1);
    one.run(args);
    EXPECT_EQ(one.d_weight.at(0, r), all.d_weight.at(0, r));
    for (int64_t c = 0; c < 2 * 1032; ++c) ASSERT_EQ(one.d_gate_up.at(r, c), all.d_gate_up.at(r, c)) << r << ", " << c;
  }
}

TEST_F(SwiGluSm90a, NotANumberGoesThrough) {
  Backward b(DType::kF32, DType::kF32, DType::kF32, 2, 256, true);
  b.gate_up.plain.fill([](int64_t r, int64_t c) { return r == 0 && c == 130 ? std::nan("") : 1.0; });
  MirroredCodes h(DType::kE4M3, 2, 256);
  swiglu_forward_sm90a({.gate_up = b.gate_up.device(), .weight = {}, .h = h.device()}, kDevice);
  h.download();
  const float* scales = h.scales.host().row<float>(0);
  EXPECT_TRUE(!std::isnan(scales[0]) && std::isnan(scales[1]));
  b.run(b.args());
  EXPECT_TRUE(std::isnan(b.d_weight.at(0, 0)) && std::isnan(b.d_gate_up.at(0, 130)) && std::isnan(b.d_gate_up.at(0, 386)));
  EXPECT_FALSE(std::isnan(b.d_weight.at(0, 1)) || std::isnan(b.d_gate_up.at(0, 131)));
}

TEST_F(SwiGluSm90a, TakesNoRows) {
  const Tensor none(nullptr, DType::kBF16, 0, 16), half(nullptr, DType::kBF16, 0, 8);
  swiglu_forward_sm90a({.gate_up = none, .weight = {}, .h = half}, kDevice);
  swiglu_backward_sm90a({.gate_up = none, .weight = {}, .d_h = half, .d_gate_up = none, .d_weight = {}}, kDevice);
}

TEST_F(SwiGluSm90a, RefusesWhatItCannotDo) {
  const Forward f(DType::kBF16, DType::kBF16, 2, 128, false);
  const MirroredCodes h(DType::kE4M3, 2, 128), cache(DType::kE4M3, 2, 256), wide(DType::kE5M2, 2, 128);
  QuantiseStatistics statistics;
  const auto why = [&](auto change) {
    SwiGluForwardArgs args = f.args();
    change(args);
    return refuse_swiglu_forward_sm90a(args);
  };
  EXPECT_EQ(why([](auto&) {}), "");
  EXPECT_NE(why([](auto& a) { a.gate_up.codes.dtype = DType::kF64; }), "");
  EXPECT_NE(why([](auto& a) { a.gate_up.codes.stride += 1; }), "");
  EXPECT_NE(why([](auto& a) { a.h.codes.cols = 12; }), "");
  EXPECT_NE(why([&](auto& a) { a.h = wide.device(); }), "");
  const auto coded = [&](SwiGluForwardArgs& a) { a.h = h.device(); };
  EXPECT_EQ(why([&](auto& a) { coded(a); }), "");
  EXPECT_NE(why([&](auto& a) {
              coded(a);
              a.quantiser.granularity = Granularity::kBlock;
            }),
            "");
  EXPECT_NE(why([&](auto& a) {
              coded(a);
              a.quantiser.statistics = &statistics;
            }),
            "");
  EXPECT_EQ(why([&](auto& a) { a.cache = cache.device(); }), "");
  EXPECT_NE(why([&](auto& a) {
              a.cache = cache.device();
              a.h.codes.cols = 64;  // groups of gate_up would hold both
            }),
            "");
  const Backward b(DType::kBF16, DType::kBF16, DType::kBF16, 2, 128, false);
  EXPECT_EQ(refuse_swiglu_backward_sm90a(b.args()), "");
  SwiGluBackwardArgs args = b.args();
  args.d_h.dtype = DType::kF64;
  EXPECT_NE(refuse_swiglu_backward_sm90a(args), "");
  args = b.args();
  args.d_gate_up = cache.device();
  EXPECT_EQ(refuse_swiglu_backward_sm90a(args), "");
  args.d_h.cols = 64;
  EXPECT_NE(refuse_swiglu_backward_sm90a(args), "");
}

}  // namespace
}  // namespace rorqual
