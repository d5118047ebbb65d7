// Quantising rows, for itself and for dispatch, and back. A warp takes one strip of 512 values of a row; every access of memory
// is a warp's contiguous piece, 16 bytes a lane where the type allows.
#include "hopper/launch.h"
#include "kernels/common/sm90a_quantise.h"
#include "kernels/quantise/sm90a_job.h"

namespace rorqual::quantise_sm90a_detail {
namespace {

using namespace hopper;  // NOLINT: device code is written in it

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

// The strip of a warp; rows × strips are numbered along the rows.
struct StripAt {
  int row, column;
  HOPPER_DEVICE StripAt(int cols) {
    const int strips = strips_of(cols), item = block_index() * kWarps + warp_index();
    row = item / strips;
    column = item % strips * kStrip;
  }
};
LaunchShape shape_of(int rows, int cols) {
  const int64_t items = static_cast<int64_t>(rows) * strips_of(cols);
  return {.blocks = static_cast<uint32_t>((items + kWarps - 1) / kWarps), .threads = kThreads};
}

template <class X, class Code, ScaleRule kRule>
HOPPER_KERNEL_BLOCKS(kThreads, (std::is_same_v<Code, E5M6> ? 4 : 5))
void quantise_kernel(HOPPER_PARAMETER QuantiseJob job) {
  constexpr int kWide = kChunk<X>;
  const StripAt at(job.cols);
  if (at.row >= job.rows) return;
  const int lane = lane_index();
  const int choice = lane < job.top_k ? load(job.row_of_choice + static_cast<int64_t>(at.row) * job.top_k + lane) : -1;
  float v[kStripValues];
  load_strip<kWide>(v, static_cast<const X*>(job.x) + at.row * job.x_stride + at.column, job.cols - at.column);
  Piece<Code> piece;
  const float scale = quantise_strip<Code, kRule, kWide>(v, piece);
  if (job.own.codes != nullptr) store_strip_codes<Code, kWide>(job.own, at.row, at.column, job.cols, piece, scale);
  HOPPER_NO_UNROLL
  for (int j = 0; j < job.top_k; ++j) {
    const int to = shuffle(choice, j);
    if (to >= 0) store_strip_codes<Code, kWide>(job.y, to, at.column, job.cols, piece, scale);
  }
}

template <class Code, class Y>
HOPPER_KERNEL_BLOCKS(kThreads, 6)
void dequantise_kernel(HOPPER_PARAMETER DequantiseJob job) {
  constexpr int kWide = kChunk<Y>, kChunks = kStripValues / kWide;
  const StripAt at(job.cols);
  if (at.row >= job.rows) return;
  const uint8_t* codes = job.x.codes + at.row * job.x.row_bytes;
  const float* scales = job.x.scales + at.row * job.x.scales_stride;
  Codes<Code, kWide> raw[kChunks];
  float scale[kChunks];
  HOPPER_UNROLL
  for (int j = 0; j < kChunks; ++j) {
    const int column = at.column + chunk_begin<kWide>(lane_index(), j), valid = job.cols - column;
    raw[j] = load_codes<Code, kWide>(codes + code_bytes<Code>(column), valid > 0 ? valid : 0);
    scale[j] = valid > 0 ? load(scales + column / kGroup) : 0.0f;
  }
  float v[kStripValues];
  HOPPER_UNROLL
  for (int j = 0; j < kChunks; ++j) {
    decode(v + j * kWide, raw[j]);
    HOPPER_UNROLL
    for (int i = 0; i < kWide; ++i) v[j * kWide + i] *= scale[j];
  }
  store_strip<kWide>(static_cast<Y*>(job.y) + at.row * job.y_stride + at.column, v, job.cols - at.column);
}

// Calls body with an element of the format.
template <class Body>
void visit_plain(Format format, const Body& body) {
  if (format == Format::kF32) return body(float{});
  if (format == Format::kBF16) return body(Bf16{});
  launch_failed("quantise", "no plain type");
}
template <class Body>
void visit_code(Format format, const Body& body) {
  if (format == Format::kE4M3) return body(E4M3{});
  if (format == Format::kE5M2) return body(E5M2{});
  if (format == Format::kE5M6) return body(E5M6{});
  launch_failed("quantise", "no coded type");
}

}  // namespace

void launch_quantise(const QuantiseJob& job, Format x, Format code, ScaleRule rule, DeviceStream stream) {
  visit_plain(x, [&](auto value) {
    visit_code(code, [&](auto coded) {
      using X = decltype(value);
      using Code = decltype(coded);
      const LaunchShape shape = shape_of(job.rows, job.cols);
      if (rule == ScaleRule::kPow2)
        HOPPER_LAUNCH((quantise_kernel<X, Code, ScaleRule::kPow2>), shape, stream, job);
      else
        HOPPER_LAUNCH((quantise_kernel<X, Code, ScaleRule::kFp32>), shape, stream, job);
    });
  });
}

void launch_dequantise(const DequantiseJob& job, Format code, Format y, DeviceStream stream) {
  visit_code(code, [&](auto coded) {
    visit_plain(y, [&](auto value) {
      HOPPER_LAUNCH((dequantise_kernel<decltype(coded), decltype(value)>), shape_of(job.rows, job.cols), stream, job);
    });
  });
}

}  // namespace rorqual::quantise_sm90a_detail
