// h = silu(gate) · up · weight, and what is quantised of gate_up and h on the way.
#include "kernels/swiglu/sm90a_strips.h"

namespace rorqual::swiglu_sm90a_detail {
namespace {

// A warp per strip of a row.
template <class X, class Y, bool kCache>
HOPPER_KERNEL_BLOCKS(kThreads, 3)
void swiglu_forward_kernel(HOPPER_PARAMETER ForwardJob job, int strips) {
  constexpr int kWide = kWideOf<X>;
  const int task = block_index() * kWarps + warp_index(), row = task / strips, column = task % strips * kStrip;
  if (row >= job.rows) return;
  const int valid = job.width - column < kStrip ? job.width - column : kStrip;
  float gate[kStripValues], up[kStripValues];
  read_strip<X, false>(gate, job.gate_up, row, column, valid);
  read_strip<X, false>(up, job.gate_up, row, job.width + column, valid);
  const float weight = job.weight != nullptr ? load(job.weight + row) : 1.0f;
  if constexpr (kCache) {
    quantise_to<E4M3, kWide>(job.cache, job.cache_rule, row, column, job.width, gate);
    quantise_to<E4M3, kWide>(job.cache, job.cache_rule, row, job.width + column, 2 * job.width, up);
  }
  HOPPER_UNROLL
  for (int i = 0; i < kStripValues; ++i) gate[i] = gate[i] * sigmoid(gate[i]).value * up[i] * weight;
  write_strip<Y, kWide>(job.h, job.rule, row, column, job.width, gate);
}

}  // namespace

void launch(const ForwardJob& job, DeviceStream stream) {
  const int strips = strips_of(job.width);
  const int64_t tasks = static_cast<int64_t>(job.rows) * strips;
  const LaunchShape shape{.blocks = static_cast<uint32_t>((tasks + kWarps - 1) / kWarps), .threads = kThreads};
  by_type<false>(job.gate_up, [&](auto x) {
    by_type<false>(job.h, [&](auto y) {
      using X = decltype(x);
      using Y = decltype(y);
      if constexpr (!kIsCode<X>) {
        if (job.cache.codes != nullptr) {
          HOPPER_LAUNCH((swiglu_forward_kernel<X, Y, true>), shape, stream, job, strips);
          return;
        }
      }
      HOPPER_LAUNCH((swiglu_forward_kernel<X, Y, false>), shape, stream, job, strips);
    });
  });
}

}  // namespace rorqual::swiglu_sm90a_detail
