// Quantising and back (report §3.3.2; spec 2.1, 2.2). The same rows are fused into RMSNorm and SwiGLU.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/registry.h"
#include "tensor/scaled_tensor.h"

namespace rorqual {

// y = codes and scales of x: groups 1×128 along a row (the last one of a row may be shorter), or wider as the quantiser says:
// 128×128 counted from row 0 of the call, or one scale of the whole call.
// x: F32, BF16 or F64 (rounded to FP32 first), [rows, cols], any row stride. y: E4M3, E5M2 or E5M6 with Group::kRow.
// A group with a NaN or an infinity gets a NaN scale and zero codes; the statistics say so, and their amax and scales are those
// of the other groups. The same if the group shares its scale with others (a given amax is not of them). An all-zero group has
// scale 1, or the scale it shares. Saturated is what exceeds largest · scale, or, with FP32 scales, the amax behind the scale.
struct QuantiseArgs {
  Tensor x;
  ScaledTensor y;
  Quantiser quantiser = {};
};
void quantise(const QuantiseArgs& args, const Stream& stream);
std::span<const KernelRow<QuantiseArgs>> quantise_kernels();

// The dispatch permutation of quantised rows, each quantised once (report §3.2.2): the row of token t goes to the rows
// row_of_choice[t, ·] of y, and to its own row if `own` is there. The same bits as quantise and then gather_rows of codes and
// scales. Rows of y that no token names are left as they are; no two choices name one row.
struct QuantiseDispatchArgs {
  Tensor x;                                // [tokens, d]
  const int32_t* row_of_choice = nullptr;  // [tokens, top_k] rows of y; negative: none
  int64_t top_k = 0;
  ScaledTensor y;         // [rows, d]
  ScaledTensor own = {};  // [tokens, d] of y's type, or absent
  Quantiser quantiser = {};
};
void quantise_dispatch(const QuantiseDispatchArgs& args, const Stream& stream);
std::span<const KernelRow<QuantiseDispatchArgs>> quantise_dispatch_kernels();

// y = the values of x, rounded to y's type: F32 (code · scale, exact for power-of-two scales unless denormal) or BF16 (of E5M6
// rounded once more). NaN codes and codes of a NaN scale give NaN.
struct DequantiseArgs {
  ScaledTensor x;
  Tensor y;
};
void dequantise(const DequantiseArgs& args, const Stream& stream);
std::span<const KernelRow<DequantiseArgs>> dequantise_kernels();

// The operand of a weight gradient: x (Group::kRow, or plain) dequantised and quantised again with one scale per 128 tokens of
// a channel. y: E4M3 or E5M2 with Group::kColumn; the first group of a problem begins at its first row. A list, so that the
// segments of experts are one call; problems may be empty. With Granularity::kTensor and x of y's type, codes and scales are
// those of x, and nothing is counted; else one scale of all problems.
struct RequantiseProblem {
  ScaledTensor x;
  ScaledTensor y;
};
struct RequantiseColumnsArgs {
  std::span<const RequantiseProblem> problems;
  Quantiser quantiser = {};
};
void requantise_columns(const RequantiseColumnsArgs& args, const Stream& stream);
std::span<const KernelRow<RequantiseColumnsArgs>> requantise_columns_kernels();

}  // namespace rorqual
