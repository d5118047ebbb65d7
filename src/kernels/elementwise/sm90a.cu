// Copies, conversions and sums of rows: a warp takes a piece of one row, with all its loads in flight at once.
#include "hopper/launch.h"
#include "kernels/common/sm90a_rows.h"
#include "kernels/elementwise/sm90a_job.h"

namespace rorqual::elementwise_sm90a_detail {
namespace {

using namespace hopper;  // NOLINT: device code is written in it

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

// The piece of a warp: rows × per_row of them, numbered along the rows.
struct PieceAt {
  int row;
  int64_t number;  // in the row
  HOPPER_DEVICE PieceAt(int rows, int64_t per_row) {
    const int64_t item = static_cast<int64_t>(block_index()) * kWarps + warp_index();
    if (rows == 1) {
      row = item < per_row ? 0 : 1;
      number = item;
    } else {
      const int per = static_cast<int>(per_row);
      row = static_cast<int>(item) / per;
      number = static_cast<int>(item) % per;
    }
  }
};
LaunchShape shape_of(int rows, int64_t per_row) {
  return {.blocks = static_cast<uint32_t>((rows * per_row + kWarps - 1) / kWarps), .threads = kThreads};
}
HOPPER_BOTH constexpr int64_t pieces_of(int64_t size, int64_t piece) {
  return (size + piece - 1) / piece;
}

// ---- copy

constexpr int kLoads = 4;
template <class Word>
inline constexpr int kPieceBytes = kLoads* kWarp* static_cast<int>(sizeof(Word));

template <class Word>
HOPPER_KERNEL_BLOCKS(kThreads, 8)
void copy_kernel(HOPPER_PARAMETER CopyJob job) {
  constexpr int kBytes = static_cast<int>(sizeof(Word));
  const PieceAt at(job.rows, pieces_of(job.bytes, kPieceBytes<Word>));
  if (at.row >= job.rows) return;
  const int source = job.source != nullptr ? load(job.source + at.row) : at.row;
  if (source < 0) return;
  const int64_t begin = at.number * kPieceBytes<Word> + lane_index() * kBytes;
  const uint8_t* x = job.x + source * job.x_row_bytes + begin;
  uint8_t* y = job.y + at.row * job.y_row_bytes + begin;
  if ((at.number + 1) * kPieceBytes<Word> <= job.bytes) {
    Word words[kLoads];
    HOPPER_UNROLL
    for (int i = 0; i < kLoads; ++i) words[i] = load_once(reinterpret_cast<const Word*>(x + i * kWarp * kBytes));
    HOPPER_UNROLL
    for (int i = 0; i < kLoads; ++i) store_once(reinterpret_cast<Word*>(y + i * kWarp * kBytes), words[i]);
    return;
  }
  HOPPER_UNROLL
  for (int i = 0; i < kLoads; ++i) {
    const int64_t offset = i * kWarp * kBytes, left = job.bytes - begin - offset;
    if (left >= kBytes) {
      store_once(reinterpret_cast<Word*>(y + offset), load_once(reinterpret_cast<const Word*>(x + offset)));
    } else {
      for (int64_t b = 0; b < left; ++b) y[offset + b] = x[offset + b];
    }
  }
}

// ---- conversion

template <class X, class Y, bool kAccumulate>
HOPPER_KERNEL_BLOCKS(kThreads, (kAccumulate ? 4 : 6))
void convert_kernel(HOPPER_PARAMETER ConvertJob job) {
  constexpr int kWide = kChunk<X>;
  const PieceAt at(job.rows, pieces_of(job.cols, kStrip));
  if (at.row >= job.rows) return;
  const int source = job.source != nullptr ? load(job.source + at.row) : at.row;
  if (source < 0) return;
  const int64_t column = at.number * kStrip, left = job.cols - column;
  const int valid = left < kStrip ? static_cast<int>(left) : kStrip;
  Y* y = static_cast<Y*>(job.y.data) + at.row * job.y.stride + column;
  const X* x = static_cast<const X*>(job.x.data) + source * job.x.stride + column;
  float v[kStripValues], old[kStripValues];
  if (valid == kStrip) {  // one branch, so that all loads are in flight at once
    load_whole_strip<kWide>(v, x);
    if constexpr (kAccumulate) load_whole_strip<kWide, true>(old, y);
  } else {
    load_strip<kWide>(v, x, valid);
    if constexpr (kAccumulate) load_strip<kWide, true>(old, y, valid);
  }
  if constexpr (kAccumulate) {
    HOPPER_UNROLL
    for (int i = 0; i < kStripValues; ++i) v[i] = old[i] + v[i];
  }
  store_strip<kWide>(y, v, valid);
}

template <class X, class Y>
void launch_typed_convert(const ConvertJob& job, DeviceStream stream) {
  const LaunchShape shape = shape_of(job.rows, pieces_of(job.cols, kStrip));
  if (job.accumulate)
    HOPPER_LAUNCH((convert_kernel<X, Y, true>), shape, stream, job);
  else
    HOPPER_LAUNCH((convert_kernel<X, Y, false>), shape, stream, job);
}

// ---- combine

// The sum of the nodes that were passed so far, and the one of the current node.
struct Sums {
  float total[kStripValues], node[kStripValues];

