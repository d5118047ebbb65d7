// Conversions and permutations over DeepSeek-V3's width, as shares of the copy bandwidth: bytes read once and written once.
#include "kernels/common/sm90a_figure.h"
#include "kernels/elementwise/sm90a.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_pass_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::pass_of;
using ::rorqual::testing::sized;

constexpr int64_t kTopK = 8;
const int64_t kTokens = sized(4096, 64), kWidth = sized(7168, 512);

// A permutation of [0, n) that looks random; n is not a multiple of 12289.
std::vector<int32_t> permutation(int64_t n) {
  std::vector<int32_t> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(static_cast<int32_t>(i * 12289 % n));
  return values;
}

const bool kRegistered = [] {
  add_pass_figure("convert/F32_to_BF16", 6 * kTokens * kWidth, [](DeviceMemory& memory) {
    return pass_of<ConvertArgs>(
        refuse_convert_sm90a, convert_sm90a,
        {.x = memory.random(DType::kF32, kTokens, kWidth), .y = memory.blank(DType::kBF16, kTokens, kWidth)});
  });
  add_pass_figure("gather_rows/BF16", 4 * kTokens * kWidth, [](DeviceMemory& memory) {
    return pass_of<GatherRowsArgs>(refuse_gather_rows_sm90a, gather_rows_sm90a,
                                   {.x = memory.random(DType::kBF16, kTokens, kWidth),
                                    .source = memory.values(permutation(kTokens)),
                                    .y = memory.blank(DType::kBF16, kTokens, kWidth)});
  });
  // Eight rows from four nodes to each token.
  add_pass_figure("combine_rows/top8", 2 * kTokens * (kTopK + 1) * kWidth, [](DeviceMemory& memory) {
    std::vector<int32_t> node;
    for (int64_t i = 0; i < kTokens * kTopK; ++i) node.push_back(static_cast<int32_t>(i % kTopK / 2));
    return pass_of<CombineRowsArgs>(refuse_combine_rows_sm90a, combine_rows_sm90a,
                                    {.x = memory.random(DType::kBF16, kTokens * kTopK, kWidth),
                                     .row = memory.values(permutation(kTokens * kTopK)),
                                     .node = memory.values(node),
                                     .top_k = kTopK,
                                     .payload = DType::kBF16,
                                     .base = {},
                                     .y = memory.blank(DType::kBF16, kTokens, kWidth)});
  });
  return true;
}();

}  // namespace
}  // namespace rorqual
