// The gradients of RMSNorm: of x by rows, of w by blocks of 128 rows.
#include "hopper/launch.h"
#include "kernels/rmsnorm/sm90a_job.h"
#include "kernels/rmsnorm/sm90a_row.h"

namespace rorqual::rmsnorm_sm90a_detail {
namespace {

using namespace hopper;  // NOLINT: device code is written in it

// ---- Of x: a block takes one row of x and d_y, each read once into registers.

// old + v, where the row is accumulated into.
template <int kWide, class Dx>
HOPPER_DEVICE void add_strip(float (&v)[kStripValues], const Dx* strip, int valid) {
  float old[kStripValues];
  load_strip<kWide, true>(old, strip, valid);
  HOPPER_UNROLL
  for (int i = 0; i < kStripValues; ++i) v[i] = old[i] + v[i];
}

template <class X, class Dy, int kPer>
HOPPER_KERNEL(kMostThreads)
void input_gradient_kernel(HOPPER_PARAMETER InputGradientJob job) {
  constexpr int kWide = kChunk<X>;
  const int row = block_index(), first = warp_index() * kPer * kStrip;
  float x[kPer][kStripValues], g[kPer][kStripValues];  // g: d_y, then w·d_y
  const X* from_x = static_cast<const X*>(job.x.data) + row * job.x.stride;
  const Dy* from_d_y = static_cast<const Dy*>(job.d_y.data) + row * job.d_y.stride;
  if (first + kPer * kStrip <= job.cols) {  // one branch, so that all loads are in flight at once
    load_whole<kWide>(x, from_x + first);
    load_whole<kWide>(g, from_d_y + first);
  } else {
    load_ragged<kWide>(x, from_x + first, job.cols - first);
    load_ragged<kWide>(g, from_d_y + first, job.cols - first);
  }
  float sums[2] = {sum_of_squares(x), 0};  // Σ x², Σ x·w·d_y
  HOPPER_UNROLL
  for (int s = 0; s < kPer; ++s) {
    const int column = first + s * kStrip;
    float w[kStripValues];
    load_weight<kWide>(w, job.w + column, job.cols - column);
    HOPPER_UNROLL
    for (int i = 0; i < kStripValues; ++i) {
      g[s][i] = w[i] * g[s][i];
      sums[1] = fma(x[s][i], g[s][i], sums[1]);
    }
  }
  row_sums(sums);
  const float r = inverse_rms(sums[0], job.cols, job.eps);
  const float pull = r * r * divide(sums[1], static_cast<float>(job.cols));
  HOPPER_UNROLL
  for (int s = 0; s < kPer; ++s) {
    const int column = first + s * kStrip, valid = job.cols - column;
    HOPPER_UNROLL
    for (int i = 0; i < kStripValues; ++i) g[s][i] = r * (g[s][i] - x[s][i] * pull);
    const int64_t at = row * job.d_x.stride + column;
    if (job.accumulate && job.d_x.bf16) add_strip<kWide>(g[s], static_cast<const Bf16*>(job.d_x.data) + at, valid);
    if (job.accumulate && !job.d_x.bf16) add_strip<kWide>(g[s], static_cast<const float*>(job.d_x.data) + at, valid);
    store_row_strip<kWide>(job.d_x.data, job.d_x.stride, job.d_x.bf16, row, column, job.cols, g[s]);
  }
}

template <class X, class Dy>
void launch_input_by_width(const InputGradientJob& job, DeviceStream stream) {
  const LaunchShape shape{
      .blocks = static_cast<uint32_t>(job.rows), .threads = row_threads(job.cols), .shared_bytes = kSumBytes};
  if (strips_per_warp(job.cols) == 1)
    HOPPER_LAUNCH((input_gradient_kernel<X, Dy, 1>), shape, stream, job);
  else
    HOPPER_LAUNCH((input_gradient_kernel<X, Dy, 2>), shape, stream, job);
}

// ---- Of w: 1 / rms of the rows; sums of blocks of 128 rows, all blocks and columns at once; the sum of those.

template <class X, int kPer>
HOPPER_KERNEL_BLOCKS(kMostThreads, 2)
void inverse_rms_kernel(HOPPER_PARAMETER WeightGradientJob job) {
  const int row = block_index();
  float x[kPer][kStripValues];
  load_row<kChunk<X>>(x, static_cast<const X*>(job.x.data) + row * job.x.stride, job.cols);
  float squares[1] = {sum_of_squares(x)};
  row_sums(squares);
  if (thread_index() == 0) job.inverse_rms[row] = inverse_rms(squares[0], job.cols, job.eps);
}

constexpr int kSumThreads = 128;

// A thread sums kWide columns over the rows of a block, ascending; kAhead rows are read at a time. `across`: blocks of threads
// side by side.
template <class X, class Dy, int kWide>
HOPPER_KERNEL_BLOCKS(kSumThreads, 4)
void block_sums_kernel(HOPPER_PARAMETER WeightGradientJob job, int across) {
  constexpr int kAhead = 4;
  const int block = block_index() / across;
  const int column = (block_index() % across * kSumThreads + thread_index()) * kWide, valid = job.cols - column;
  const int begin = block * kBlockRows, end = begin + kBlockRows < job.rows ? begin + kBlockRows : job.rows;
  if (valid <= 0) return;
  const X* x = static_cast<const X*>(job.x.data) + column;
  const Dy* d_y = static_cast<const Dy*>(job.d_y.data) + column;
  const float* inverse = job.inverse_rms;
  float sum[kWide] = {};
  int row = begin;
  for (; row + kAhead <= end && valid >= kWide; row += kAhead) {
    float a[kAhead][kWide], g[kAhead][kWide], r[kAhead];
    HOPPER_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      load_chunk<kWide>(a[k], x + (row + k) * job.x.stride);
      load_chunk<kWide>(g[k], d_y + (row + k) * job.d_y.stride);
      r[k] = load(inverse + row + k);
    }
    HOPPER_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      HOPPER_UNROLL
      for (int i = 0; i < kWide; ++i) sum[i] += g[k][i] * (a[k][i] * r[k]);
    }
  }
  for (; row < end; ++row) {
    HOPPER_UNROLL
    for (int i = 0; i < kWide; ++i)
      if (i < valid)
        sum[i] += load_value(d_y + row * job.d_y.stride + i) * (load_value(x + row * job.x.stride + i) * load(inverse + row));
  }
  float* to = job.sums + static_cast<int64_t>(block) * job.cols + column;
  HOPPER_UNROLL
  for (int i = 0; i < kWide; ++i)
    if (i < valid) to[i] = sum[i];
}

