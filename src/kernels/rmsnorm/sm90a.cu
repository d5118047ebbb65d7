// RMSNorm forward: a block takes one row, read once into registers.
#include "hopper/launch.h"
#include "kernels/common/sm90a_quantise.h"
#include "kernels/rmsnorm/sm90a_job.h"
#include "kernels/rmsnorm/sm90a_row.h"

namespace rorqual::rmsnorm_sm90a_detail {
namespace {

using namespace hopper;  // NOLINT: device code is written in it

template <class X, int kPer, ScaleRule kRule>
HOPPER_KERNEL_BLOCKS(kMostThreads, 2)
void forward_kernel(HOPPER_PARAMETER ForwardJob job) {
  constexpr int kWide = kChunk<X>;
  const int row = block_index();
  float x[kPer][kStripValues];
  load_row<kWide>(x, static_cast<const X*>(job.x.data) + row * job.x.stride, job.cols);
  float squares[1] = {sum_of_squares(x)};
  row_sums(squares);
  const float r = inverse_rms(squares[0], job.cols, job.eps);
  const int first = warp_index() * kPer * kStrip;
  HOPPER_UNROLL
  for (int s = 0; s < kPer; ++s) {
    const int column = first + s * kStrip;
    float w[kStripValues];
    load_weight<kWide>(w, job.w + column, job.cols - column);
    HOPPER_UNROLL
    for (int i = 0; i < kStripValues; ++i) x[s][i] = x[s][i] * r * w[i];
    if (job.codes.codes != nullptr) {
      Piece<E4M3> piece;
      const float scale = quantise_strip<E4M3, kRule, kWide>(x[s], piece);
      store_strip_codes<E4M3, kWide>(job.codes, row, column, job.cols, piece, scale);
    }
    if (job.y.data != nullptr) store_row_strip<kWide>(job.y.data, job.y.stride, job.y.bf16, row, column, job.cols, x[s]);
    if (job.y_plain.data != nullptr)
      store_row_strip<kWide>(job.y_plain.data, job.y_plain.stride, job.y_plain.bf16, row, column, job.cols, x[s]);
  }
}

template <class X, int kPer>
void launch_by_rule(const ForwardJob& job, ScaleRule rule, DeviceStream stream) {
  const LaunchShape shape{
      .blocks = static_cast<uint32_t>(job.rows), .threads = row_threads(job.cols), .shared_bytes = kSumBytes};
  if (rule == ScaleRule::kPow2)
    HOPPER_LAUNCH((forward_kernel<X, kPer, ScaleRule::kPow2>), shape, stream, job);
  else
    HOPPER_LAUNCH((forward_kernel<X, kPer, ScaleRule::kFp32>), shape, stream, job);
}
template <class X>
void launch_by_width(const ForwardJob& job, ScaleRule rule, DeviceStream stream) {
  if (strips_per_warp(job.cols) == 1)
    launch_by_rule<X, 1>(job, rule, stream);
  else
    launch_by_rule<X, 2>(job, rule, stream);
}

}  // namespace

void launch_forward(const ForwardJob& job, ScaleRule rule, DeviceStream stream) {
  if (job.x.bf16)
    launch_by_width<Bf16>(job, rule, stream);
  else
    launch_by_width<float>(job, rule, stream);
}

}  // namespace rorqual::rmsnorm_sm90a_detail
