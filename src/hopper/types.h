// What device code and its launchers share. Sources with device code (*.cu) are compiled twice: by nvcc for sm_90a, and by the
// C++ compiler against the emulator (hopper/emulator), which runs them in the tests of machines without a GPU. So they name no
// CUDA keyword and include no header of the CUDA toolkit; everything they use stands in hopper/device.h and hopper/launch.h.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define HOPPER_DEVICE __device__ __forceinline__
#define HOPPER_BOTH __host__ __device__ __forceinline__
// void HOPPER_KERNEL(threads) name(HOPPER_PARAMETER TensorMap map, …): one block per multiprocessor may use all registers.
#define HOPPER_KERNEL(threads) __global__ __launch_bounds__(threads, 1)
#define HOPPER_KERNEL_BLOCKS(threads, blocks) __global__ __launch_bounds__(threads, blocks)
#define HOPPER_PARAMETER const __grid_constant__
#define HOPPER_UNROLL _Pragma("unroll")
#define HOPPER_NO_UNROLL _Pragma("unroll 1")
#else
#define HOPPER_DEVICE inline
#define HOPPER_BOTH inline
#define HOPPER_KERNEL(threads)
#define HOPPER_KERNEL_BLOCKS(threads, blocks)
#define HOPPER_PARAMETER const
#define HOPPER_UNROLL
#define HOPPER_NO_UNROLL
#endif

namespace rorqual::hopper {

// 16, 8 and 4 × 4 bytes moved by one instruction.
struct alignas(16) Words4 {
  uint32_t w[4];
};
struct alignas(8) Words2 {
  uint32_t w[2];
};
struct alignas(16) Float4 {
  float v[4];
};
struct alignas(8) Float2 {
  float v[2];
};

// Shared memory that one block may use on sm_90.
inline constexpr int kMostSharedBytes = 227 * 1024;
inline constexpr int kWarp = 32, kWarpgroup = 128;

// Memory in tiles for the copy engine (TMA): made by make_tensor_map (hopper/tensor_map.h), passed to kernels as a
// HOPPER_PARAMETER. The bytes are CUtensorMap's, or the emulator's own.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// A barrier of shared memory (mbarrier): counts arrivals and bytes on their way; a phase ends when both are met.
struct Barrier {
  uint64_t word;
};

// The majorness of a wgmma operand in shared memory: which of its two indices is contiguous.
enum class Major { kK = 0, kMN = 1 };

}  // namespace rorqual::hopper
