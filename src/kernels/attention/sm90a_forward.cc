// Checks and tensor maps of attention's forward pass on Hopper.
#include <algorithm>
#include <numbers>
#include <vector>

#include "hopper/runtime.h"
#include "hopper/tensor_map.h"
#include "kernels/attention/sm90a.h"
#include "kernels/attention/sm90a_forward_job.h"
#include "kernels/attention/sm90a_host.h"

namespace rorqual {
namespace attention::forward_sm90a {
namespace {

// Rows [begin, end) of `t` in boxes of 64 columns.
hopper::TensorMap map_of(const Tensor& t, int64_t begin, int64_t end, int rows) {
  return hopper::make_tensor_map({.data = t.raw_row(begin),
                                  .element = hopper::Element::kBF16,
                                  .columns = t.cols,
                                  .rows = end - begin,
                                  .row_bytes = t.stride * 2,
                                  .box_columns = 64,
                                  .box_rows = rows,
                                  .swizzle = true});
}

Sequence sequence_of(const AttentionForwardArgs& a, const AttentionSequence& s) {
  return {.q = map_of(a.q, s.q_begin, s.q_end, kQueries),
          .k = map_of(a.k, s.k_begin, s.k_end, kKeys),
          .k_rope = map_of(a.k_rope, s.k_begin, s.k_end, kKeys),
          .v = map_of(a.v, s.k_begin, s.k_end, kKeys),
          .q_begin = static_cast<int>(s.q_begin),
          .k_begin = static_cast<int>(s.k_begin),
          .queries = static_cast<int>(s.q_end - s.q_begin),
          .keys = static_cast<int>(s.k_end - s.k_begin),
          .paired = true};
}

void check(const AttentionForwardArgs& a) {
  const Reach reach = check_inputs(a);
  if (a.lse) check_rows("lse", a.lse, a.shape.heads, reach.q_rows);
}

int64_t units_of(const Job& job) {
  int64_t units = 0;
  for (int i = 0; i < job.sequences; ++i) units += int64_t{units_of(job.sequence[i])} * job.heads;
  return units;
}

// Pairs even out what blocks have to do. Where all tiles weigh about the same, for most keys lie before the queries, single
// tiles spread better over few rounds of blocks.
void choose_pairs(Job& job, int multiprocessors) {
  const int64_t rounds = units_of(job) / multiprocessors;
  for (int i = 0; i < job.sequences; ++i) {
    Sequence& s = job.sequence[i];
    s.paired = rounds >= (s.keys < 2 * s.queries ? 1 : 4);
  }
}

void launch_sequences(Job& job, const Stream& stream) {
  const int multiprocessors = hopper::device_info().multiprocessors;
  choose_pairs(job, multiprocessors);
  launch(job, static_cast<int>(std::min<int64_t>(units_of(job), multiprocessors)), stream.device_stream());
  job.sequences = 0;
}

}  // namespace
}  // namespace attention::forward_sm90a

using namespace attention::forward_sm90a;

std::string refuse_attention_forward_sm90a(const AttentionForwardArgs& a) {
  const AttentionShape& s = a.shape;
  if (std::string reason = attention::refuse_shape(s); !reason.empty()) return reason;
  if (!(s.scale > 0)) return fmt::format("scores are scaled by {}", s.scale);
  const struct {
    const char* name;
    const Tensor& tensor;
    int64_t head_stride;
  } tensors[] = {
      {"q", a.q, 0}, {"k", a.k, a.k_head_stride}, {"k_rope", a.k_rope, 0}, {"v", a.v, a.v_head_stride}, {"o", a.o, 0}};
  for (const auto& t : tensors)
    if (std::string reason = attention::refuse_rows(t.name, t.tensor, t.head_stride); !reason.empty()) return reason;
  if (a.lse && a.lse.dtype != DType::kF32) return fmt::format("lse holds {}, not F32", dtype_name(a.lse.dtype));
  return "";
}

void attention_forward_sm90a(const AttentionForwardArgs& a, const Stream& stream) {
  const std::string reason = refuse_attention_forward_sm90a(a);
  CHECK(reason.empty(), "attention's forward on sm_90a: {}", reason);
  check(a);
  Job job{};
  job.o = static_cast<uint16_t*>(a.o.data);
  job.o_stride = a.o.stride;
  job.lse = a.lse ? a.lse.ptr<float>() : nullptr;
  job.lse_stride = a.lse.stride;
  job.segment_start = a.segment_start.empty() ? nullptr : a.segment_start.data();
  job.scale = static_cast<float>(a.shape.scale);
  job.scale_log2e = static_cast<float>(a.shape.scale * std::numbers::log2e);
  job.heads = static_cast<int>(a.shape.heads);
  job.k_head_stride = static_cast<int>(a.k_head_stride);
  job.v_head_stride = static_cast<int>(a.v_head_stride);
  // The most keys first: what is left for the end of a launch is small.
  std::vector<AttentionSequence> sequences(a.sequences.begin(), a.sequences.end());
  std::stable_sort(sequences.begin(), sequences.end(),
                   [](const auto& x, const auto& y) { return x.k_end - x.k_begin > y.k_end - y.k_begin; });
  for (const AttentionSequence& s : sequences) {
    if (s.q_begin == s.q_end) continue;
    job.sequence[job.sequences++] = sequence_of(a, s);
    if (job.sequences == kMostSequences) launch_sequences(job, stream);
  }
  if (job.sequences > 0) launch_sequences(job, stream);
}

}  // namespace rorqual
