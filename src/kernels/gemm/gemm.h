// Matrix products. Two operations carry every linear layer, dense or grouped by expert:
//   linear            C = A · Bᵀ           forward (B = weight) and input gradient (B = weight transposed while packing)
//   weight_gradient   C += Aᵀ · B          A = output gradient, B = layer input, both [tokens, ...]
// Each takes a list of problems, so that the experts of a layer are one call and share the threads; a dense layer is a list of
// one.
//
// Types: float (operands F32, out F32), bf16 (operands BF16, out BF16 or F32; products exact, sums in FP32), double (all F64),
// FP8 (E4M3 weights; E4M3 or E5M2 activations and gradients with scales per group of 128; out BF16 or F32). Products of codes
// are exact in FP32.
//   power-of-two scales   fold into the operands exactly: an element is one FP32 sum, as for bf16 (AMX takes operands and sums
//                         below 2^-126 for zero, so there E5M2 codes with scales below 2^-110; numerics/scale.h)
//   FP32 scales           per 128 of K the codes' products are summed from zero, times (scale of a · scale of b), then added
// Order of sums: a row of C depends on that row of A, on B and on K alone; never on M, the tile, the thread or the other
// problems. Each kernel documents its order over K. The result is rounded once to the type of C.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/registry.h"
#include "numerics/accumulator.h"
#include "tensor/scaled_tensor.h"

namespace rorqual {

// A weight matrix W laid out once per optimizer step for all kernels of its type: panels of 16 output channels.
//   F32, F64: element (n, k) at  panel(n/16) + (k·16 + n%16)
//   BF16:     element (n, k) at  panel(n/16) + ((k/2)·16 + n%16)·2 + k%2        (pairs along k, as tdpbf16ps and vdpbf16ps
//   read)
//   E4M3:     element (n, k) at  panel(n/16) + k/4·64 + (n%16)/4·16 + (k%4)/2·8 + (n%4)·2 + k%2   (so that interleaving the low
//   and high bytes of 64 bf16 gives two vectors of pairs)
// A panel holds 16 · round_up(k, 2) elements (E4M3: round_up(k, 4)); missing rows and steps beyond k are zero.
// In device memory a weight has no panels: Layout::kRows, element (n, k) at n·k_count + k.
struct PackedWeight {
  enum class Layout { kPanels, kRows };
  void* data = nullptr;  // 64-byte aligned
  DType dtype = DType::kF32;
  int64_t n = 0;           // output channels
  int64_t k = 0;           // input channels
  float* scale = nullptr;  // E4M3: [ceil(n/128), ceil(k/128)]
  Layout layout = Layout::kPanels;

  static int64_t bytes(DType dtype, int64_t n, int64_t k) {
    const int64_t step = dtype == DType::kE4M3 ? 4 : 2;
    return (n + 15) / 16 * 16 * ((k + step - 1) / step * step) * size_of(dtype);
  }
  static int64_t scale_count(int64_t n, int64_t k) { return scale_groups(n) * scale_groups(k); }
  explicit operator bool() const { return data != nullptr; }
};

// packed(n, k) = source(n, k) and transposed(k, n) = source(n, k), the input gradient's weight; one of them may be absent.
// Source F32 or F64 (the master weight) or BF16, [n, k], rounded to the packed dtype, or for E4M3 quantised in blocks of
// 128×128 (ragged at the edges), whose codes and scales both copies share. The quantiser is for E4M3 only.
struct PackWeightArgs {
  Tensor source;
  PackedWeight packed;
  PackedWeight transposed;
  Quantiser quantiser;
};
// A list: all weights of a model in one call.
void pack_weights(std::span<const PackWeightArgs> list, const Stream& stream);

struct LinearProblem {
  ScaledTensor a;  // [m, k], any row stride; m may be 0
  PackedWeight b;  // n × k, a's dtype; E4M3 for E4M3 and E5M2
  Tensor c;        // [m, n], any row stride; F32 or BF16 for BF16 and FP8 operands, else the operands' dtype
  // On a GPU: how many rows count, in device memory (decoding, where only the device knows); the rows of c beyond are
  // undefined. Null: all.
  const int32_t* rows_in_use = nullptr;
};
struct LinearArgs {
  std::span<const LinearProblem> problems;  // all of the same dtypes
  bool accumulate = false;                  // C += instead of C = (C read in its own dtype, added in the compute type)
  ScaleRule scales = ScaleRule::kPow2;      // of all FP8 operands; kFp32 if any of them is
  Accumulator accumulator = {};             // other than FP32: FP8 operands, the reference alone
};
void linear(const LinearArgs& args, const Stream& stream);
std::span<const KernelRow<LinearArgs>> linear_kernels();

struct WeightGradientProblem {
  ScaledTensor a;  // [m, n] output gradient; m may be 0: then C is unchanged. FP8: Group::kColumn
  ScaledTensor b;  // [m, k] layer input. FP8: E4M3, Group::kColumn
  Tensor c;        // [n, k] gradient, F32 (F64 for double operands), contiguous; always accumulated into
};
struct WeightGradientArgs {
  std::span<const WeightGradientProblem> problems;
  ScaleRule scales = ScaleRule::kPow2;
  Accumulator accumulator = {};
};
// The sum over m is formed in the compute type from zero, in ascending blocks that divide the 128 rows of FP8's scales
// (documented per kernel), then added to C once.
void weight_gradient(const WeightGradientArgs& args, const Stream& stream);
std::span<const KernelRow<WeightGradientArgs>> weight_gradient_kernels();

}  // namespace rorqual
