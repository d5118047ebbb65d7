// Checks, scratch and tensor maps of attention's backward pass on Hopper.
#include <cmath>
#include <numbers>

#include "hopper/tensor_map.h"
#include "kernels/attention/sm90a.h"
#include "kernels/attention/sm90a_backward_job.h"
#include "kernels/attention/sm90a_host.h"

namespace rorqual {
namespace attention::backward_sm90a {
namespace {

// Tiles of a call's sequences, and where each array lies in scratch, in floats. Those that the copy engine reads begin at
// multiples of 64.
struct Layout {
  int64_t q_tiles = 0, k_tiles = 0;
  int64_t lse2 = 0, delta = 0, start = 0, d_q = 0, d_k_rope = 0, starts = 0, turn = 0, end = 0;

  Layout(int64_t heads, std::span<const AttentionSequence> sequences) {
    for (const AttentionSequence& s : sequences) {
      q_tiles += (s.q_end - s.q_begin + kQueries - 1) / kQueries;
      k_tiles += (s.k_end - s.k_begin + kKeys - 1) / kKeys;
    }
    delta = lse2 + heads * q_tiles * kQueries;
    start = delta + heads * q_tiles * kQueries;
    d_q = start + q_tiles * kQueries;
    d_k_rope = d_q + heads * q_tiles * kTileSums;
    starts = d_k_rope + heads * k_tiles * kKeys * kRope;
    turn = starts + q_tiles * 2;
    end = turn + heads * q_tiles;
  }
};

Rows rows_of(const Tensor& t, int64_t head_stride = 0) {
  return {static_cast<const uint16_t*>(t.data), t.stride, head_stride};
}
MutableRows mutable_rows_of(const Tensor& t, int64_t head_stride = 0) {
  return {static_cast<uint16_t*>(t.data), t.stride, head_stride};
}

hopper::TensorMap map_of(const Tensor& t, int rows) {
  return hopper::make_tensor_map({.data = t.data,
                                  .element = hopper::Element::kBF16,
                                  .columns = t.cols,
                                  .rows = t.rows,
                                  .row_bytes = t.stride * 2,
                                  .box_columns = 64,
                                  .box_rows = rows,
                                  .swizzle = true});
}

Job job_of(const AttentionBackwardArgs& a, const Layout& layout) {
  Job job{};
  job.q = rows_of(a.q);
  job.k = rows_of(a.k, a.k_head_stride);
  job.k_rope = rows_of(a.k_rope);
  job.v = rows_of(a.v, a.v_head_stride);
  job.o = rows_of(a.o);
  job.d_o = rows_of(a.d_o);
  job.d_q = mutable_rows_of(a.d_q);
  job.d_k = mutable_rows_of(a.d_k, a.d_k_head_stride);
  job.d_v = mutable_rows_of(a.d_v, a.d_v_head_stride);
  job.d_k_rope = mutable_rows_of(a.d_k_rope);
  job.lse = a.lse.ptr<float>();
  job.lse_stride = a.lse.stride;
  job.segment_start = a.segment_start.empty() ? nullptr : a.segment_start.data();
  job.scale = static_cast<float>(a.shape.scale);
  job.scale_log2e = static_cast<float>(a.shape.scale * std::numbers::log2e);
  job.heads = static_cast<int>(a.shape.heads);
  auto* scratch = a.scratch.ptr<float>();
  job.scratch = {.lse2 = scratch + layout.lse2,
                 .delta = scratch + layout.delta,
                 .start = reinterpret_cast<int*>(scratch + layout.start),
                 .starts = reinterpret_cast<Starts*>(scratch + layout.starts),
                 .turn = reinterpret_cast<int*>(scratch + layout.turn),
                 .d_q = scratch + layout.d_q,
                 .d_k_rope = scratch + layout.d_k_rope,
                 .q_tiles = static_cast<int>(layout.q_tiles),
                 .k_tiles = static_cast<int>(layout.k_tiles)};
  job.k_map = map_of(a.k, kKeys);
  job.k_rope_map = map_of(a.k_rope, kKeys);
  job.v_map = map_of(a.v, kKeys);
  if (layout.q_tiles == 0) return job;  // nothing of queries is read
  job.q_map = map_of(a.q, kQueries);
  job.d_o_map = map_of(a.d_o, kQueries);
  job.d_q_map = hopper::make_tensor_map({.data = job.scratch.d_q,
                                         .element = hopper::Element::kF32,
                                         .columns = kSumColumns,
                                         .rows = a.shape.heads * layout.q_tiles * kSumRows,
                                         .row_bytes = kSumColumns * 4,
                                         .box_columns = kSumColumns,
                                         .box_rows = kSumRows});
  return job;
}

void launch(const Job& job, const Stream& stream) {
  const Sequence& last = job.sequence[job.sequences - 1];
  const bool queries = last.q_tile + tiles_of(last.queries, kQueries) > job.sequence[0].q_tile;
  if (queries) launch_prepare(job, stream.device_stream());
  launch_main(job, stream.device_stream());
  if (queries) launch_finish_queries(job, stream.device_stream());
  launch_finish_rope(job, stream.device_stream());
}

void check(const AttentionBackwardArgs& a) {
  const int64_t heads = a.shape.heads;
  const Reach reach = check_inputs(a);
  check_rows("lse", a.lse, heads, reach.q_rows);
  check_rows("d_o", a.d_o, reach.q_rows, heads * kValue);
  check_rows("d_q", a.d_q, reach.q_rows, heads * kHead);
  check_rows("d_k", a.d_k, reach.k_rows, (heads - 1) * a.d_k_head_stride + kNope);
  check_rows("d_v", a.d_v, reach.k_rows, (heads - 1) * a.d_v_head_stride + kValue);
  check_rows("d_k_rope", a.d_k_rope, reach.k_rows, kRope);
  check_rows("scratch", a.scratch, 1, attention_backward_scratch_sm90a(a.shape, a.sequences));
}

}  // namespace
}  // namespace attention::backward_sm90a

using namespace attention::backward_sm90a;

std::string refuse_attention_backward_sm90a(const AttentionBackwardArgs& a) {
  const AttentionShape& s = a.shape;
  if (std::string reason = attention::refuse_shape(s); !reason.empty()) return reason;
  if (s.heads > 65535) return fmt::format("{} heads", s.heads);
  const struct {
    const char* name;
    const Tensor& tensor;
    int64_t head_stride;
  } tensors[] = {{"q", a.q, 0},
                 {"k", a.k, a.k_head_stride},
                 {"k_rope", a.k_rope, 0},
                 {"v", a.v, a.v_head_stride},
                 {"o", a.o, 0},
                 {"d_o", a.d_o, 0},
                 {"d_q", a.d_q, 0},
                 {"d_k", a.d_k, a.d_k_head_stride},
                 {"d_v", a.d_v, a.d_v_head_stride},
                 {"d_k_rope", a.d_k_rope, 0}};
  for (const auto& t : tensors)
    if (std::string reason = attention::refuse_rows(t.name, t.tensor, t.head_stride); !reason.empty()) return reason;
  if (a.lse.dtype != DType::kF32) return fmt::format("lse holds {}, not F32", dtype_name(a.lse.dtype));
  if (a.scratch.dtype != DType::kF32 || reinterpret_cast<uintptr_t>(a.scratch.data) % 16 != 0)
    return "scratch is not F32, 16-byte aligned";
  return "";
}

int64_t attention_backward_scratch_sm90a(const AttentionShape& shape, std::span<const AttentionSequence> sequences) {
  return Layout(shape.heads, sequences).end;
}

void attention_backward_sm90a(const AttentionBackwardArgs& a, const Stream& stream) {
  const std::string reason = refuse_attention_backward_sm90a(a);
  CHECK(reason.empty(), "attention's backward on sm_90a: {}", reason);
  check(a);
  const Layout layout(a.shape.heads, a.sequences);
  if (layout.k_tiles == 0) return;
  Job job = job_of(a, layout);
  int q_tile = 0, k_tile = 0;
  for (const AttentionSequence& s : a.sequences) {
    const Sequence sequence{.q_begin = static_cast<int>(s.q_begin),
                            .k_begin = static_cast<int>(s.k_begin),
                            .queries = static_cast<int>(s.q_end - s.q_begin),
                            .keys = static_cast<int>(s.k_end - s.k_begin),
                            .q_tile = q_tile,
                            .k_tile = k_tile};
    if (sequence.keys == 0) continue;
    q_tile += tiles_of(sequence.queries, kQueries);
    k_tile += tiles_of(sequence.keys, kKeys);
    job.sequence[job.sequences++] = sequence;
    if (job.sequences < kMostSequences) continue;
    launch(job, stream);
    job.sequences = 0;
  }
  if (job.sequences > 0) launch(job, stream);
}

}  // namespace rorqual
