// Attention of many sequences' newest tokens against a paged cache: decoding and chunks of prompts alike.
// s = q·k · scale, p = softmax(s), o = p·v over the positions up to the query's own.
// Absorbed MLA (spec 1.3): one key head, a cache row is latent | rotated rope key, the value is the latent; the query is
// W_ukᵀ·q_nope | q_rope. Grouped-query attention: kv_heads keys, then as many values, in a cache row.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/registry.h"
#include "tensor/tensor.h"

namespace rorqual {

inline constexpr int64_t kPageTokens = 64;

// Query rows [q_begin, q_end) stand at positions `position`, `position` + 1, …; position p lies in cache row
// pages[p / 64]·64 + p % 64.
struct PagedSequence {
  int64_t q_begin = 0, q_end = 0;
  int64_t position = 0;
  const int32_t* pages = nullptr;  // at least (position + q_end − q_begin + 63) / 64
};

struct PagedAttentionShape {
  int64_t heads = 0;          // query heads
  int64_t kv_heads = 0;       // divides heads; head h reads key head h / (heads / kv_heads)
  int64_t qk_dim = 0;         // of a query head and of a key
  int64_t v_dim = 0;          // of a value and of an output head
  int64_t k_head_stride = 0;  // key head g: columns [g·k_head_stride, + qk_dim) of a cache row
  int64_t v_column = 0;       // value head g: columns [v_column + g·v_head_stride, + v_dim)
  int64_t v_head_stride = 0;
  double scale = 0;
};

// Dtypes: all BF16, all F32 or all F64; softmax and sums in FP32 (double for F64). Rows of q that belong to no sequence are
// left out of o. Cache rows beyond a sequence's last position are not read.
struct PagedAttentionArgs {
  PagedAttentionShape shape;
  std::span<const PagedSequence> sequences;
  Tensor q;             // [rows, heads·qk_dim], rotated
  Tensor cache;         // [pages·64, …], the queries' own keys included
  Tensor o;             // [rows, heads·v_dim]
  Tensor scratch = {};  // for kernels on a GPU, which say how much (sm90a.h)
};
// A query's bits depend on its own row and on the keys and values up to its position alone: not on the pages they lie in, on
// other rows, on the cut of a prompt into chunks, or on threads. Cached values must be finite for that.
void paged_attention(const PagedAttentionArgs& args, const Stream& stream);
std::span<const KernelRow<PagedAttentionArgs>> paged_attention_kernels();

// Copies row i of `rows` [rows, width] to its place in the cache [pages·64, width].
void write_pages(const Tensor& rows, std::span<const PagedSequence> sequences, const Tensor& cache, const Stream& stream);

}  // namespace rorqual
