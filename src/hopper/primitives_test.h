// Kernels of one primitive each, for primitives_test.cc: what the emulator takes hardware for, and the hardware itself.
#pragma once

#include <cstdint>

#include "hopper/tensor_map.h"

namespace rorqual::hopper::primitives {

// The box at (row, column) of matrix `depth` as it lies in shared memory, and back through `to` at the same place.
void load_and_store_box(const TensorMap& from, const TensorMap& to, int column, int row, int depth, int box_bytes,
                        uint8_t* raw);
// to[box] += 1 + 2 + … as many times as there are launches with values of a block.
void add_box(const TensorMap& to, const float* values, int count, int column, int row);

// D [64, n] F32 = A·Bᵀ over `k` (of 128 bytes a row per step: 128 E4M3, 64 BF16). n: 16, 64, 96, 128, 192 or 256.
void multiply_e4m3(const TensorMap& a, const TensorMap& b, int n, int k, float* d);
// What is contiguous in shared memory: K, or M and N. A [k, 64], B [k, n] there. a_registers: A through registers (then K).
// n: 64 or 128.
void multiply_bf16(const TensorMap& a, const TensorMap& b, int n, int k, Major a_major, Major b_major, bool a_registers,
                   float* d);

// One warp: 4 matrices of 8×8 16-bit elements [4][8][8] through registers (plain or transposed), and back (likewise).
void matrices(const uint16_t* in, bool load_transposed, bool store_transposed, uint32_t* registers, uint16_t* out);

// Codes of floats and values of codes: in [n] → e4m3 [n], e5m2 [n], bf16 [n]; n even.
void convert(const float* in, int n, uint8_t* e4m3, uint8_t* e5m2, uint16_t* bf16, float* from_e4m3, float* from_e5m2);

// A cluster of two blocks: block 0 loads 1 KiB into both; each block writes what it got; out [2][1024].
void multicast(const TensorMap& from, uint8_t* out);

// Blocks add `index` to out[0] one after another in order: out[0] = out[0]·2 + index.
void in_order(int blocks, int* counter, int* out);

// out[i] = in[i] by copy_16, zero where i ≥ valid; n words, a multiple of 4.
void small_copies(const uint32_t* in, int n, int valid, uint32_t* out);

// One warp: of each 32 of the n values, the largest and the smallest as every lane sees them; out [n/32][2][32].
void extremes(const uint32_t* in, int n, uint32_t* out);

}  // namespace rorqual::hopper::primitives
