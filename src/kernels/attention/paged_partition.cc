// Cuts paged attention into jobs, by sizes alone, and runs them.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/attention/kernels.h"

namespace rorqual::attention {
namespace {

constexpr int64_t kJobRows = 192;    // queries times heads: what a page is widened for
constexpr int64_t kFewJobs = 8;      // below that, heads that share a key are cut apart too
constexpr int64_t kFewestHeads = 4;  // into no fewer
constexpr double kTaskFlops = 2e6;
constexpr double kLog2E = 1.4426950408889634;

int64_t pad16(int64_t n) {
  return (n + 15) / 16 * 16;
}

struct Cut {
  const PagedSequence* sequence = nullptr;
  int64_t query = 0, queries = 0;  // of the sequence
  int64_t head = 0, heads = 0;
};

double flops_of(const PagedAttentionShape& s, int64_t rows, int64_t positions) {
  return 2.0 * static_cast<double>(rows * (s.qk_dim + s.v_dim)) * static_cast<double>(positions);
}

std::vector<Cut> cut_jobs(const PagedAttentionArgs& a) {
  const int64_t group = a.shape.heads / a.shape.kv_heads;
  const int64_t jobs = static_cast<int64_t>(a.sequences.size()) * a.shape.kv_heads;
  const int64_t wanted = jobs > 0 && jobs < kFewJobs ? (kFewJobs + jobs - 1) / jobs : 1;
  std::vector<Cut> cuts;
  for (const PagedSequence& s : a.sequences) {
    const int64_t rows = s.q_end - s.q_begin;
    // A prompt's rows are cuts enough, and every part widens the pages anew.
    const auto worth = static_cast<int64_t>(flops_of(a.shape, rows * group, s.position + rows) / kTaskFlops);
    const int64_t parts = std::max<int64_t>(1, std::min({group / kFewestHeads, wanted, worth}));
    const int64_t heads = rows >= kFewJobs ? group : (group + parts - 1) / parts;
    const int64_t queries = std::max<int64_t>(1, kJobRows / heads);
    for (int64_t q = 0; q < rows; q += queries)
      for (int64_t g = 0; g < a.shape.kv_heads; ++g)
        for (int64_t h = 0; h < group; h += heads)
          cuts.push_back({&s, q, std::min(queries, rows - q), g * group + h, std::min(heads, group - h)});
  }
  return cuts;
}

Rows rows_at(const Tensor& t, int64_t row, int64_t column) {
  return {t.raw_row(row) + column * size_of(t.dtype), t.stride};
}

PagedJob job_of(const PagedAttentionArgs& a, const Cut& c) {
  const PagedAttentionShape& s = a.shape;
  const int64_t kv_head = c.head / (s.heads / s.kv_heads), row = c.sequence->q_begin + c.query;
  PagedJob job;
  job.bf16 = a.q.dtype == DType::kBF16;
  job.qk_dim = s.qk_dim;
  job.v_dim = s.v_dim;
  job.scale_log2e = static_cast<float>(s.scale * kLog2E);
  job.queries = c.queries;
  job.heads = c.heads;
  job.position = c.sequence->position + c.query;
  job.pages = c.sequence->pages;
  job.q = rows_at(a.q, row, c.head * s.qk_dim);
  job.o = rows_at(a.o, row, c.head * s.v_dim);
  job.k = rows_at(a.cache, 0, kv_head * s.k_head_stride);
  job.v = rows_at(a.cache, 0, s.v_column + kv_head * s.v_head_stride);
  job.value_in_key = job.k.data == job.v.data && s.v_dim <= s.qk_dim;
  return job;
}

}  // namespace

// As PagedState cuts it.
int64_t paged_scratch(const PagedJob& j) {
  const int64_t rows = j.queries * j.heads, padded = pad16(j.qk_dim), v_padded = pad16(j.v_dim);
  return rows * (padded + v_padded) + kPage * (pad16(j.qk_dim) + padded + v_padded) + 8 * kPage + 2 * pad16(rows);
}

void run_paged_jobs(const PagedAttentionArgs& a, const Stream& stream, void (*run)(const PagedJob&)) {
  const std::vector<Cut> cuts = cut_jobs(a);
  std::vector<size_t> task_end;
  double flops = 0;
  for (size_t i = 0; i < cuts.size(); ++i) {
    const Cut& c = cuts[i];
    flops += flops_of(a.shape, c.queries * c.heads, c.sequence->position + c.query + c.queries);
    if (flops < kTaskFlops && i + 1 < cuts.size()) continue;
    task_end.push_back(i + 1);
    flops = 0;
  }
  stream.parallel(static_cast<int64_t>(task_end.size()), [&](int64_t t) {
    const auto task = static_cast<size_t>(t);
    for (size_t i = task == 0 ? 0 : task_end[task - 1]; i < task_end[task]; ++i) {
      PagedJob job = job_of(a, cuts[i]);
      job.scratch = static_cast<float*>(thread_scratch(0, 4 * paged_scratch(job)));
      run(job);
    }
  });
}

}  // namespace rorqual::attention

namespace rorqual {

void write_pages(const Tensor& rows, std::span<const PagedSequence> sequences, const Tensor& cache, const Stream& stream) {
  CHECK(rows.dtype == cache.dtype && rows.cols == cache.cols, "{} columns of {} into {} of {}", rows.cols,
        dtype_name(rows.dtype), cache.cols, dtype_name(cache.dtype));
  stream.parallel(1, [&](int64_t) {
    for (const PagedSequence& s : sequences)
      for (int64_t i = s.q_begin; i < s.q_end; ++i) {
        const int64_t at = s.position + i - s.q_begin;
        std::memcpy(cache.raw_row(s.pages[at / kPageTokens] * kPageTokens + at % kPageTokens), rows.raw_row(i),
                    static_cast<size_t>(bytes_of(rows.dtype, rows.cols)));
      }
  });
}

}  // namespace rorqual
