// The scalar truth of paged attention: plain softmax over a query's visible keys, sums in ascending order of keys.
#include <cmath>
#include <vector>

#include "kernels/attention/kernels.h"

namespace rorqual::attention {
namespace {

template <class T>
void one_query(const PagedAttentionArgs& a, const PagedSequence& s, int64_t row, int64_t head) {
  using C = compute_t<T>;
  const PagedAttentionShape& shape = a.shape;
  const int64_t keys = s.position + row - s.q_begin + 1, kv_head = head / (shape.heads / shape.kv_heads);
  const auto cached = [&](int64_t position) {
    return a.cache.row<T>(s.pages[position / kPageTokens] * kPageTokens + position % kPageTokens);
  };
  const T* q = a.q.row<T>(row) + head * shape.qk_dim;
  std::vector<C> p(static_cast<size_t>(keys));
  C largest = -INFINITY, sum = 0;
  for (int64_t j = 0; j < keys; ++j) {
    const T* k = cached(j) + kv_head * shape.k_head_stride;
    C score = 0;
    for (int64_t d = 0; d < shape.qk_dim; ++d) score += C(q[d]) * C(k[d]);
    p[static_cast<size_t>(j)] = score *= static_cast<C>(shape.scale);
    if (!(score <= largest)) largest = score;  // a NaN score stays and spreads
  }
  for (C& x : p) sum += x = std::exp(x - largest);
  for (int64_t d = 0; d < shape.v_dim; ++d) {
    C o = 0;
    for (int64_t j = 0; j < keys; ++j)
      o += p[static_cast<size_t>(j)] * C(cached(j)[shape.v_column + kv_head * shape.v_head_stride + d]);
    a.o.row<T>(row)[head * shape.v_dim + d] = static_cast<T>(o / sum);
  }
}

}  // namespace

void paged_reference(const PagedAttentionArgs& a, const Stream& stream) {
  stream.parallel(static_cast<int64_t>(a.sequences.size()) * a.shape.heads, [&](int64_t task) {
    const PagedSequence& s = a.sequences[static_cast<size_t>(task / a.shape.heads)];
    visit_float(a.q.dtype, [&](auto zero) {
      for (int64_t row = s.q_begin; row < s.q_end; ++row) one_query<decltype(zero)>(a, s, row, task % a.shape.heads);
    });
  });
}

}  // namespace rorqual::attention
