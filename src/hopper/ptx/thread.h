// Threads and warps, memory, conversions of numbers. Warp operations take all 32 lanes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "hopper/types.h"

namespace rorqual::hopper {

// ---- Who am I

HOPPER_DEVICE int thread_index() {
  return static_cast<int>(threadIdx.x);
}
HOPPER_DEVICE int block_threads() {
  return static_cast<int>(blockDim.x);
}
HOPPER_DEVICE int block_index() {
  return static_cast<int>(blockIdx.x);
}
HOPPER_DEVICE int block_index_y() {
  return static_cast<int>(blockIdx.y);
}
HOPPER_DEVICE int block_count() {
  return static_cast<int>(gridDim.x);
}
HOPPER_DEVICE int lane_index() {
  return static_cast<int>(threadIdx.x % kWarp);
}
// The same value in all lanes, and known to the compiler to be.
template <class T>
HOPPER_DEVICE T uniform(T value) {
  return __shfl_sync(0xffffffffu, value, 0);
}
HOPPER_DEVICE int warp_index() {
  return uniform(static_cast<int>(threadIdx.x / kWarp));
}

// ---- Warps. T: float, int, uint32_t

template <class T>
HOPPER_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
template <class T>
HOPPER_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
// From `delta` lanes below; the first `delta` lanes keep theirs.
template <class T>
HOPPER_DEVICE T shuffle_up(T value, int delta) {
  return __shfl_up_sync(0xffffffffu, value, static_cast<unsigned>(delta));
}
HOPPER_DEVICE uint32_t ballot(bool predicate) {
  return __ballot_sync(0xffffffffu, predicate);
}
// The largest and the smallest of the lanes' values.
HOPPER_DEVICE uint32_t warp_maximum(uint32_t value) {
  return __reduce_max_sync(0xffffffffu, value);
}
HOPPER_DEVICE uint32_t warp_minimum(uint32_t value) {
  return __reduce_min_sync(0xffffffffu, value);
}
HOPPER_DEVICE int count_bits(uint32_t bits) {
  return __popc(bits);
}
HOPPER_DEVICE void sync_warp() {
  __syncwarp();
}
// All threads of the block.
HOPPER_DEVICE void sync_threads() {
  __syncthreads();
}

// ---- Memory

// The block's dynamic shared memory, aligned to 1024 bytes.
HOPPER_DEVICE uint8_t* shared_memory() {
  extern __shared__ __align__(1024) uint8_t hopper_shared_memory[];
  return hopper_shared_memory;
}
// The address that descriptors and instructions take.
HOPPER_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Loads of memory that nobody writes during the kernel. `once`: past the first-level cache, for what is read once.
// T: Words4, Words2, Float4, Float2, uint32_t, uint16_t, uint8_t, int32_t, float.
template <class T>
HOPPER_DEVICE T load(const T* p) {
  if constexpr (sizeof(T) == 16) {
    const uint4 v = __ldg(reinterpret_cast<const uint4*>(p));
    return __builtin_bit_cast(T, v);
  } else if constexpr (sizeof(T) == 8) {
    const uint2 v = __ldg(reinterpret_cast<const uint2*>(p));
    return __builtin_bit_cast(T, v);
  } else {
    return __ldg(p);
  }
}
template <class T>
HOPPER_DEVICE T load_once(const T* p) {
  if constexpr (sizeof(T) == 16) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return __builtin_bit_cast(T, v);
  } else if constexpr (sizeof(T) == 8) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return __builtin_bit_cast(T, v);
  } else {
    return __ldg(p);
  }
}
// A store past the first-level cache, of memory that this kernel does not read again.
template <class T>
HOPPER_DEVICE void store_once(T* p, const T& value) {
  if constexpr (sizeof(T) == 16)
    __stcs(reinterpret_cast<uint4*>(p), __builtin_bit_cast(uint4, value));
  else if constexpr (sizeof(T) == 8)
    __stcs(reinterpret_cast<uint2*>(p), __builtin_bit_cast(uint2, value));
  else
    __stcs(p, value);
}

