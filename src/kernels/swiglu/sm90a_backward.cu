// d_gate_up and d_weight of SwiGLU. d_weight: a lane adds its 16 values in order, the warp by a tree, then the strips in order.
#include "kernels/swiglu/sm90a_strips.h"

namespace rorqual::swiglu_sm90a_detail {
namespace {

// The gradients of a strip take the places of gate and up; returns the strip's part of d_weight.
HOPPER_DEVICE float backward_strip(float (&gate)[kStripValues], float (&up)[kStripValues], const float (&d_h)[kStripValues],
                                   float weight) {
  float d_weight = 0;
  HOPPER_UNROLL
  for (int i = 0; i < kStripValues; ++i) {
    const Sigmoid s = sigmoid(gate[i]);
    const float silu = gate[i] * s.value, slope = s.value * (1.0f + gate[i] * s.complement);
    const float weighted = d_h[i] * weight;
    d_weight += d_h[i] * (silu * up[i]);
    gate[i] = weighted * up[i] * slope;
    up[i] = weighted * silu;
  }
  HOPPER_UNROLL
  for (int mask = 1; mask < kWarp; mask *= 2) d_weight += shuffle_xor(d_weight, mask);
  return d_weight;
}

// A block takes whole rows, a warp one strip after another of them.
template <class X, class Dh, class Dx>
HOPPER_KERNEL_BLOCKS(kThreads, 2)
void swiglu_backward_kernel(HOPPER_PARAMETER BackwardJob job, int strips, int rows_of_block) {
  constexpr int kWide = kWideOf<X>;
  auto* of_strips = reinterpret_cast<float*>(shared_memory());  // [rows_of_block][strips]
  const int first_row = block_index() * rows_of_block;
  const int rows = job.rows - first_row < rows_of_block ? job.rows - first_row : rows_of_block;
  HOPPER_NO_UNROLL
  for (int task = warp_index(); task < rows * strips; task += kWarps) {
    const int row = first_row + task / strips, column = task % strips * kStrip;
    const int valid = job.width - column < kStrip ? job.width - column : kStrip;
    float gate[kStripValues], up[kStripValues], d_h[kStripValues];
    read_strip<X, true>(gate, job.gate_up, row, column, valid);
    read_strip<X, true>(up, job.gate_up, row, job.width + column, valid);
    load_strip<kWide>(d_h, static_cast<const Dh*>(job.d_h.data) + row * job.d_h.stride + column, valid);
    const float weight = job.weight != nullptr ? load(job.weight + row) : 1.0f;
    const float d_weight = backward_strip(gate, up, d_h, weight);
    if (lane_index() == 0) of_strips[task] = d_weight;
    write_strip<Dx, kWide>(job.d_gate_up, job.rule, row, column, job.width, gate);
    write_strip<Dx, kWide>(job.d_gate_up, job.rule, row, job.width + column, 2 * job.width, up);
  }
  if (job.d_weight == nullptr) return;
  sync_threads();
  const int row = thread_index();
  if (row >= rows) return;
  float sum = 0;
  for (int i = 0; i < strips; ++i) sum += of_strips[row * strips + i];
  job.d_weight[first_row + row] = sum;
}

}  // namespace

void launch(const BackwardJob& job, DeviceStream stream) {
  const int strips = strips_of(job.width), rows_of_block = strips >= kWarps ? 1 : kWarps / (strips > 0 ? strips : 1);
  const LaunchShape shape{.blocks = static_cast<uint32_t>((job.rows + rows_of_block - 1) / rows_of_block),
                          .threads = kThreads,
                          .shared_bytes = static_cast<uint32_t>(rows_of_block * strips) * 4};
  by_type<false>(job.gate_up, [&](auto x) {
    by_type<true>(job.d_gate_up, [&](auto dx) {
      using X = decltype(x);
      using Dx = decltype(dx);
      if (job.d_h.bf16)
        HOPPER_LAUNCH((swiglu_backward_kernel<X, Bf16, Dx>), shape, stream, job, strips, rows_of_block);
      else
        HOPPER_LAUNCH((swiglu_backward_kernel<X, float, Dx>), shape, stream, job, strips, rows_of_block);
    });
  });
}

}  // namespace rorqual::swiglu_sm90a_detail
