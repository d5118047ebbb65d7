// SwiGLU over one GPU's expert rows of DeepSeek-V3 (width 2048), as shares of the copy bandwidth: bytes read and written once.
#include "kernels/common/sm90a_figure.h"
#include "kernels/swiglu/sm90a.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_pass_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::pass_of;
using ::rorqual::testing::sized;

const int64_t kRows = sized(8192, 64), kWidth = sized(2048, 256);

int64_t bytes_of_codes(int64_t cols) {
  return kRows * cols + 4 * kRows * scale_groups(cols);
}

const bool kRegistered = [] {
  const int64_t weights = 4 * kRows, wide = 2 * kRows * 2 * kWidth, narrow = 2 * kRows * kWidth;
  add_pass_figure("swiglu/BF16", weights + wide + narrow, [](DeviceMemory& memory) {
    return pass_of<SwiGluForwardArgs>(refuse_swiglu_forward_sm90a, swiglu_forward_sm90a,
                                      {.gate_up = memory.random(DType::kBF16, kRows, 2 * kWidth),
                                       .weight = memory.random(DType::kF32, 1, kRows),
                                       .h = memory.blank(DType::kBF16, kRows, kWidth)});
  });
  // As in training: hidden values for the down product, and gate and up kept for backward.
  add_pass_figure("swiglu/BF16_to_E4M3_and_cache", weights + wide + bytes_of_codes(kWidth) + bytes_of_codes(2 * kWidth),
                  [](DeviceMemory& memory) {
                    return pass_of<SwiGluForwardArgs>(refuse_swiglu_forward_sm90a, swiglu_forward_sm90a,
                                                      {.gate_up = memory.random(DType::kBF16, kRows, 2 * kWidth),
                                                       .weight = memory.random(DType::kF32, 1, kRows),
                                                       .h = memory.codes(kRows, kWidth),
                                                       .cache = memory.codes(kRows, 2 * kWidth)});
                  });
  add_pass_figure("swiglu_backward/BF16", 2 * weights + 2 * wide + narrow, [](DeviceMemory& memory) {
    return pass_of<SwiGluBackwardArgs>(refuse_swiglu_backward_sm90a, swiglu_backward_sm90a,
                                       {.gate_up = memory.random(DType::kBF16, kRows, 2 * kWidth),
                                        .weight = memory.random(DType::kF32, 1, kRows),
                                        .d_h = memory.random(DType::kBF16, kRows, kWidth),
                                        .d_gate_up = memory.blank(DType::kBF16, kRows, 2 * kWidth),
                                        .d_weight = memory.blank(DType::kF32, 1, kRows)});
  });
  add_pass_figure("swiglu_backward/cache_to_E4M3", 2 * weights + 2 * bytes_of_codes(2 * kWidth) + narrow,
                  [](DeviceMemory& memory) {
                    return pass_of<SwiGluBackwardArgs>(
                        refuse_swiglu_backward_sm90a, swiglu_backward_sm90a,
                        {.gate_up = memory.codes(kRows, 2 * kWidth, ScaledTensor::Group::kRow, ScaleRule::kPow2),
                         .weight = memory.random(DType::kF32, 1, kRows),
                         .d_h = memory.random(DType::kBF16, kRows, kWidth),
                         .d_gate_up = memory.codes(kRows, 2 * kWidth),
                         .d_weight = memory.blank(DType::kF32, 1, kRows)});
                  });
  return true;
}();

}  // namespace
}  // namespace rorqual
