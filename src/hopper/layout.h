// Where things lie: shared memory under TMA's swizzle, operands of wgmma, fragments of its results. Pure functions, used by
// device code, the emulator and the tests alike. Source: PTX ISA 8.x, "asynchronous warpgroup level matrix" and "tensor copy".
#pragma once

#include <cstdint>

#include "hopper/types.h"

namespace rorqual::hopper {

// TMA's 128-byte swizzle: byte `address` of shared memory (tiles begin at multiples of 1024) holds what lies at `address` in
// the plain tile of 128-byte rows; the 16-byte chunk's number is xored with the row's, modulo 8. Its own inverse.
HOPPER_BOTH constexpr uint32_t swizzle_128(uint32_t address) {
  return address ^ ((address >> 3) & 0x70u);
}

// The byte of element (row, byte) in a tile of 128-byte rows, swizzled.
HOPPER_BOTH constexpr uint32_t swizzled_offset(uint32_t row, uint32_t byte) {
  return swizzle_128(row * 128u + byte);
}

// A matrix descriptor of wgmma for operands under the 128-byte swizzle. `address`: of shared memory, 16-byte aligned.
//   kK    rows of 128 bytes along K; 8 rows are 1024 bytes; stride: bytes from 8 rows (of M or N) to the next 8, 1024 if the
//   tile
//         is no wider than 128 bytes. `leading` is unused. A step along K adds its bytes to the address.
//   kMN   rows of 128 bytes along M or N (64 bf16), one per k; stride: bytes from 8 k to the next 8 (1024); leading: bytes from
//   64
//         elements of M or N to the next 64. A step of 16 along K adds 2·stride to the address. BF16 only.
struct MatrixDescriptor {
  uint64_t bits;
};
HOPPER_BOTH constexpr MatrixDescriptor matrix_descriptor(uint32_t address, uint32_t stride, uint32_t leading = 16) {
  constexpr uint64_t kSwizzle128 = 1;
  return {static_cast<uint64_t>((address & 0x3ffffu) >> 4) | static_cast<uint64_t>((leading & 0x3ffffu) >> 4) << 16 |
          static_cast<uint64_t>((stride & 0x3ffffu) >> 4) << 32 | kSwizzle128 << 62};
}
// The same operand `bytes` further (a step along K, or another tile). Stays within 256 KiB.
HOPPER_BOTH constexpr MatrixDescriptor advance(MatrixDescriptor d, uint32_t bytes) {
  return {d.bits + (bytes >> 4)};
}

// A result D [64, n] of wgmma in the registers of a warpgroup: register i of thread t (0..127) holds this element. Registers of
// 32 bits that hold A [64, 16] of BF16 follow the same rule, a pair of elements each.
HOPPER_BOTH constexpr int fragment_row(int thread, int i) {
  return thread / 32 * 16 + thread % 32 / 4 + i % 4 / 2 * 8;
}
HOPPER_BOTH constexpr int fragment_column(int thread, int i) {
  return i / 4 * 8 + thread % 4 * 2 + i % 2;
}

}  // namespace rorqual::hopper