// 16 bytes from global to shared memory without waiting; zeros if not `valid` (the address is not read then). Groups are
// per thread, as of the copy engine's stores.
HOPPER_DEVICE void copy_16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
HOPPER_DEVICE void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until all but the newest `kPending` groups of this thread have arrived.
template <int kPending>
HOPPER_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8×8 matrices of 16-bit elements. `shared`: lane i gives the address of row i%8 of matrix i/8 (16 bytes, 16-byte
// aligned). Register j holds matrix j: lane l has elements (l/4, 2·(l%4)) and the next; transposed: those of the transpose.
HOPPER_DEVICE void load_matrices(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}
HOPPER_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}
HOPPER_DEVICE void store_matrices(void* shared, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(shared)), "r"(r0),
               "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}
HOPPER_DEVICE void store_matrices_transposed(void* shared, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(shared)), "r"(r0),
               "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

HOPPER_DEVICE float atomic_add(float* p, float value) {
  return atomicAdd(p, value);
}
HOPPER_DEVICE int atomic_add(int* p, int value) {
  return atomicAdd(p, value);
}
HOPPER_DEVICE uint32_t atomic_max(uint32_t* p, uint32_t value) {
  return atomicMax(p, value);
}

// A counter in global memory that orders blocks. wait: until it holds `value`; what the block that brought it there wrote
// before is seen then. Only for blocks that wait for blocks of lower index: those are never started later.
HOPPER_DEVICE void wait_for_count(const int* counter, int value) {
  int now;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
  } while (now != value);
}
HOPPER_DEVICE void set_count(int* counter, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(counter), "r"(value) : "memory");
}

// ---- Numbers. No product is fused with a sum unless written as fma (nvcc: -fmad=false).

HOPPER_DEVICE float bits_to_float(uint32_t bits) {
  return __uint_as_float(bits);
}
HOPPER_DEVICE uint32_t float_to_bits(float x) {
  return __float_as_uint(x);
}
HOPPER_DEVICE float fma(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
HOPPER_DEVICE float divide(float a, float b) {  // rounded to nearest
  return __fdiv_rn(a, b);
}
HOPPER_DEVICE float square_root(float x) {  // rounded to nearest
  return __fsqrt_rn(x);
}
// The larger; the other one if one is NaN.
HOPPER_DEVICE float maximum(float a, float b) {
  return fmaxf(a, b);
}
HOPPER_DEVICE float exp2_fast(float x) {  // 2 ulp; denormal results are zero
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
HOPPER_DEVICE float reciprocal_fast(float x) {  // 1 ulp
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
HOPPER_DEVICE float exponential(float x) {  // 2 ulp (CUDA's expf)
  return expf(x);
}
HOPPER_DEVICE float logarithm(float x) {  // 1 ulp (CUDA's logf)
  return logf(x);
}

// Two values as bf16, round to nearest even, the first in the low half.
HOPPER_DEVICE uint32_t to_bf16x2(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
HOPPER_DEVICE uint16_t to_bf16(float x) {
  return static_cast<uint16_t>(to_bf16x2(x, 0));
}
HOPPER_DEVICE float bf16_low(uint32_t packed) {
  return bits_to_float(packed << 16);
}
HOPPER_DEVICE float bf16_high(uint32_t packed) {
  return bits_to_float(packed & 0xffff0000u);
}
HOPPER_DEVICE float from_bf16(uint16_t bits) {
  return bits_to_float(static_cast<uint32_t>(bits) << 16);
}
// Two codes, the first in the low byte; round to nearest even, saturating. NaN becomes 0x7f.
HOPPER_DEVICE uint16_t to_e4m3x2(float low, float high) {
  uint16_t packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
}
HOPPER_DEVICE uint16_t to_e5m2x2(float low, float high) {
  uint16_t packed;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
}
HOPPER_DEVICE Float2 from_e4m3x2(uint16_t packed) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(packed));
  Float2 out;
  asm("{.reg .f16 l, h;\n mov.b32 {l, h}, %2;\n cvt.f32.f16 %0, l;\n cvt.f32.f16 %1, h;}"
      : "=f"(out.v[0]), "=f"(out.v[1])
      : "r"(halves));
  return out;
}
HOPPER_DEVICE Float2 from_e5m2x2(uint16_t packed) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"(packed));
  Float2 out;
  asm("{.reg .f16 l, h;\n mov.b32 {l, h}, %2;\n cvt.f32.f16 %0, l;\n cvt.f32.f16 %1, h;}"
      : "=f"(out.v[0]), "=f"(out.v[1])
      : "r"(halves));
  return out;
}

}  // namespace rorqual::hopper
