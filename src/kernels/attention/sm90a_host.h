// Checks that forward and backward of training attention on Hopper share.
#pragma once

#include <algorithm>
#include <string>

#include "kernels/attention/attention.h"
#include "kernels/attention/sm90a_sizes.h"

namespace rorqual::attention {

// Why the kernels cannot take this, or empty.
inline std::string refuse_shape(const AttentionShape& s) {
  if (s.heads != s.kv_heads) return fmt::format("{} heads share {} key heads", s.heads, s.kv_heads);
  if (s.nope_dim != kNope || s.rope_dim != kRope || s.v_dim != kValue)
    return fmt::format("head sizes are {} + {}, {}, not {} + {}, {}", s.nope_dim, s.rope_dim, s.v_dim, kNope, kRope, kValue);
  return "";
}
inline std::string refuse_rows(const char* name, const Tensor& t, int64_t head_stride = 0) {
  if (t.dtype != DType::kBF16) return fmt::format("{} holds {}, not BF16", name, dtype_name(t.dtype));
  if (reinterpret_cast<uintptr_t>(t.data) % 16 != 0 || t.stride % 8 != 0 || head_stride % 8 != 0)
    return fmt::format("rows of {} are not 16-byte aligned", name);
  return "";
}

inline void check_rows(const char* name, const Tensor& t, int64_t rows, int64_t cols) {
  CHECK(t.rows >= rows && t.cols >= cols && (t || rows == 0), "{} is [{}, {}], needs [{}, {}]", name, t.rows, t.cols, rows,
        cols);
}

// Rows of queries and keys that the sequences reach.
struct Reach {
  int64_t q_rows = 0, k_rows = 0;
};
// Of AttentionForwardArgs and AttentionBackwardArgs: sequences, segments, and the matrices that both read.
template <class Args>
Reach check_inputs(const Args& a) {
  const int64_t heads = a.shape.heads;
  Reach reach;
  for (const AttentionSequence& s : a.sequences) {
    CHECK(s.q_begin >= 0 && s.k_begin >= 0 && s.q_end >= s.q_begin && s.k_end - s.k_begin >= s.q_end - s.q_begin,
          "queries [{}, {}) against keys [{}, {})", s.q_begin, s.q_end, s.k_begin, s.k_end);
    reach.q_rows = std::max(reach.q_rows, s.q_end);
    reach.k_rows = std::max(reach.k_rows, s.k_end);
  }
  check_rows("q", a.q, reach.q_rows, heads * kHead);
  check_rows("k", a.k, reach.k_rows, (heads - 1) * a.k_head_stride + kNope);
  check_rows("k_rope", a.k_rope, reach.k_rows, kRope);
  check_rows("v", a.v, reach.k_rows, (heads - 1) * a.v_head_stride + kValue);
  check_rows("o", a.o, reach.q_rows, heads * kValue);
  CHECK(a.segment_start.empty() || static_cast<int64_t>(a.segment_start.size()) >= reach.q_rows,
        "{} segment starts for {} query rows", a.segment_start.size(), reach.q_rows);
  return reach;
}

}  // namespace rorqual::attention
