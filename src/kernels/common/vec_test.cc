// The vector wrappers against the scalar truth, over floats of every exponent.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "kernels/common/probe.h"

namespace rorqual {
namespace {

struct ProbeCase {
  const char* name;
  Isa isa;
  const VecProbe* probe;
};

class Vec : public testing::TestWithParam<ProbeCase> {
 protected:
  void SetUp() override {
    if (cpu_isa() < GetParam().isa) GTEST_SKIP() << "this CPU lacks " << GetParam().name;
  }
};

// One float in 4099 of all bit patterns (4099 is prime: every exponent, low bits of every kind), and the special ones.
std::vector<float> many_floats() {
  std::vector<float> x;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 4099)
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  for (const uint32_t bits : {0u, 0x80000000u, 1u, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7f800001u, 0xffffffffu, 0x7f7fffffu,
                              0x7f7f8000u, 0x7f7f7fffu, 0x00008000u, 0x00018000u, 0x3f808000u, 0x3f818000u, 0x3f808001u})
    x.push_back(std::bit_cast<float>(bits));
  return x;
}

TEST_P(Vec, ExpErrsByAboutOneUlpAtMost) {
  std::vector<float> x = many_floats();
  for (int i = -1050000; i <= 900000; ++i) x.push_back(static_cast<float>(i) * 1e-4f);
  std::vector<float> y(x.size());
  GetParam().probe->exp(x.data(), y.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i])) {
      ASSERT_TRUE(std::isnan(y[i])) << x[i];
      continue;
    }
    const double truth = std::exp(static_cast<double>(x[i]));
    if (static_cast<float>(truth) == std::numeric_limits<float>::infinity()) {
      ASSERT_EQ(y[i], std::numeric_limits<float>::infinity()) << x[i];
      continue;
    }
    // The distance between neighbouring floats at the truth; a denormal is the value of a normal computation rounded again.
    const double ulp = std::ldexp(1.0, std::max(std::ilogb(std::max(truth, 1e-300)) - 23, -149));
    const double allowed = truth < 0x1p-126 ? 1.5 : 1.05;
    ASSERT_LE(std::abs(static_cast<double>(y[i]) - truth), allowed * ulp) << "x = " << x[i] << ", got " << y[i];
  }
  EXPECT_EQ(y[0], 1.0f);
}

// Relative errors, in units of 2^-24: exp 2, of which the sum takes over at most all; sum 1, quotient 1, product 1 and exp's 2
// again: below 8 = 4 · 2^-23.
TEST_P(Vec, SigmoidAndItsComplementAreRelativelyAccurate) {
  std::vector<float> x;
  for (int i = -870000; i <= 870000; ++i) x.push_back(static_cast<float>(i) * 1e-4f);
  std::vector<float> value(x.size()), complement(x.size());
  GetParam().probe->sigmoid(x.data(), value.data(), complement.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = 1 / (1 + std::exp(-static_cast<double>(x[i]))), c = 1 / (1 + std::exp(static_cast<double>(x[i])));
    ASSERT_NEAR(value[i], v, 4 * 0x1p-23 * v) << x[i];
    ASSERT_NEAR(complement[i], c, 4 * 0x1p-23 * c) << x[i];
  }
}

TEST_P(Vec, Bf16RoundingEqualsTheScalarTruth) {
  const std::vector<float> x = many_floats();
  std::vector<Bf16> y(x.size());
  GetParam().probe->narrow(x.data(), y.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i].bits, Bf16(x[i]).bits) << std::hex << std::bit_cast<uint32_t>(x[i]);
}

TEST_P(Vec, WideningEveryBf16IsExact) {
  std::vector<Bf16> x;
  for (uint32_t bits = 0; bits < 65536; ++bits) x.push_back(Bf16::from_bits(static_cast<uint16_t>(bits)));
  std::vector<float> y(x.size());
  GetParam().probe->widen(x.data(), y.data(), static_cast<int64_t>(x.size()));
  for (uint32_t bits = 0; bits < 65536; ++bits) ASSERT_EQ(std::bit_cast<uint32_t>(y[bits]), bits << 16);
}

// A lane's value depends neither on its place nor on the tail, and nothing beyond n is written.
TEST_P(Vec, TailsEqualWholeVectorsAndStayInside) {
  std::vector<float> x(64);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i)) * 20.0f;
  std::vector<float> whole(64);
  GetParam().probe->exp(x.data(), whole.data(), 64);
  for (size_t begin = 0; begin < 17; ++begin)
    for (size_t n = 0; n + begin <= 40; ++n) {
      std::vector<float> part(64, -7.0f), wide(64, -7.0f);
      std::vector<Bf16> narrow(64, Bf16::from_bits(0x1234));
      GetParam().probe->exp(x.data() + begin, part.data() + 3, static_cast<int64_t>(n));
      GetParam().probe->narrow(x.data() + begin, narrow.data() + 3, static_cast<int64_t>(n));
      GetParam().probe->widen(narrow.data() + 3, wide.data() + 5, static_cast<int64_t>(n));
      for (size_t i = 0; i < 64; ++i) {
        const bool in_part = i >= 3 && i < 3 + n, in_wide = i >= 5 && i < 5 + n;
        ASSERT_EQ(part[i], in_part ? whole[begin + i - 3] : -7.0f) << begin << " " << n << " " << i;
        ASSERT_EQ(narrow[i].bits, in_part ? Bf16(x[begin + i - 3]).bits : 0x1234) << begin << " " << n << " " << i;
        ASSERT_EQ(wide[i], in_wide ? static_cast<float>(Bf16(x[begin + i - 5])) : -7.0f) << begin << " " << n << " " << i;
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Isa, Vec,
                         testing::Values(ProbeCase{"avx2", Isa::kAvx2, &kProbeAvx2},
                                         ProbeCase{"avx512", Isa::kAvx512, &kProbeAvx512}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(VecBits, Avx2AndAvx512Agree) {
  if (cpu_isa() < Isa::kAvx512) GTEST_SKIP() << "this CPU lacks avx512";
  const std::vector<float> x = many_floats();
  const int64_t n = static_cast<int64_t>(x.size());
  std::vector<float> a(x.size()), b(x.size()), c(x.size()), d(x.size());
  kProbeAvx2.exp(x.data(), a.data(), n);
  kProbeAvx512.exp(x.data(), b.data(), n);
  for (size_t i = 0; i < x.size(); ++i)
    ASSERT_TRUE(std::isnan(x[i]) || std::bit_cast<uint32_t>(a[i]) == std::bit_cast<uint32_t>(b[i])) << x[i];
  kProbeAvx2.sigmoid(x.data(), a.data(), c.data(), n);
  kProbeAvx512.sigmoid(x.data(), b.data(), d.data(), n);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_TRUE(std::isnan(x[i]) || (a[i] == b[i] && c[i] == d[i])) << x[i];
}

}  // namespace
}  // namespace rorqual
