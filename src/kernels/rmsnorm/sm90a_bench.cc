// RMSNorm over DeepSeek-V3's width and 4096 tokens, as shares of the copy bandwidth: bytes read once and written once.
#include "kernels/common/sm90a_figure.h"
#include "kernels/rmsnorm/sm90a.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_pass_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::pass_of;
using ::rorqual::testing::sized;

const int64_t kTokens = sized(4096, 256), kWidth = sized(7168, 512);
const int64_t kBf16Bytes = 2 * kTokens * kWidth, kCodeBytes = kTokens * kWidth + 4 * kTokens * scale_groups(kWidth);
constexpr double kEps = 1e-6;

const bool kRegistered = [] {
  add_pass_figure("rmsnorm/BF16", 2 * kBf16Bytes, [](DeviceMemory& memory) {
    return pass_of<RmsNormForwardArgs>(refuse_rmsnorm_forward_sm90a, rmsnorm_forward_sm90a,
                                       {.x = memory.random(DType::kBF16, kTokens, kWidth),
                                        .w = memory.random(DType::kF32, 1, kWidth),
                                        .y = memory.blank(DType::kBF16, kTokens, kWidth),
                                        .eps = kEps});
  });
  add_pass_figure("rmsnorm/BF16_to_E4M3", kBf16Bytes + kCodeBytes, [](DeviceMemory& memory) {
    return pass_of<RmsNormForwardArgs>(refuse_rmsnorm_forward_sm90a, rmsnorm_forward_sm90a,
                                       {.x = memory.random(DType::kBF16, kTokens, kWidth),
                                        .w = memory.random(DType::kF32, 1, kWidth),
                                        .y = memory.codes(kTokens, kWidth),
                                        .eps = kEps});
  });
  add_pass_figure("rmsnorm/input_gradient", 3 * kBf16Bytes, [](DeviceMemory& memory) {
    return pass_of<RmsNormInputGradientArgs>(refuse_rmsnorm_input_gradient_sm90a, rmsnorm_input_gradient_sm90a,
                                             {.x = memory.random(DType::kBF16, kTokens, kWidth),
                                              .w = memory.random(DType::kF32, 1, kWidth),
                                              .d_y = memory.random(DType::kBF16, kTokens, kWidth),
                                              .d_x = memory.blank(DType::kBF16, kTokens, kWidth),
                                              .eps = kEps});
  });
  add_pass_figure("rmsnorm/weight_gradient", 2 * kBf16Bytes, [](DeviceMemory& memory) {
    return pass_of<RmsNormWeightGradientArgs>(
        refuse_rmsnorm_weight_gradient_sm90a, rmsnorm_weight_gradient_sm90a,
        {.x = memory.random(DType::kBF16, kTokens, kWidth),
         .d_y = memory.random(DType::kBF16, kTokens, kWidth),
         .d_w = memory.random(DType::kF32, 1, kWidth),
         .eps = kEps,
         .scratch = memory.blank(DType::kF32, 1, rmsnorm_weight_gradient_sm90a_scratch(kTokens, kWidth))});
  });
  return true;
}();

}  // namespace
}  // namespace rorqual
