// The head sizes that the kernels of training attention on Hopper are made for: DeepSeek's (spec 1.1).
#pragma once

namespace rorqual::attention {

inline constexpr int kNope = 128, kRope = 64, kHead = kNope + kRope, kValue = 128;

}  // namespace rorqual::attention
