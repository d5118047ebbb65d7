// RMSNorm: y = w · x · r, r = 1 / sqrt(mean(x²) + eps), each row alone (spec 1.2).
#pragma once

#include "kernels/common/registry.h"
#include "tensor/scaled_tensor.h"

namespace rorqual {

struct RmsNormForwardArgs {
  Tensor x;        // [rows, d] F32, BF16 or F64, any row stride
  Tensor w;        // [1, d] F32 (F64 for double)
  ScaledTensor y;  // [rows, d] F32, BF16 or F64, any row stride; or E4M3, quantised from the FP32 values
  double eps = 0;
  Tensor y_plain = {};  // [rows, d] F32, BF16 or F64: the same values without codes; or absent
  Quantiser quantiser = {};
};
void rmsnorm_forward(const RmsNormForwardArgs& args, const Stream& stream);
std::span<const KernelRow<RmsNormForwardArgs>> rmsnorm_forward_kernels();

// dx_i = r · (w_i·dy_i − x_i · r² · mean_j(x_j·w_j·dy_j)) ; r is computed again from x.
struct RmsNormInputGradientArgs {
  Tensor x, w;
  Tensor d_y;               // [rows, d]
  Tensor d_x;               // [rows, d] any float type
  bool accumulate = false;  // d_x += instead of d_x =
  double eps = 0;
};
void rmsnorm_input_gradient(const RmsNormInputGradientArgs& args, const Stream& stream);
std::span<const KernelRow<RmsNormInputGradientArgs>> rmsnorm_input_gradient_kernels();

// dw_i += Σ_rows dy_i · x_i · r, in blocks of 128 rows ascending, each block summed from zero, blocks added in order.
struct RmsNormWeightGradientArgs {
  Tensor x, d_y;
  Tensor d_w;  // [1, d] F32 (F64), accumulated into
  double eps = 0;
  Tensor scratch = {};  // of a GPU: F32, one row of rmsnorm_weight_gradient_sm90a_scratch(rows, d)
};
void rmsnorm_weight_gradient(const RmsNormWeightGradientArgs& args, const Stream& stream);
std::span<const KernelRow<RmsNormWeightGradientArgs>> rmsnorm_weight_gradient_kernels();

}  // namespace rorqual
