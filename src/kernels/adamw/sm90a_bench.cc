// AdamW with BF16 moments over 64M parameters, as a share of the copy bandwidth: weight, gradient and moments read once, weight
// and moments written once.
#include "kernels/adamw/sm90a.h"
#include "kernels/common/sm90a_figure.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_pass_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::Pass;
using ::rorqual::testing::sized;

const int64_t kCount = sized(int64_t{1} << 26, 1 << 14);

const bool kRegistered = [] {
  add_pass_figure("adamw/BF16_moments", (2 * 4 + 4 + 4 * 2) * kCount, [](DeviceMemory& memory) {
    // The second moment is a sum of squares; scales are positive numbers, read as BF16.
    const Tensor v = memory.scales(1, kCount / 2, ScaleRule::kPow2);
    const AdamWTensor tensor{memory.random(DType::kF32, 1, kCount), memory.random(DType::kF32, 1, kCount),
                             memory.random(DType::kBF16, 1, kCount), Tensor(v.data, DType::kBF16, 1, kCount), 0.1};
    const auto args = [](const AdamWTensor& one) { return AdamWArgs{.tensors = {&one, 1}, .lr = 1e-3, .step = 10}; };
    return Pass{refuse_adamw_sm90a(args(tensor)), [=](const Stream& stream) { adamw_sm90a(args(tensor), stream); }};
  });
  return true;
}();

}  // namespace
}  // namespace rorqual
