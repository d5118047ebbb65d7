// Cuts attention into jobs, by sizes alone, and runs them.
#include <algorithm>
#include <vector>

#include "kernels/attention/job.h"
#include "kernels/attention/kernels.h"

namespace rorqual::attention {
namespace {

constexpr double kTaskFlops = 2e6;  // at least this much work per task, if there is as much: 20 µs and more
constexpr double kLog2E = 1.4426950408889634;

// Jobs [begin, end) of one task.
struct Task {
  size_t begin = 0, end = 0;
};

// A job's place: its sequence, head (forward: query head, backward: key head) and query rows.
struct Place {
  const AttentionSequence* sequence = nullptr;
  int64_t sequence_index = 0, head = 0, q_begin = 0, q_end = 0;
};

// Multiplications and additions, masks of segments left aside.
double job_flops(const AttentionSequence& s, int64_t q_begin, int64_t q_end, double per_score) {
  const double rows = static_cast<double>(q_end - q_begin);
  const double last = static_cast<double>(s.k_end - s.k_begin - (s.q_end - q_end));
  return rows * (last - (rows - 1) / 2) * per_score;
}

std::vector<Task> group_jobs(const std::vector<double>& flops) {
  std::vector<Task> tasks;
  double sum = 0;
  size_t begin = 0;
  for (size_t i = 0; i < flops.size(); ++i) {
    sum += flops[i];
    if (sum < kTaskFlops && i + 1 < flops.size()) continue;
    tasks.push_back({begin, i + 1});
    begin = i + 1;
    sum = 0;
  }
  return tasks;
}

Rows rows_of(const Tensor& t, int64_t row, int64_t column) {
  if (!t) return {};
  return {t.raw_row(row) + column * size_of(t.dtype), t.stride};
}

template <class Args>
JobShape job_shape(const Args& a, const Place& p) {
  const AttentionSequence& s = *p.sequence;
  JobShape shape;
  shape.bf16 = a.q.dtype == DType::kBF16;
  shape.nope = a.shape.nope_dim;
  shape.rope = a.shape.rope_dim;
  shape.v_dim = a.shape.v_dim;
  shape.scale = static_cast<float>(a.shape.scale);
  shape.scale_log2e = static_cast<float>(a.shape.scale * kLog2E);
  shape.queries = p.q_end - p.q_begin;
  shape.first_limit = s.k_end - s.k_begin - (s.q_end - p.q_begin);
  shape.keys = shape.first_limit + shape.queries;
  shape.segment_start = a.segment_start.empty() ? nullptr : a.segment_start.data() + p.q_begin;
  shape.k_begin = s.k_begin;
  return shape;
}

ForwardJob forward_job(const AttentionForwardArgs& a, const Place& p) {
  const AttentionShape& s = a.shape;
  const int64_t kv_head = p.head / (s.heads / s.kv_heads), k_begin = p.sequence->k_begin;
  ForwardJob job;
  job.shape = job_shape(a, p);
  job.q = rows_of(a.q, p.q_begin, p.head * (s.nope_dim + s.rope_dim));
  job.k = rows_of(a.k, k_begin, kv_head * a.k_head_stride);
  job.k_rope = rows_of(a.k_rope, k_begin, 0);
  job.v = rows_of(a.v, k_begin, kv_head * a.v_head_stride);
  job.o = rows_of(a.o, p.q_begin, p.head * s.v_dim);
  job.lse = a.lse ? a.lse.row<float>(p.head) + p.q_begin : nullptr;
  return job;
}

BackwardJob backward_job(const AttentionBackwardArgs& a, const Place& p, float* rope_partial) {
  const AttentionShape& s = a.shape;
  const int64_t group = s.heads / s.kv_heads, head = p.head * group, k_begin = p.sequence->k_begin;
  BackwardJob job;
  job.shape = job_shape(a, p);
  job.group = group;
  job.q = rows_of(a.q, p.q_begin, head * (s.nope_dim + s.rope_dim));
  job.k = rows_of(a.k, k_begin, p.head * a.k_head_stride);
  job.k_rope = rows_of(a.k_rope, k_begin, 0);
  job.v = rows_of(a.v, k_begin, p.head * a.v_head_stride);
  job.o = rows_of(a.o, p.q_begin, head * s.v_dim);
  job.d_o = rows_of(a.d_o, p.q_begin, head * s.v_dim);
  job.d_q = rows_of(a.d_q, p.q_begin, head * (s.nope_dim + s.rope_dim));
  job.d_k = rows_of(a.d_k, k_begin, p.head * a.d_k_head_stride);
  job.d_v = rows_of(a.d_v, k_begin, p.head * a.d_v_head_stride);
  job.lse = a.lse.row<float>(head) + p.q_begin;
  job.lse_stride = a.lse.stride;
  job.d_k_rope = rope_partial;
  return job;
}

// d_k_rope of one sequence: the sum over key heads, ascending.
template <class T>
void reduce_rope(const AttentionBackwardArgs& a, const AttentionSequence& s, const float* partials, int64_t head_stride) {
  const int64_t rope = a.shape.rope_dim;
  for (int64_t j = s.k_begin; j < s.k_end; ++j) {
    T* out = static_cast<T*>(a.d_k_rope.data) + j * a.d_k_rope.stride;
    const float* in = partials + (j - s.k_begin) * rope;
    for (int64_t d = 0; d < rope; ++d) {
      float sum = 0;
      for (int64_t h = 0; h < a.shape.kv_heads; ++h) sum += in[h * head_stride + d];
      out[d] = static_cast<T>(sum);
    }
  }
}

int64_t pad(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}
int64_t pad16(int64_t n) {
  return pad(n, 16);
}

}  // namespace

// In the order in which ForwardState and BackwardState cut it; each piece is rounded up to 16 floats.
int64_t forward_scratch(const JobShape& s) {
  const int64_t padded = pad16(s.dim()), v_padded = pad16(s.v_dim);
  return 2 * pad16(2 * s.queries) + kForwardKeys * (s.dim() + v_padded) + kWidestPanel * padded +
         pad(s.queries, 32) * v_padded + kQueryGroup * (padded + kForwardKeys) + 2 * pad16(s.queries);
}

int64_t backward_scratch(const JobShape& s) {
  const int64_t padded = pad16(s.dim()), v_padded = pad16(s.v_dim), block = kBackwardBlock;
  return 2 * pad16(2 * s.queries) + s.queries * (padded + v_padded) + pad(s.queries, block) * padded + 2 * pad16(s.queries) +
         v_padded + pad(s.keys, block) * (padded + v_padded) + block * (padded + v_padded + s.dim() + s.v_dim) +
         2 * block * block;
}

// What AmxForward and AmxBackward cut on top: bf16, two to a float.
int64_t amx_forward_scratch(const JobShape& s) {
  const int64_t depth = pad(s.dim(), 32), v_padded = pad16(s.v_dim), group = 32;
  return forward_scratch(s) + group * kForwardKeys +
         (group * (depth + kForwardKeys) + kForwardKeys * (std::max(depth, v_padded) + depth + v_padded)) / 2;
}

int64_t amx_backward_scratch(const JobShape& s) {
  const int64_t depth = pad(s.dim(), 32), v_depth = pad(s.v_dim, 32), block = kBackwardBlock;
  return backward_scratch(s) +
         (pad(s.queries, block) * 2 * (depth + v_depth) + block * (3 * depth + 2 * v_depth) + 3 * block * block) / 2;
}

void run_forward_jobs(const AttentionForwardArgs& a, const Stream& stream, void (*run)(const ForwardJob&),
                      int64_t (*scratch)(const JobShape&)) {
  check_forward(a);
  std::vector<Place> places;
  std::vector<double> flops;
  const double per_score = 2.0 * static_cast<double>(a.shape.nope_dim + a.shape.rope_dim + a.shape.v_dim);
  for (size_t i = 0; i < a.sequences.size(); ++i) {
    const AttentionSequence& s = a.sequences[i];
    for (int64_t head = 0; head < a.shape.heads; ++head)
      for (int64_t q = s.q_begin; q < s.q_end; q += kQueryChunk) {
        places.push_back({&s, static_cast<int64_t>(i), head, q, std::min(q + kQueryChunk, s.q_end)});
        flops.push_back(job_flops(s, q, places.back().q_end, per_score));
      }
  }
  const std::vector<Task> tasks = group_jobs(flops);
  stream.parallel(static_cast<int64_t>(tasks.size()), [&](int64_t t) {
    const Task& task = tasks[static_cast<size_t>(t)];
    for (size_t i = task.begin; i < task.end; ++i) {
      ForwardJob job = forward_job(a, places[i]);
      job.scratch = static_cast<float*>(thread_scratch(0, 4 * scratch(job.shape)));
      run(job);
    }
  });
}

void run_backward_jobs(const AttentionBackwardArgs& a, const Stream& stream, void (*run)(const BackwardJob&),
                       int64_t (*scratch)(const JobShape&)) {
  check_backward(a);
  const int64_t rope = a.shape.rope_dim, kv_heads = a.shape.kv_heads;
  std::vector<Place> places;
  std::vector<double> flops;
  std::vector<int64_t> offset(1, 0);  // of a sequence's keys among all keys
  const double per_score = 2.0 * static_cast<double>(a.shape.heads / kv_heads) *
                           static_cast<double>(3 * (a.shape.nope_dim + rope) + 2 * a.shape.v_dim);
  for (size_t i = 0; i < a.sequences.size(); ++i) {
    const AttentionSequence& s = a.sequences[i];
    offset.push_back(offset.back() + s.k_end - s.k_begin);
    for (int64_t head = 0; head < kv_heads; ++head) {
      places.push_back({&s, static_cast<int64_t>(i), head, s.q_begin, s.q_end});
      flops.push_back(job_flops(s, s.q_begin, s.q_end, per_score));
    }
  }
  float* partials = rope > 0 && offset.back() > 0 ? a.scratch.ptr<float>() : nullptr;  // [kv_heads, keys, rope]
  const int64_t keys = offset.back();
  const std::vector<Task> tasks = group_jobs(flops);
  stream.parallel(static_cast<int64_t>(tasks.size()), [&](int64_t t) {
    const Task& task = tasks[static_cast<size_t>(t)];
    for (size_t i = task.begin; i < task.end; ++i) {
      const Place& p = places[i];
      float* partial = partials ? partials + (p.head * keys + offset[static_cast<size_t>(p.sequence_index)]) * rope : nullptr;
      BackwardJob job = backward_job(a, p, partial);
      job.scratch = static_cast<float*>(thread_scratch(0, 4 * scratch(job.shape)));
      run(job);
    }
  });
  if (!partials) return;
  const auto sequences = static_cast<int64_t>(a.sequences.size());
  const int64_t reduce_tasks = keys * kv_heads * rope < 100'000 ? 1 : sequences;
  stream.parallel(reduce_tasks, [&](int64_t t) {
    for (int64_t i = t; i < sequences; i += reduce_tasks) {
      const AttentionSequence& s = a.sequences[static_cast<size_t>(i)];
      const float* in = partials + offset[static_cast<size_t>(i)] * rope;
      if (a.q.dtype == DType::kBF16)
        reduce_rope<Bf16>(a, s, in, keys * rope);
      else
        reduce_rope<float>(a, s, in, keys * rope);
    }
  });
}

}  // namespace rorqual::attention