// A thread adds the blocks' sums of one column, in order.
HOPPER_KERNEL(kSumThreads)
void add_blocks_kernel(HOPPER_PARAMETER WeightGradientJob job) {
  constexpr int kAhead = 16;
  const int column = block_index() * kSumThreads + thread_index();
  const int blocks = (job.rows + kBlockRows - 1) / kBlockRows;
  if (column >= job.cols) return;
  float sum = job.d_w[column];
  const float* from = job.sums + column;
  for (int first = 0; first < blocks; first += kAhead) {
    float part[kAhead];
    HOPPER_UNROLL
    for (int k = 0; k < kAhead; ++k)
      part[k] = first + k < blocks ? load(from + static_cast<int64_t>(first + k) * job.cols) : 0.0f;
    HOPPER_UNROLL
    for (int k = 0; k < kAhead; ++k)
      if (first + k < blocks) sum += part[k];
  }
  job.d_w[column] = sum;
}

template <class X>
void launch_inverse_rms(const WeightGradientJob& job, DeviceStream stream) {
  const LaunchShape shape{
      .blocks = static_cast<uint32_t>(job.rows), .threads = row_threads(job.cols), .shared_bytes = kSumBytes};
  if (strips_per_warp(job.cols) == 1)
    HOPPER_LAUNCH((inverse_rms_kernel<X, 1>), shape, stream, job);
  else
    HOPPER_LAUNCH((inverse_rms_kernel<X, 2>), shape, stream, job);
}
template <class X, class Dy>
void launch_block_sums(const WeightGradientJob& job, DeviceStream stream) {
  constexpr int kWide = std::is_same_v<X, float> || std::is_same_v<Dy, float> ? 4 : 8;
  const int across = (job.cols + kWide * kSumThreads - 1) / (kWide * kSumThreads);
  const int blocks = (job.rows + kBlockRows - 1) / kBlockRows;
  HOPPER_LAUNCH((block_sums_kernel<X, Dy, kWide>),
                LaunchShape{.blocks = static_cast<uint32_t>(across * blocks), .threads = kSumThreads}, stream, job, across);
}

// Calls body with elements of the types of x and d_y.
template <class Job, class Body>
void visit_types(const Job& job, const Body& body) {
  if (job.x.bf16 && job.d_y.bf16) return body(Bf16{}, Bf16{});
  if (job.x.bf16) return body(Bf16{}, float{});
  if (job.d_y.bf16) return body(float{}, Bf16{});
  body(float{}, float{});
}

}  // namespace

void launch_input_gradient(const InputGradientJob& job, DeviceStream stream) {
  visit_types(job, [&](auto x, auto d_y) { launch_input_by_width<decltype(x), decltype(d_y)>(job, stream); });
}

void launch_weight_gradient(const WeightGradientJob& job, DeviceStream stream) {
  visit_types(job, [&](auto x, auto d_y) {
    launch_inverse_rms<decltype(x)>(job, stream);
    launch_block_sums<decltype(x), decltype(d_y)>(job, stream);
  });
  const auto blocks = static_cast<uint32_t>((job.cols + kSumThreads - 1) / kSumThreads);
  HOPPER_LAUNCH(add_blocks_kernel, LaunchShape{.blocks = blocks, .threads = kSumThreads}, stream, job);
}

}  // namespace rorqual::rmsnorm_sm90a_detail
