// Matrix products. Two operations carry every linear layer, dense or grouped by expert:
//   linear            C = A · Bᵀ           forward (B = weight) and input gradient (B = weight transposed while packing)
//   weight_gradient   C += Aᵀ · B          A = output gradient, B = layer input, both [tokens, ...]
// Each takes a list of problems, so that the experts of a layer are one call and share the threads; a dense layer is a list of
// one.
//
// Types: float (operands F32, out F32), bf16 (operands BF16, out BF16 or F32; products exact, sums in FP32), double (all F64).
// Order of sums: a row of C depends on that row of A, on B and on K alone; never on M, the tile, the thread or the other
// problems. Each kernel documents its order over K. The result is rounded once to the type of C.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/registry.h"
#include "tensor/tensor.h"

namespace rorqual {

// A weight matrix W laid out once per optimizer step for all kernels of its type: panels of 16 output channels.
//   F32, F64: element (n, k) at  panel(n/16) + (k·16 + n%16)
//   BF16:     element (n, k) at  panel(n/16) + ((k/2)·16 + n%16)·2 + k%2        (pairs along k, as tdpbf16ps and vdpbf16ps
//   read)
// A panel holds 16 · round_up(k, 2) elements; missing rows and an odd last k are zero.
struct PackedWeight {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t n = 0;  // output channels
  int64_t k = 0;  // input channels

  static int64_t bytes(DType dtype, int64_t n, int64_t k) { return (n + 15) / 16 * 16 * ((k + 1) / 2 * 2) * size_of(dtype); }
};

// packed(n, k) = source(n, k) for Transposed::kNo: source [n, k];
// packed(n, k) = source(k, n) for Transposed::kYes: source [k, n] — the input gradient of a weight [out, in] has n = in, k =
// out. Source F32 or F64 (the master weight) or BF16, rounded to packed.dtype. `packed.data` 64-byte aligned.
enum class Transposed { kNo, kYes };
struct PackWeightArgs {
  Tensor source;
  Transposed transposed = Transposed::kNo;
  PackedWeight packed;
};
// A list: all weights of a model in one call.
void pack_weights(std::span<const PackWeightArgs> list, const Stream& stream);

struct LinearProblem {
  Tensor a;        // [m, k], any row stride; m may be 0
  PackedWeight b;  // n × k, a's dtype
  Tensor c;        // [m, n], any row stride; F32 or BF16 for BF16 operands, else the operands' dtype
};
struct LinearArgs {
  std::span<const LinearProblem> problems;  // all of the same dtypes
  bool accumulate = false;                  // C += instead of C = (C read in its own dtype, added in the compute type)
};
void linear(const LinearArgs& args, const Stream& stream);
std::span<const KernelRow<LinearArgs>> linear_kernels();

struct WeightGradientProblem {
  Tensor a;  // [m, n] output gradient; m may be 0: then C is unchanged
  Tensor b;  // [m, k] layer input
  Tensor c;  // [n, k] gradient, F32 (F64 for double operands), contiguous; always accumulated into
};
struct WeightGradientArgs {
  std::span<const WeightGradientProblem> problems;
};
// The sum over m is formed in the compute type from zero, in ascending blocks of 128 rows (documented per kernel), then added
// to C once.
void weight_gradient(const WeightGradientArgs& args, const Stream& stream);
std::span<const KernelRow<WeightGradientArgs>> weight_gradient_kernels();

}  // namespace rorqual
