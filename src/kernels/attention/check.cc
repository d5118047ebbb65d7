// What every row of attention may take for granted.
#include <algorithm>

#include "kernels/attention/kernels.h"

namespace rorqual::attention {
namespace {

void check_shape(const AttentionShape& s) {
  CHECK(s.heads >= 1 && s.kv_heads >= 1 && s.heads % s.kv_heads == 0, "{} heads, {} key heads", s.heads, s.kv_heads);
  CHECK(s.nope_dim >= 0 && s.rope_dim >= 0 && s.nope_dim + s.rope_dim >= 1 && s.v_dim >= 1, "head sizes {} + {}, {}",
        s.nope_dim, s.rope_dim, s.v_dim);
}

void check_rows(const Tensor& t, const char* name, DType dtype, int64_t rows, int64_t cols) {
  CHECK(t.dtype == dtype, "{} holds {}, expected {}", name, dtype_name(t.dtype), dtype_name(dtype));
  CHECK(t.rows >= rows && t.cols >= cols && (t.rows <= 1 || t.stride >= t.cols), "{} is [{}, {}] stride {}, needs [{}, {}]",
        name, t.rows, t.cols, t.stride, rows, cols);
  CHECK(t || rows == 0, "{} is absent", name);
}

struct Limits {
  int64_t q_rows = 0, k_rows = 0;
};

Limits check_sequences(std::span<const AttentionSequence> sequences, std::span<const int64_t> segment_start) {
  Limits limits;
  for (const AttentionSequence& s : sequences) {
    CHECK(s.q_begin >= 0 && s.k_begin >= 0 && s.q_end >= s.q_begin && s.k_end - s.k_begin >= s.q_end - s.q_begin,
          "queries [{}, {}) against keys [{}, {})", s.q_begin, s.q_end, s.k_begin, s.k_end);
    limits.q_rows = std::max(limits.q_rows, s.q_end);
    limits.k_rows = std::max(limits.k_rows, s.k_end);
  }
  if (segment_start.empty()) return limits;
  CHECK(static_cast<int64_t>(segment_start.size()) >= limits.q_rows, "{} segment starts for {} query rows",
        segment_start.size(), limits.q_rows);
  for (const AttentionSequence& s : sequences)
    for (int64_t i = s.q_begin; i < s.q_end; ++i) {
      const KeyRange keys = visible_keys(s, segment_start, i);
      CHECK(keys.begin < keys.end, "query row {} sees no key: its segment starts at {}, its last key is {}", i, keys.begin,
            keys.end - 1);
    }
  return limits;
}

int64_t head_columns(int64_t heads, int64_t head_stride, int64_t dim) {
  return (heads - 1) * head_stride + dim;
}

}  // namespace

void check_forward(const AttentionForwardArgs& a) {
  const AttentionShape& s = a.shape;
  check_shape(s);
  const Limits n = check_sequences(a.sequences, a.segment_start);
  const DType dtype = a.q.dtype;
  CHECK(dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kBF16, "q holds {}", dtype_name(dtype));
  check_rows(a.q, "q", dtype, n.q_rows, s.heads * (s.nope_dim + s.rope_dim));
  if (s.nope_dim > 0) check_rows(a.k, "k", dtype, n.k_rows, head_columns(s.kv_heads, a.k_head_stride, s.nope_dim));
  if (s.rope_dim > 0) check_rows(a.k_rope, "k_rope", dtype, n.k_rows, s.rope_dim);
  check_rows(a.v, "v", dtype, n.k_rows, head_columns(s.kv_heads, a.v_head_stride, s.v_dim));
  check_rows(a.o, "o", dtype, n.q_rows, s.heads * s.v_dim);
  if (a.lse) check_rows(a.lse, "lse", dtype == DType::kF64 ? DType::kF64 : DType::kF32, s.heads, n.q_rows);
}

void check_backward(const AttentionBackwardArgs& a) {
  const AttentionShape& s = a.shape;
  check_forward({s, a.sequences, a.segment_start, a.q, a.k, a.k_head_stride, a.k_rope, a.v, a.v_head_stride, a.o, a.lse});
  CHECK(static_cast<bool>(a.lse) || a.sequences.empty(), "lse is absent");
  const DType dtype = a.q.dtype;
  const int64_t q_dim = s.heads * (s.nope_dim + s.rope_dim);
  Limits n;
  for (const AttentionSequence& q : a.sequences) n = {std::max(n.q_rows, q.q_end), std::max(n.k_rows, q.k_end)};
  check_rows(a.d_o, "d_o", dtype, n.q_rows, s.heads * s.v_dim);
  check_rows(a.d_q, "d_q", dtype, n.q_rows, q_dim);
  if (s.nope_dim > 0) check_rows(a.d_k, "d_k", dtype, n.k_rows, head_columns(s.kv_heads, a.d_k_head_stride, s.nope_dim));
  check_rows(a.d_v, "d_v", dtype, n.k_rows, head_columns(s.kv_heads, a.d_v_head_stride, s.v_dim));
  if (s.rope_dim > 0) check_rows(a.d_k_rope, "d_k_rope", dtype, n.k_rows, s.rope_dim);
  const int64_t scratch = attention_backward_scratch(s, a.sequences);
  if (scratch > 0) check_rows(a.scratch, "scratch", dtype == DType::kF64 ? DType::kF64 : DType::kF32, 1, scratch);
}

void check_paged(const PagedAttentionArgs& a) {
  const PagedAttentionShape& s = a.shape;
  CHECK(s.heads >= 1 && s.kv_heads >= 1 && s.heads % s.kv_heads == 0, "{} heads, {} key heads", s.heads, s.kv_heads);
  CHECK(s.qk_dim >= 1 && s.v_dim >= 1 && s.v_column >= 0, "head sizes {}, {}", s.qk_dim, s.v_dim);
  int64_t rows = 0;
  for (const PagedSequence& q : a.sequences) {
    CHECK(q.q_begin >= 0 && q.q_end >= q.q_begin && q.position >= 0, "queries [{}, {}) from position {}", q.q_begin, q.q_end,
          q.position);
    rows = std::max(rows, q.q_end);
    const int64_t pages = (q.position + q.q_end - q.q_begin + kPageTokens - 1) / kPageTokens;
    for (int64_t p = 0; p < pages; ++p)
      CHECK(q.pages[p] >= 0 && (q.pages[p] + 1) * kPageTokens <= a.cache.rows, "page {} of {} rows", q.pages[p], a.cache.rows);
  }
  const DType dtype = a.q.dtype;
  CHECK(dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kBF16, "q holds {}", dtype_name(dtype));
  check_rows(a.q, "q", dtype, rows, s.heads * s.qk_dim);
  check_rows(a.o, "o", dtype, rows, s.heads * s.v_dim);
  check_rows(a.cache, "cache", dtype, 0,
             std::max(head_columns(s.kv_heads, s.k_head_stride, s.qk_dim),
                      s.v_column + head_columns(s.kv_heads, s.v_head_stride, s.v_dim)));
}

}  // namespace rorqual::attention
