// AdamW with BF16 moments over 64M parameters, as a share of the copy bandwidth: weight, gradient and moments read once, weight
// and moments written once (and codes, where they are made in the same pass).
#include "kernels/adamw/sm90a.h"
#include "kernels/common/sm90a_figure.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_pass_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::Pass;
using ::rorqual::testing::sized;

const int64_t kRows = sized(8192, 128), kCols = sized(8192, 128), kCount = kRows * kCols;

// `coded`: with the new weight's codes and their transpose, for the next step's products.
void add(const char* name, bool coded) {
  add_pass_figure(name, (2 * 4 + 4 + 4 * 2 + (coded ? 2 : 0)) * kCount, [=](DeviceMemory& memory) {
    // The second moment is a sum of squares; scales are positive numbers, read as BF16.
    const Tensor v = memory.scales(1, kCount / 2, ScaleRule::kPow2);
    AdamWTensor tensor{memory.random(DType::kF32, 1, kCount), memory.random(DType::kF32, 1, kCount),
                       memory.random(DType::kBF16, 1, kCount), Tensor(v.data, DType::kBF16, 1, kCount), 0.1};
    const auto codes = [&](int64_t rows, int64_t cols) {
      return ScaledTensor(memory.blank(DType::kE4M3, rows, cols),
                          memory.blank(DType::kF32, scale_groups(rows), scale_groups(cols)));
    };
    if (coded) {
      tensor.copy = codes(kRows, kCols);
      tensor.copy_transposed = codes(kCols, kRows);
    }
    const auto args = [](const AdamWTensor& one) { return AdamWArgs{.tensors = {&one, 1}, .lr = 1e-3, .step = 10}; };
    return Pass{refuse_adamw_sm90a(args(tensor)), [=](const Stream& stream) { adamw_sm90a(args(tensor), stream); }};
  });
}

const bool kRegistered = [] {
  add("adamw/BF16_moments", false);
  add("adamw/BF16_moments_and_codes", true);
  return true;
}();

}  // namespace
}  // namespace rorqual
