// Checks and tensor maps of attention's forward pass on Hopper.
#include <algorithm>
#include <numbers>
#include <vector>

#include "hopper/runtime.h"
#include "hopper/tensor_map.h"
#include "kernels/attention/sm90a.h"
#include "kernels/attention/sm90a_forward_job.h"

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

std::string refuse_rows(const char* name, const Tensor& t, int64_t head_stride = 0) {
  if (t.dtype != DType::kBF16) return fmt::format("{} holds {}, not BF16", name, dtype_name(t.dtype));
  if (reinterpret_cast<uintptr_t>(t.data) % 16 != 0 || t.stride % 8 != 0 || head_stride % 8 != 0)
    return fmt::format("rows of {} are not 16-byte aligned", name);
  return "";
}

void check_rows(const char* name, const Tensor& t, int64_t rows, int64_t cols) {
  CHECK(t.rows >= rows && t.cols >= cols && (t || rows == 0), "{} is [{}, {}], needs [{}, {}]", name, t.rows, t.cols, rows,
        cols);
}

void check(const AttentionForwardArgs& a) {
  const int64_t heads = a.shape.heads;
  int64_t q_rows = 0, k_rows = 0;
  for (const AttentionSequence& s : a.sequences) {
    CHECK(s.q_begin >= 0 && s.k_begin >= 0 && s.q_end >= s.q_begin && s.k_end - s.k_begin >= s.q_end - s.q_begin,
          "queries [{}, {}) against keys [{}, {})", s.q_begin, s.q_end, s.k_begin, s.k_end);
    q_rows = std::max(q_rows, s.q_end);
    k_rows = std::max(k_rows, s.k_end);
  }
  check_rows("q", a.q, q_rows, heads * kHead);
  check_rows("k", a.k, k_rows, (heads - 1) * a.k_head_stride + kNope);
  check_rows("k_rope", a.k_rope, k_rows, kRope);
  check_rows("v", a.v, k_rows, (heads - 1) * a.v_head_stride + kValue);
  check_rows("o", a.o, q_rows, heads * kValue);
  if (a.lse) check_rows("lse", a.lse, heads, q_rows);
  CHECK(a.segment_start.empty() || static_cast<int64_t>(a.segment_start.size()) >= q_rows,
        "{} segment starts for {} query rows", a.segment_start.size(), q_rows);
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
  if (s.heads != s.kv_heads) return fmt::format("{} heads share {} key heads", s.heads, s.kv_heads);
  if (s.nope_dim != kNope || s.rope_dim != kRope || s.v_dim != kValue)
    return fmt::format("head sizes are {} + {}, {}, not {} + {}, {}", s.nope_dim, s.rope_dim, s.v_dim, kNope, kRope, kValue);
  if (!(s.scale > 0)) return fmt::format("scores are scaled by {}", s.scale);
  const struct {
    const char* name;
    const Tensor& tensor;
    int64_t head_stride;
  } tensors[] = {
      {"q", a.q, 0}, {"k", a.k, a.k_head_stride}, {"k_rope", a.k_rope, 0}, {"v", a.v, a.v_head_stride}, {"o", a.o, 0}};
  for (const auto& t : tensors)
    if (std::string reason = refuse_rows(t.name, t.tensor, t.head_stride); !reason.empty()) return reason;
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
