// What kernels for Hopper ask of tensors that they read and write in pieces of several bytes.
#pragma once

#include "tensor/tensor.h"

namespace rorqual {

// Every row begins at a multiple of `bytes`.
inline bool rows_are_aligned(const Tensor& x, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(x.data) % static_cast<uintptr_t>(bytes) == 0 &&
         (x.rows <= 1 || bytes_of(x.dtype, x.stride) % bytes == 0);
}
inline bool is_f32_or_bf16(const Tensor& x) {
  return x.dtype == DType::kF32 || x.dtype == DType::kBF16;
}

}  // namespace rorqual
