// What this CPU can do, and which instruction set kernels may use.
#pragma once

#include <string>
#include <string_view>

namespace rorqual {

// Ordered: each contains those before it.
enum class Isa { kReference = 0, kAvx2 = 1, kAvx512 = 2, kAmx = 3 };

std::string_view isa_name(Isa isa);  // "reference", "avx2", "avx512", "amx"

// The best instruction set of this CPU and operating system. kAvx512 asks for F, BW, DQ, VL, VBMI and BF16; kAmx for
// AMX-TILE and AMX-BF16 on top, granted by the kernel (arch_prctl).
Isa cpu_isa();

// cpu_isa(), or what RORQUAL_ISA forces. An unknown name, or one that this CPU lacks, is an Error (usage).
Isa allowed_isa();

// For tests: overrides allowed_isa() until destroyed. Not thread-safe.
class ScopedIsa {
 public:
  explicit ScopedIsa(Isa isa);
  ~ScopedIsa();
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;

 private:
  int previous_;
};

std::string cpu_model();

}  // namespace rorqual
