#include "base/cpu.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace rorqual {
namespace {

constexpr int kNone = -1;
std::atomic<int> forced{kNone};

uint64_t enabled_state() {
  uint32_t low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

bool amx_granted() {
#ifdef __linux__
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Isa detect() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA)) return Isa::kReference;
  const uint64_t state = enabled_state();
  if ((state & 0x6) != 0x6) return Isa::kReference;
  uint32_t a7 = 0, b7 = 0, c7 = 0, d7 = 0;
  if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7) || !(b7 & bit_AVX2) || !(b7 & bit_BMI2)) return Isa::kReference;
  const uint32_t wide = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  uint32_t a71 = 0, b71 = 0, c71 = 0, d71 = 0;
  __get_cpuid_count(7, 1, &a71, &b71, &c71, &d71);
  const bool avx512 = (b7 & wide) == wide && (c7 & bit_AVX512VBMI) && (a71 & bit_AVX512BF16) && (state & 0xe0) == 0xe0;
  if (!avx512) return Isa::kAvx2;
  const bool amx = (d7 & (1u << 24)) && (d7 & (1u << 22)) && (state & 0x60000) == 0x60000;
  return amx && amx_granted() ? Isa::kAmx : Isa::kAvx512;
}

Isa from_environment() {
  const char* name = std::getenv("RORQUAL_ISA");
  if (!name || !*name) return cpu_isa();
  for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (isa_name(isa) != name) continue;
    if (isa > cpu_isa())
      fail_usage("RORQUAL_ISA={} is not possible here: this CPU's best instruction set is {}", name, isa_name(cpu_isa()));
    return isa;
  }
  fail_usage("RORQUAL_ISA is '{}': it takes amx, avx512, avx2 or reference", name);
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kReference:
      return "reference";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
  }
  CHECK(false);
}

Isa cpu_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa allowed_isa() {
  const int now = forced.load(std::memory_order_relaxed);
  if (now != kNone) return static_cast<Isa>(now);
  static const Isa isa = from_environment();
  return isa;
}

ScopedIsa::ScopedIsa(Isa isa) : previous_(forced.exchange(static_cast<int>(isa))) {
  CHECK(isa <= cpu_isa(), "this CPU lacks {}", isa_name(isa));
}

ScopedIsa::~ScopedIsa() {
  forced = previous_;
}

std::string cpu_model() {
  char name[49] = {};
  uint32_t r[4] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    if (!__get_cpuid(0x80000002u + i, &r[0], &r[1], &r[2], &r[3])) return "unknown";
    std::memcpy(name + 16 * i, r, 16);
  }
  return name;
}

}  // namespace rorqual
