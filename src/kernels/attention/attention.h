// Causal attention of training and of prompt processing, blocked over keys: nothing of size tokens × tokens is stored.
// s = (q_nope·k_nope + q_rope·k_rope) · scale, p = softmax(s), o = p·v   (spec 1.3; report §2.1.1)
// MLA passes the rope key apart, one for all heads; grouped-query attention passes rope_dim = 0 and fewer key heads.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/registry.h"
#include "tensor/tensor.h"

namespace rorqual {

// One sequence: query rows [q_begin, q_end) against key rows [k_begin, k_end). The last query sees the last key: query row i
// has key limit k_end - (q_end - q_begin) + (i - q_begin), inclusive. In training both ranges are equal; with a cache keys are
// longer, never shorter.
struct AttentionSequence {
  int64_t q_begin = 0, q_end = 0, k_begin = 0, k_end = 0;
};

struct AttentionShape {
  int64_t heads = 0;     // query heads
  int64_t kv_heads = 0;  // heads of k and v; divides heads; head h reads kv head h / (heads / kv_heads)
  int64_t nope_dim = 0;  // the whole head size for grouped-query attention
  int64_t rope_dim = 0;  // 0: no shared rope key
  int64_t v_dim = 0;
  double scale = 0;
};

// Dtypes: q, k, k_rope, v, o and their gradients all BF16, all F32 or all F64; lse F32 (F64 for double). Softmax and sums in
// FP32 (double for F64); with BF16 operands p and ds are rounded to BF16 before they are multiplied, as the report does; in
// forward the rounded weight is exp(s - maximum so far), divided by the sum after the product. Row r,
// head h, element d of k lies at k.row(r) + h·k_head_stride + d; q and o have head stride nope_dim + rope_dim and v_dim.
struct AttentionForwardArgs {
  AttentionShape shape;
  std::span<const AttentionSequence> sequences;
  std::span<const int64_t> segment_start;  // empty, or per query row the first key row it may see (k_begin .. its key limit)
  Tensor q;                                // [q rows, heads·(nope+rope)], rope part after nope in each head, already rotated
  Tensor k;                                // [k rows, …] nope part
  int64_t k_head_stride = 0;               // elements between kv heads in a row of k; likewise v
  Tensor k_rope;                           // [k rows, rope_dim], already rotated; absent if rope_dim = 0
  Tensor v;
  int64_t v_head_stride = 0;
  Tensor o;    // [q rows, heads·v_dim]
  Tensor lse;  // [heads, q rows] log-sum-exp of the scaled scores; may be absent
};
// A query's bits do not depend on which other queries are in the call: decoding repeats training. Values must be finite for
// that.
void attention_forward(const AttentionForwardArgs& args, const Stream& stream);
std::span<const KernelRow<AttentionForwardArgs>> attention_forward_kernels();

// Gradients (docs/backward/attention.md). The same order on every number of threads: dk and dv are summed over the query heads
// that share a key head ascending, in each over queries ascending; dk_rope likewise, then over key heads ascending. Sequences
// must not share key rows. Rows that belong to no sequence are left as they are.
struct AttentionBackwardArgs {
  AttentionShape shape;
  std::span<const AttentionSequence> sequences;
  std::span<const int64_t> segment_start;
  Tensor q, k, k_rope, v, o, lse;
  int64_t k_head_stride = 0, v_head_stride = 0;
  Tensor d_o;  // [q rows, heads·v_dim]
  Tensor d_q;  // like q; overwritten
  Tensor d_k;  // laid out like k (its own row stride, d_k_head_stride); overwritten
  Tensor d_v;
  int64_t d_k_head_stride = 0, d_v_head_stride = 0;
  Tensor d_k_rope;  // [k rows, rope_dim]; overwritten
  Tensor scratch;   // F32 (F64 for double), [1, attention_backward_scratch(...)] elements, from the caller's arena; absent if 0
};
// Elements of scratch that backward needs for these shapes.
int64_t attention_backward_scratch(const AttentionShape& shape, std::span<const AttentionSequence> sequences);
void attention_backward(const AttentionBackwardArgs& args, const Stream& stream);
std::span<const KernelRow<AttentionBackwardArgs>> attention_backward_kernels();

}  // namespace rorqual
