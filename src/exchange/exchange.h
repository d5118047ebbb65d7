// Expert dispatch and combine: runs a dispatch plan. Inside one process it is a permutation; the payload formats are the same
// as between ranks.
#pragma once

#include "base/threads.h"
#include "plan/dispatch.h"
#include "tensor/scaled_tensor.h"

namespace rorqual {

// out[row] = x[token of the row]; x [tokens, d], out [plan.rows, d], of the same type. Forward: the experts' input. Backward:
// combine's gradient. Payload: a row's values; in FP8 its codes, one byte each, and one FP32 scale per 128 of them (a power of
// two unless the recipe says scales = "fp32"; spec 2.1), quantised once by the sender.
void dispatch_rows(const DispatchPlan& plan, const ScaledTensor& x, const ScaledTensor& out, const Stream& stream);

// The same of rows that are not quantised yet: x [tokens, d] plain; each row is read and quantised once, into own [tokens, d]
// and into its rows of out.
void quantise_and_dispatch_rows(const DispatchPlan& plan, const Tensor& x, const Quantiser& quantiser, const ScaledTensor& own,
                                const ScaledTensor& out, const Stream& stream);

// y[token] = base[token] + Σ over logical nodes of the node's sum, rounded to `payload` (design, idea 5). base may be absent,
// or y.
void combine_rows(const DispatchPlan& plan, const Tensor& x, DType payload, const Tensor& base, const Tensor& y,
                  const Stream& stream);

// One scalar per choice, [tokens·top_k, 1], to one per row, [plan.rows, 1], and back.
void dispatch_scalars(const DispatchPlan& plan, const Tensor& choice, const Tensor& row, const Stream& stream);
void return_scalars(const DispatchPlan& plan, const Tensor& row, const Tensor& choice, const Stream& stream);

}  // namespace rorqual
