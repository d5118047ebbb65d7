// Passes over memory that belong to no operation of their own: copies with conversion, sums, squared norms, gathers for
// dispatch and combine.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/registry.h"
#include "tensor/tensor.h"

namespace rorqual {

// y = x, or y += x, rounded to y's type; x and y [rows, cols], any float types and row strides.
struct ConvertArgs {
  Tensor x, y;
  bool accumulate = false;
};
void convert(const ConvertArgs& args, const Stream& stream);
std::span<const KernelRow<ConvertArgs>> convert_kernels();

// y[i] = x[source[i]] for i in [0, y.rows); source < 0: the row of y is left as it is. Converts between F64,
// F32 and BF16; rows of any other type of whole bytes (codes, for one) are copied.
struct GatherRowsArgs {
  Tensor x;
  const int32_t* source = nullptr;  // [y.rows]
  Tensor y;
};
void gather_rows(const GatherRowsArgs& args, const Stream& stream);
std::span<const KernelRow<GatherRowsArgs>> gather_rows_kernels();

// Combine (design, idea 5): y[t] (+)= base[t] + Σ_nodes round_to_payload( Σ_{j in node} x[row[t, j]] ), j ascending within a
// node, nodes ascending, sums in FP32 (double for F64). row holds top_k rows of x per token in ascending expert order; node
// gives the logical node of each.
struct CombineRowsArgs {
  Tensor x;                       // [rows, d] F32, BF16 or F64
  const int32_t* row = nullptr;   // [tokens, top_k] row of x
  const int32_t* node = nullptr;  // [tokens, top_k] logical node, ascending
  int64_t top_k = 0;
  DType payload = DType::kF32;  // a node's sum is rounded to this type
  Tensor base;                  // [tokens, d] added first, in the compute type; or absent
  Tensor y;                     // [tokens, d] F32, BF16 or F64; may be base
};
void combine_rows(const CombineRowsArgs& args, const Stream& stream);
std::span<const KernelRow<CombineRowsArgs>> combine_rows_kernels();

// Σ x² over a contiguous F32 or F64 tensor: blocks of 4096 elements, 16 lanes inside a block (lane i sums elements i, i+16, …),
// lanes and then blocks added pairwise in a fixed tree, in double.
double squared_norm(const Tensor& x, const Stream& stream);

// x *= factor, F32 or F64, contiguous.
void scale(const Tensor& x, double factor, const Stream& stream);

// a += b, contiguous, same F32 or F64 type.
void add_into(const Tensor& a, const Tensor& b, const Stream& stream);

// ema = decay·ema + (1 − decay)·x, F32 or F64; the caller may run it beside other work on a stream of its own.
void ema_update(const Tensor& ema, const Tensor& x, double decay, const Stream& stream);

}  // namespace rorqual
