// Attention on Hopper GPUs. All pointers in the arguments are device pointers; spans over sequences are host memory.
#pragma once

#include <span>
#include <string>

#include "kernels/attention/attention.h"
#include "kernels/attention/paged_attention.h"

namespace rorqual {

// MLA's training attention: BF16, one key head per query head, head sizes 128 + 64 and 128, a positive scale. The data of
// segment_start is device memory. Weights are exp(s − maximum so far) over tiles of 128 keys counted from the sequence's first
// one, rounded to BF16 for the product with V, unrounded in their sum; O is divided by it at the end. A query's bits depend on
// its own row and on the keys it sees alone. Values must be finite.
// A causal product costs heads · Σ over queries of keys seen · 2 · (192 + 128) operations; of diagonal tiles all is computed.
void attention_forward_sm90a(const AttentionForwardArgs& args, const Stream& stream);
std::string refuse_attention_forward_sm90a(const AttentionForwardArgs& args);

// Gradients of MLA's training attention: BF16, one key head per query head, head sizes 128 + 64 and 128. The data of
// segment_start is device memory. Scratch: attention_backward_scratch_sm90a elements, of any content. Bits do not depend on
// timing; order of sums: dq over tiles of 128 keys ascending, dk and dv over tiles of 64 queries descending, dk_rope over heads
// ascending. Values must be finite.
void attention_backward_sm90a(const AttentionBackwardArgs& args, const Stream& stream);
std::string refuse_attention_backward_sm90a(const AttentionBackwardArgs& args);
int64_t attention_backward_scratch_sm90a(const AttentionShape& shape, std::span<const AttentionSequence> sequences);

// Absorbed MLA over the paged cache: BF16, up to 128 heads on one key head of 576 columns whose first 512 are the value. A
// query's keys are summed up page by page in parts of 2048 from position 0, then the parts in ascending order. Cache rows
// beyond a sequence's last position may hold anything. Scratch: F32 of any content, for queries at position 2048 or later; if
// less than what is asked for, the queries go in several launches, an Error if not even one finds room. Same bits with any.
void paged_attention_sm90a(const PagedAttentionArgs& args, const Stream& stream);
std::string refuse_paged_attention_sm90a(const PagedAttentionArgs& args);
// Elements of scratch for all queries at once, but at most 256 MiB unless one query needs more.
int64_t paged_attention_scratch_sm90a(const PagedAttentionArgs& args);

// write_pages for rows of any dtype that are multiples of 16 bytes.
void write_pages_sm90a(const Tensor& rows, std::span<const PagedSequence> sequences, const Tensor& cache, const Stream& stream);
std::string refuse_write_pages_sm90a(const Tensor& rows, const Tensor& cache);

}  // namespace rorqual
