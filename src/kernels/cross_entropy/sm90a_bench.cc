// Softmax cross-entropy and its gradient over DeepSeek-V3's vocabulary, as a share of the copy bandwidth: logits read once and
// gradients written once (a row does not fit into shared memory whole: the kernel may read it again from the second-level
// cache).
#include "kernels/common/sm90a_figure.h"
#include "kernels/cross_entropy/sm90a.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_pass_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::pass_of;
using ::rorqual::testing::sized;

const int64_t kTokens = sized(2048, 4), kVocabulary = sized(129280, 1024);

void add(const char* name, DType dtype) {
  add_pass_figure(name, 2 * size_of(dtype) * kTokens * kVocabulary, [=](DeviceMemory& memory) {
    std::vector<int32_t> target;
    for (int64_t t = 0; t < kTokens; ++t) target.push_back(static_cast<int32_t>(t * 40009 % kVocabulary));
    return pass_of<CrossEntropyArgs>(refuse_cross_entropy_sm90a, cross_entropy_sm90a,
                                     {.logits = memory.random(dtype, kTokens, kVocabulary),
                                      .target = memory.values(target),
                                      .coefficient = memory.random(DType::kF32, 1, kTokens),
                                      .nll = memory.blank(DType::kF32, 1, kTokens),
                                      .d_logits = memory.blank(dtype, kTokens, kVocabulary)});
  });
}

const bool kRegistered = [] {
  add("cross_entropy/F32", DType::kF32);
  add("cross_entropy/BF16", DType::kBF16);
  return true;
}();

}  // namespace
}  // namespace rorqual
