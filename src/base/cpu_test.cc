#include "base/cpu.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/error.h"

namespace rorqual {
namespace {

constexpr Isa kAll[] = {Isa::kReference, Isa::kAvx2, Isa::kAvx512, Isa::kAmx};

// allowed_isa() reads RORQUAL_ISA once in a process: each value is tried in a process of its own.
[[noreturn]] void exit_with_isa() {
  try {
    std::exit(100 + static_cast<int>(allowed_isa()));
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::exit(error.exit_code());
  }
}

class IsaDeathTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  void TearDown() override { unsetenv("RORQUAL_ISA"); }
};

TEST_F(IsaDeathTest, NamesForceTheirSet) {
  for (const Isa isa : kAll) {
    setenv("RORQUAL_ISA", std::string(isa_name(isa)).c_str(), 1);
    if (isa <= cpu_isa())
      EXPECT_EXIT(exit_with_isa(), ::testing::ExitedWithCode(100 + static_cast<int>(isa)), "");
    else
      EXPECT_EXIT(exit_with_isa(), ::testing::ExitedWithCode(2), "not possible here: this CPU's best instruction set is");
  }
}

TEST_F(IsaDeathTest, UnknownNamesFail) {
  for (const char* name : {"sse9", "AVX2", "avx", "avx512 "}) {
    setenv("RORQUAL_ISA", name, 1);
    EXPECT_EXIT(exit_with_isa(), ::testing::ExitedWithCode(2), "it takes amx, avx512, avx2 or reference");
  }
}

TEST_F(IsaDeathTest, EmptyMeansTheBest) {
  setenv("RORQUAL_ISA", "", 1);
  EXPECT_EXIT(exit_with_isa(), ::testing::ExitedWithCode(100 + static_cast<int>(cpu_isa())), "");
}

TEST(Isa, ScopesNestAndEnd) {
  const Isa outside = allowed_isa();
  {
    const ScopedIsa first(cpu_isa());
    EXPECT_EQ(allowed_isa(), cpu_isa());
    {
      const ScopedIsa second(Isa::kReference);
      EXPECT_EQ(allowed_isa(), Isa::kReference);
    }
    EXPECT_EQ(allowed_isa(), cpu_isa());
  }
  EXPECT_EQ(allowed_isa(), outside);
}

// The compiler's run-time library asks the CPU in its own way.
TEST(Isa, AgreesWithTheCompilersDetection) {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi");
  EXPECT_EQ(cpu_isa() >= Isa::kAvx2, avx2);
  EXPECT_LE(cpu_isa() >= Isa::kAvx512, avx512) << "it asks for more: BF16";
}

TEST(Cpu, HasAModelName) {
  EXPECT_FALSE(cpu_model().empty());
}

}  // namespace
}  // namespace rorqual
