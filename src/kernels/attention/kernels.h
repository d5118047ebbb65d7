// Internal to attention/: the rows' entry points and what they share. Only select.cc and tests include what ISA files export.
#pragma once

#include <cstdint>

#include "kernels/attention/attention.h"
#include "kernels/attention/job.h"
#include "kernels/attention/paged_attention.h"

namespace rorqual::attention {

// Shapes, dtypes and ranges that every row relies on. A violation is a CHECK: callers build these arguments, not users.
void check_forward(const AttentionForwardArgs& args);
void check_backward(const AttentionBackwardArgs& args);
void check_paged(const PagedAttentionArgs& args);

// Keys that a query row sees: key rows [begin, end).
struct KeyRange {
  int64_t begin = 0, end = 0;
};
inline KeyRange visible_keys(const AttentionSequence& s, std::span<const int64_t> segment_start, int64_t query_row) {
  const int64_t limit = s.k_end - (s.q_end - s.q_begin) + (query_row - s.q_begin);
  const int64_t start = segment_start.empty() ? s.k_begin : segment_start[static_cast<size_t>(query_row)];
  return {start > s.k_begin ? start : s.k_begin, limit + 1};
}

void forward_reference(const AttentionForwardArgs& args, const Stream& stream);
void backward_reference(const AttentionBackwardArgs& args, const Stream& stream);
void paged_reference(const PagedAttentionArgs& args, const Stream& stream);

// Cut the arguments (F32 or BF16) into jobs and run them, each with scratch(shape) floats. Tasks are a function of the sizes
// alone.
void run_forward_jobs(const AttentionForwardArgs& args, const Stream& stream, void (*run)(const ForwardJob&),
                      int64_t (*scratch)(const JobShape&) = forward_scratch);
void run_backward_jobs(const AttentionBackwardArgs& args, const Stream& stream, void (*run)(const BackwardJob&),
                       int64_t (*scratch)(const JobShape&) = backward_scratch);
void run_paged_jobs(const PagedAttentionArgs& args, const Stream& stream, void (*run)(const PagedJob&));

}  // namespace rorqual::attention