  // total += the node's sum, rounded as it travels.
  HOPPER_DEVICE void end_node(bool payload_bf16) {
    HOPPER_UNROLL
    for (int i = 0; i < kStripValues; ++i) {
      total[i] += payload_bf16 ? from_bf16(to_bf16(node[i])) : node[i];
      node[i] = 0;
    }
  }
};

// kAhead rows are read at a time; it divides top_k.
template <class X, int kAhead>
HOPPER_KERNEL_BLOCKS(kThreads, 2)
void combine_kernel(HOPPER_PARAMETER CombineJob job) {
  constexpr int kWide = kChunk<X>;
  const PieceAt at(job.rows, strips_of(job.cols));
  if (at.row >= job.rows) return;
  const int column = static_cast<int>(at.number) * kStrip, valid = job.cols - column, lane = lane_index();
  const int64_t first = static_cast<int64_t>(at.row) * job.top_k;
  const int row_of_lane = lane < job.top_k ? load(job.row + first + lane) : 0;
  const int node_of_lane = lane < job.top_k ? load(job.node + first + lane) : 0;
  const X* x = static_cast<const X*>(job.x.data) + column;

  Sums sums = {};
  const int64_t base_at = at.row * job.base.stride + column;
  if (job.base.data != nullptr && job.base.bf16)  // may be y
    load_strip<kWide, true>(sums.total, static_cast<const Bf16*>(job.base.data) + base_at, valid);
  if (job.base.data != nullptr && !job.base.bf16)
    load_strip<kWide, true>(sums.total, static_cast<const float*>(job.base.data) + base_at, valid);

  HOPPER_NO_UNROLL
  for (int j = 0; j < job.top_k; j += kAhead) {
    float v[kAhead][kStripValues];
    const X* strip[kAhead];
    HOPPER_UNROLL
    for (int k = 0; k < kAhead; ++k) strip[k] = x + shuffle(row_of_lane, j + k) * job.x.stride;
    if (valid >= kStrip) {
      HOPPER_UNROLL
      for (int k = 0; k < kAhead; ++k) load_whole_strip<kWide>(v[k], strip[k]);
    } else {
      HOPPER_UNROLL
      for (int k = 0; k < kAhead; ++k) load_strip<kWide>(v[k], strip[k], valid);
    }
    HOPPER_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      const int node = shuffle(node_of_lane, j + k), before = shuffle(node_of_lane, j + k > 0 ? j + k - 1 : 0);
      if (node != before) sums.end_node(job.payload_bf16);
      HOPPER_UNROLL
      for (int i = 0; i < kStripValues; ++i) sums.node[i] += v[k][i];
    }
  }
  if (job.top_k > 0) sums.end_node(job.payload_bf16);

  const int64_t y_at = at.row * job.y.stride + column;
  if (job.y.bf16)
    store_strip<kWide>(static_cast<Bf16*>(job.y.data) + y_at, sums.total, valid);
  else
    store_strip<kWide>(static_cast<float*>(job.y.data) + y_at, sums.total, valid);
}

template <class X>
void launch_typed_combine(const CombineJob& job, DeviceStream stream) {
  const LaunchShape shape = shape_of(job.rows, strips_of(job.cols));
  if (job.top_k % 4 == 0)
    HOPPER_LAUNCH((combine_kernel<X, 4>), shape, stream, job);
  else if (job.top_k % 2 == 0)
    HOPPER_LAUNCH((combine_kernel<X, 2>), shape, stream, job);
  else
    HOPPER_LAUNCH((combine_kernel<X, 1>), shape, stream, job);
}

}  // namespace

void launch_copy(const CopyJob& job, int alignment, DeviceStream stream) {
  if (alignment == 16)
    HOPPER_LAUNCH(copy_kernel<Words4>, shape_of(job.rows, pieces_of(job.bytes, kPieceBytes<Words4>)), stream, job);
  else
    HOPPER_LAUNCH(copy_kernel<uint32_t>, shape_of(job.rows, pieces_of(job.bytes, kPieceBytes<uint32_t>)), stream, job);
}

void launch_convert(const ConvertJob& job, DeviceStream stream) {
  if (job.x.bf16 && job.y.bf16) return launch_typed_convert<Bf16, Bf16>(job, stream);
  if (job.x.bf16) return launch_typed_convert<Bf16, float>(job, stream);
  if (job.y.bf16) return launch_typed_convert<float, Bf16>(job, stream);
  launch_typed_convert<float, float>(job, stream);
}

void launch_combine(const CombineJob& job, DeviceStream stream) {
  if (job.x.bf16)
    launch_typed_combine<Bf16>(job, stream);
  else
    launch_typed_combine<float>(job, stream);
}

}  // namespace rorqual::elementwise_sm90a_detail
