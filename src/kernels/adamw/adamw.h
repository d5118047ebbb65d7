// AdamW with decoupled weight decay (Loshchilov & Hutter 2019), FP32 master weights and gradients, moments FP32 or BF16 (report
// §3.3.3).
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/registry.h"
#include "tensor/scaled_tensor.h"

namespace rorqual {

// w -= lr·decay·w; m = β1·m + (1−β1)·g·scale; v = β2·v + (1−β2)·(g·scale)²; w -= lr · (m/(1−β1^t)) / (sqrt(v/(1−β2^t)) + eps).
// BF16 moments are read, updated in FP32, used in FP32 for this step's w, and stored rounded to nearest even.
struct AdamWTensor {
  Tensor w, g;  // [1, count] F32 (F64)
  Tensor m, v;  // [1, count] F32, BF16 (F64)
  double decay = 0;
  // On GPUs alone, either or both or none: the new w, a matrix [n, k], as E4M3 in blocks of 128×128, the codes and scales of
  // pack_weights. copy: codes [n, k], scales [ceil(n/128), ceil(k/128)]; copy_transposed: codes [k, n], scales [ceil(k/128),
  // ceil(n/128)].
  ScaledTensor copy = {}, copy_transposed = {};
  Quantiser quantiser = {};
};
struct AdamWArgs {
  std::span<const AdamWTensor> tensors;
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double grad_scale = 1;  // gradient clipping
  int64_t step = 1;       // t, from 1
};
void adamw(const AdamWArgs& args, const Stream& stream);
std::span<const KernelRow<AdamWArgs>> adamw_kernels();

}  // namespace rorqual
