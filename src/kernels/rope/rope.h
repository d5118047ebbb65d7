// Rotary position embedding in place, from a table of cosines and sines (model/rope_table makes it, with YaRN: spec 1.4).
#pragma once

#include <cstdint>

#include "kernels/common/registry.h"
#include "tensor/tensor.h"

namespace rorqual {

struct RopeArgs {
  Tensor x;                           // [rows, …] F32, BF16 or F64; rotated in place (computed in FP32, double for F64)
  int64_t heads = 1;                  // vectors per row
  int64_t head_stride = 0;            // elements between them
  int64_t offset = 0;                 // of the rotated part within a head
  int64_t dim = 0;                    // even
  Tensor table;                       // [positions, dim] F32 (F64): cos_0 … cos_{dim/2-1}, sin_0 … sin_{dim/2-1}
  const int32_t* position = nullptr;  // [rows], each < table.rows
  bool interleaved = true;            // pairs (2i, 2i+1), DeepSeek's; false: pairs (i, i + dim/2), LLaMA's
  bool inverse = false;               // rotate back: the gradient
};
void rope(const RopeArgs& args, const Stream& stream);
std::span<const KernelRow<RopeArgs>> rope_kernels();

}  // namespace rorqual
