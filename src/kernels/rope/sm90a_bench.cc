// Rotation of DeepSeek-V3's queries (128 heads of 192, the last 64 rotated) of 4096 tokens, as a share of the copy bandwidth:
// the rotated part read and written once.
#include "kernels/common/sm90a_figure.h"
#include "kernels/rope/sm90a.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_pass_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::pass_of;
using ::rorqual::testing::sized;

const int64_t kTokens = sized(4096, 16);
constexpr int64_t kHeads = 128, kNope = 128, kRope = 64;

const bool kRegistered = [] {
  add_pass_figure("rope/128_heads", 4 * kTokens * kHeads * kRope + 4 * kTokens * (kRope + 1), [](DeviceMemory& memory) {
    std::vector<int32_t> position;
    for (int64_t t = 0; t < kTokens; ++t) position.push_back(static_cast<int32_t>(t));
    return pass_of<RopeArgs>(refuse_rope_sm90a, rope_sm90a,
                             {.x = memory.random(DType::kBF16, kTokens, kHeads * (kNope + kRope)),
                              .heads = kHeads,
                              .head_stride = kNope + kRope,
                              .offset = kNope,
                              .dim = kRope,
                              .table = memory.random(DType::kF32, kTokens, kRope),
                              .position = memory.values(position)});
  });
  return true;
}();

}  // namespace
}  // namespace rorqual
