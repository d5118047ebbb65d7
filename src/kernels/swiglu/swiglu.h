// SwiGLU: h = silu(gate) · up · weight, row by row (spec 1.2, 1.5). `weight` is the routing weight of a row: it multiplies in
// the compute type before h is rounded, so that combine is an unweighted sum (design, idea 5).
#pragma once

#include "kernels/common/registry.h"
#include "tensor/scaled_tensor.h"

namespace rorqual {

struct SwiGluForwardArgs {
  ScaledTensor gate_up;      // [rows, 2·width]: gate, then up; F32, BF16 or F64; or E4M3, the cached form of it
  Tensor weight;             // [1, rows] F32 (F64), or absent: 1
  ScaledTensor h;            // [rows, width] F32, BF16 or F64; or E4M3, quantised from the FP32 values
  Quantiser quantiser = {};  // of h
  ScaledTensor cache = {};   // [rows, 2·width] E4M3: gate_up quantised, for backward (report §3.3.3); or absent
  Quantiser cache_quantiser = {};
};
void swiglu_forward(const SwiGluForwardArgs& args, const Stream& stream);
std::span<const KernelRow<SwiGluForwardArgs>> swiglu_forward_kernels();

struct SwiGluBackwardArgs {
  ScaledTensor gate_up;
  Tensor weight;
  Tensor d_h;                // [rows, width]
  ScaledTensor d_gate_up;    // [rows, 2·width]; may be gate_up itself if both are plain; or E4M3 or E5M2
  Tensor d_weight;           // [1, rows] F32 (F64): Σ_i d_h_i · silu(gate_i) · up_i; absent if weight is
  Quantiser quantiser = {};  // of d_gate_up
};
void swiglu_backward(const SwiGluBackwardArgs& args, const Stream& stream);
std::span<const KernelRow<SwiGluBackwardArgs>> swiglu_backward_kernels();

}  // namespace rorqual
