// SwiGLU: h = silu(gate) · up · weight, row by row (spec 1.2, 1.5). `weight` is the routing weight of a row: it multiplies in
// the compute type before h is rounded, so that combine is an unweighted sum (design, idea 5).
#pragma once

#include "kernels/common/registry.h"
#include "tensor/tensor.h"

namespace rorqual {

struct SwiGluForwardArgs {
  Tensor gate_up;  // [rows, 2·width]: gate, then up; F32, BF16 or F64
  Tensor weight;   // [1, rows] F32 (F64), or absent: 1
  Tensor h;        // [rows, width]
};
void swiglu_forward(const SwiGluForwardArgs& args, const Stream& stream);
std::span<const KernelRow<SwiGluForwardArgs>> swiglu_forward_kernels();

struct SwiGluBackwardArgs {
  Tensor gate_up, weight;
  Tensor d_h;        // [rows, width]
  Tensor d_gate_up;  // [rows, 2·width]; may be gate_up itself
  Tensor d_weight;   // [1, rows] F32 (F64): Σ_i d_h_i · silu(gate_i) · up_i; absent if weight is
};
void swiglu_backward(const SwiGluBackwardArgs& args, const Stream& stream);
std::span<const KernelRow<SwiGluBackwardArgs>> swiglu_backward_kernels();

}  // namespace rorqual
