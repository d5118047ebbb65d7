// The tensor cores: D [64, n] (+)= A [64, k] · B [n, k]ᵀ by a warpgroup, asynchronously. k = 32 for E4M3, 16 for BF16.
//
//   wgmma_fence();                  // before the first product that touches registers written since, by this thread
//   wgmma_e4m3<n>(d, a, b, false);  // D = A·Bᵀ;  true: D += A·Bᵀ
//   wgmma_commit();
//   wgmma_wait<0>();  keep(d);      // D is there; keep stops the compiler from reading D earlier
//
// Registers of D (and of A) belong to the product until the wait.
#pragma once

#include "hopper/layout.h"
#include "hopper/ptx/thread.h"

namespace rorqual::hopper {

HOPPER_DEVICE void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
HOPPER_DEVICE void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until all but the newest kPending groups are done.
template <int kPending>
HOPPER_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
template <int kCount>
HOPPER_DEVICE void keep(float (&d)[kCount]) {
  HOPPER_UNROLL
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int kCount>
HOPPER_DEVICE void keep(uint32_t (&a)[kCount]) {
  HOPPER_UNROLL
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

namespace ptx {

template <int kN>
struct Wgmma;

// Registers of D as text and as operands, by how many and from which.
#define RORQUAL_D4(i) "+f"(d[(i) + 0]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define RORQUAL_D8(i)                                                                                         \
  "+f"(d[(i) + 0]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3]), "+f"(d[(i) + 4]), "+f"(d[(i) + 5]), \
      "+f"(d[(i) + 6]), "+f"(d[(i) + 7])
#define RORQUAL_D16(i)                                                                                              \
  "+f"(d[(i) + 0]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3]), "+f"(d[(i) + 4]), "+f"(d[(i) + 5]),       \
      "+f"(d[(i) + 6]), "+f"(d[(i) + 7]), "+f"(d[(i) + 8]), "+f"(d[(i) + 9]), "+f"(d[(i) + 10]), "+f"(d[(i) + 11]), \
      "+f"(d[(i) + 12]), "+f"(d[(i) + 13]), "+f"(d[(i) + 14]), "+f"(d[(i) + 15])
#define RORQUAL_T4_0 "%0, %1, %2, %3"
#define RORQUAL_T4_8 "%8, %9, %10, %11"
#define RORQUAL_T4_16 "%16, %17, %18, %19"
#define RORQUAL_T4_24 "%24, %25, %26, %27"
#define RORQUAL_T4_32 "%32, %33, %34, %35"
#define RORQUAL_T4_40 "%40, %41, %42, %43"
#define RORQUAL_T4_48 "%48, %49, %50, %51"
#define RORQUAL_T4_56 "%56, %57, %58, %59"
#define RORQUAL_T4_64 "%64, %65, %66, %67"
#define RORQUAL_T4_72 "%72, %73, %74, %75"
#define RORQUAL_T4_80 "%80, %81, %82, %83"
#define RORQUAL_T4_88 "%88, %89, %90, %91"
#define RORQUAL_T4_96 "%96, %97, %98, %99"
#define RORQUAL_T4_104 "%104, %105, %106, %107"
#define RORQUAL_T4_112 "%112, %113, %114, %115"
#define RORQUAL_T4_120 "%120, %121, %122, %123"
#define RORQUAL_T8_0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define RORQUAL_T8_16 "%16, %17, %18, %19, %20, %21, %22, %23"
#define RORQUAL_T8_32 "%32, %33, %34, %35, %36, %37, %38, %39"
#define RORQUAL_T8_48 "%48, %49, %50, %51, %52, %53, %54, %55"
#define RORQUAL_T8_64 "%64, %65, %66, %67, %68, %69, %70, %71"
#define RORQUAL_T8_80 "%80, %81, %82, %83, %84, %85, %86, %87"
#define RORQUAL_T8_96 "%96, %97, %98, %99, %100, %101, %102, %103"
#define RORQUAL_T8_112 "%112, %113, %114, %115, %116, %117, %118, %119"
#define RORQUAL_T16_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define RORQUAL_T16_16 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define RORQUAL_T16_32 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define RORQUAL_T16_48 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define RORQUAL_T16_64 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define RORQUAL_T16_80 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define RORQUAL_T16_96 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define RORQUAL_T16_112 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define RORQUAL_LIST(...) __VA_ARGS__
// p: whether to add; then A's and B's operands and their numbers.
#define RORQUAL_WGMMA(n, text, d_operands, n0, n1, n2, n3, n4, n5, n6)                                                         \
  template <>                                                                                                                  \
  struct Wgmma<n> {                                                                                                            \
    HOPPER_DEVICE static void e4m3(float (&d)[n / 2], uint64_t a, uint64_t b, int add) {                                       \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #n2                                                                    \
                   ", 0;\n"                                                                                                    \
                   "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" text "}, %" #n0 ", %" #n1 ", p, 1, 1;\n}"      \
                   : d_operands                                                                                                \
                   : "l"(a), "l"(b), "r"(add));                                                                                \
    }                                                                                                                          \
    template <int kTransposeA, int kTransposeB>                                                                                \
    HOPPER_DEVICE static void bf16(float (&d)[n / 2], uint64_t a, uint64_t b, int add) {                                       \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #n2                                                                    \
                   ", 0;\n"                                                                                                    \
                   "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" text "}, %" #n0 ", %" #n1 ", p, 1, 1, %" #n3   \
                   ", %" #n4 ";\n}"                                                                                            \
                   : d_operands                                                                                                \
                   : "l"(a), "l"(b), "r"(add), "n"(kTransposeA), "n"(kTransposeB));                                            \
    }                                                                                                                          \
    template <int kTransposeB>                                                                                                 \
    HOPPER_DEVICE static void bf16_registers(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, int add) {                 \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #n5                                                                    \
                   ", 0;\n"                                                                                                    \
                   "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" text "}, {%" #n0 ", %" #n1 ", %" #n2 ", %" #n3 \
                   "}, %" #n4 ", p, 1, 1, %" #n6 ";\n}"                                                                        \
                   : d_operands                                                                                                \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(kTransposeB));                          \
    }                                                                                                                          \
  };
#include "hopper/ptx/wgmma_widths.inc"
#undef RORQUAL_WGMMA

}  // namespace ptx

// Both operands in shared memory, K contiguous.
template <int kN>
HOPPER_DEVICE void wgmma_e4m3(float (&d)[kN / 2], MatrixDescriptor a, MatrixDescriptor b, bool add) {
  ptx::Wgmma<kN>::e4m3(d, a.bits, b.bits, add);
}
template <int kN, Major kA = Major::kK, Major kB = Major::kK>
HOPPER_DEVICE void wgmma_bf16(float (&d)[kN / 2], MatrixDescriptor a, MatrixDescriptor b, bool add) {
  ptx::Wgmma<kN>::template bf16<static_cast<int>(kA), static_cast<int>(kB)>(d, a.bits, b.bits, add);
}
// A [64, 16] in registers, in the order of fragment_row and fragment_column with a pair of elements each.
template <int kN, Major kB = Major::kK>
HOPPER_DEVICE void wgmma_bf16(float (&d)[kN / 2], const uint32_t (&a)[4], MatrixDescriptor b, bool add) {
  ptx::Wgmma<kN>::template bf16_registers<static_cast<int>(kB)>(d, a, b.bits, add);
}

}  // namespace rorqual::hopper
