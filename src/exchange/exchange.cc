#include "exchange/exchange.h"

#include "kernels/elementwise/elementwise.h"
#include "kernels/quantise/quantise.h"

namespace rorqual {

void dispatch_rows(const DispatchPlan& plan, const ScaledTensor& x, const ScaledTensor& out, const Stream& stream) {
  CHECK(out.rows() == plan.rows && x.rows() == plan.tokens && x.dtype() == out.dtype());
  gather_rows({x.codes, plan.source_token.data(), out.codes}, stream);
  if (!x.is_plain()) gather_rows({x.scales, plan.source_token.data(), out.scales}, stream);
}

void quantise_and_dispatch_rows(const DispatchPlan& plan, const Tensor& x, const Quantiser& quantiser, const ScaledTensor& own,
                                const ScaledTensor& out, const Stream& stream) {
  CHECK(out.rows() == plan.rows && x.rows == plan.tokens);
  // Padding belongs to no token.
  if (plan.rows > plan.tokens * plan.top_k) {
    quantise({x, own, quantiser}, stream);
    return dispatch_rows(plan, own, out, stream);
  }
  quantise_dispatch({x, plan.row_of_choice.data(), plan.top_k, out, own, quantiser}, stream);
}

void combine_rows(const DispatchPlan& plan, const Tensor& x, DType payload, const Tensor& base, const Tensor& y,
                  const Stream& stream) {
  CHECK(x.rows == plan.rows && y.rows == plan.tokens);
  combine_rows({x, plan.row_of_choice.data(), plan.node_of_choice.data(), plan.top_k, payload, base, y}, stream);
}

void dispatch_scalars(const DispatchPlan& plan, const Tensor& choice, const Tensor& row, const Stream& stream) {
  gather_rows({choice, plan.source_choice.data(), row}, stream);
}

void return_scalars(const DispatchPlan& plan, const Tensor& row, const Tensor& choice, const Stream& stream) {
  gather_rows({row, plan.row_of_choice.data(), choice}, stream);
}

}  // namespace rorqual
