// DeepSeek-V3's router over 4096 tokens, as shares of the copy bandwidth: bytes read once and written once.
#include "kernels/common/sm90a_figure.h"
#include "kernels/router/sm90a.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_pass_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::pass_of;
using ::rorqual::testing::sized;

const int64_t kTokens = sized(4096, 32);
constexpr RouterShape kShape = {.experts = 256, .top_k = 8, .groups = 8, .top_groups = 4, .scale = 2.5};

const bool kRegistered = [] {
  const int64_t scores = 4 * kTokens * kShape.experts, choices = 4 * kTokens * kShape.top_k;
  add_pass_figure("router/256_top8", 2 * scores + 2 * choices, [](DeviceMemory& memory) {
    return pass_of<RouterForwardArgs>(
        refuse_router_forward_sm90a, router_forward_sm90a,
        {.shape = kShape,
         .logits = memory.random(DType::kF32, kTokens, kShape.experts),
         .bias = memory.random(DType::kF32, 1, kShape.experts),
         .scores = memory.blank(DType::kF32, kTokens, kShape.experts),
         .expert = memory.values(std::vector<int32_t>(static_cast<size_t>(kTokens * kShape.top_k))),
         .weight = memory.blank(DType::kF32, kTokens, kShape.top_k)});
  });
  return true;
}();

}  // namespace
}  // namespace rorqual
