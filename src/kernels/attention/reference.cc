// The scalar truth of attention: plain softmax over a row's visible keys, sums in ascending key, query and head order.
#include <cmath>
#include <vector>

#include "kernels/attention/kernels.h"

namespace rorqual::attention {
namespace {

// What p and ds become before they are multiplied: themselves, or BF16 when the operands are BF16.
template <class T>
compute_t<T> rounded(compute_t<T> x) {
  return static_cast<compute_t<T>>(static_cast<T>(x));
}

// One head of one sequence: where its elements are.
template <class T>
struct Head {
  using C = compute_t<T>;
  const AttentionShape& shape;
  const Tensor &q, &k, &k_rope, &v;
  int64_t head, q_column, k_column, v_column, o_column;

  template <class Args>
  Head(const Args& a, int64_t h)
      : shape(a.shape),
        q(a.q),
        k(a.k),
        k_rope(a.k_rope),
        v(a.v),
        head(h),
        q_column(h * (a.shape.nope_dim + a.shape.rope_dim)),
        k_column(h / (a.shape.heads / a.shape.kv_heads) * a.k_head_stride),
        v_column(h / (a.shape.heads / a.shape.kv_heads) * a.v_head_stride),
        o_column(h * a.shape.v_dim) {}

  // The key element d of [nope | rope].
  C key(int64_t row, int64_t d) const {
    return d < shape.nope_dim ? C(k.row<T>(row)[k_column + d]) : C(k_rope.row<T>(row)[d - shape.nope_dim]);
  }
  C value(int64_t row, int64_t d) const { return C(v.row<T>(row)[v_column + d]); }
  C score(int64_t query_row, int64_t key_row) const {
    const T* query = q.row<T>(query_row) + q_column;
    C sum = 0;
    for (int64_t d = 0; d < shape.nope_dim + shape.rope_dim; ++d) sum += C(query[d]) * key(key_row, d);
    return sum * static_cast<C>(shape.scale);
  }
};

template <class T>
void forward_row(const AttentionForwardArgs& a, const Head<T>& head, int64_t row, KeyRange keys) {
  using C = compute_t<T>;
  std::vector<C> p(static_cast<size_t>(keys.end - keys.begin));
  C largest = -INFINITY, sum = 0;
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    C& s = p[static_cast<size_t>(j - keys.begin)];
    s = head.score(row, j);
    if (!(s <= largest)) largest = s;  // a NaN score stays and spreads
  }
  for (C& s : p) {
    s = std::exp(s - largest);
    sum += s;
  }
  for (int64_t d = 0; d < a.shape.v_dim; ++d) {
    C o = 0;
    for (int64_t j = keys.begin; j < keys.end; ++j) o += rounded<T>(p[static_cast<size_t>(j - keys.begin)]) * head.value(j, d);
    a.o.row<T>(row)[head.o_column + d] = static_cast<T>(o / sum);
  }
  if (a.lse) a.lse.row<C>(head.head)[row] = largest + std::log(sum);
}

template <class T>
void forward(const AttentionForwardArgs& a, const Stream& stream) {
  const auto sequences = static_cast<int64_t>(a.sequences.size());
  stream.parallel(sequences * a.shape.heads, [&](int64_t task) {
    const AttentionSequence& s = a.sequences[static_cast<size_t>(task / a.shape.heads)];
    const Head<T> head(a, task % a.shape.heads);
    for (int64_t i = s.q_begin; i < s.q_end; ++i) forward_row<T>(a, head, i, visible_keys(s, a.segment_start, i));
  });
}

// Sums of one key head over a sequence: dk is [keys, nope + rope], dv is [keys, v]; scale is still missing in dk.
template <class T>
struct KeyGradients {
  std::vector<compute_t<T>> dk, dv;
};

template <class T>
void backward_row(const AttentionBackwardArgs& a, const Head<T>& head, int64_t row, KeyRange keys, int64_t first_key,
                  KeyGradients<T>& sums) {
  using C = compute_t<T>;
  const int64_t dim = a.shape.nope_dim + a.shape.rope_dim, v_dim = a.shape.v_dim;
  const T* d_o = a.d_o.row<T>(row) + head.o_column;
  const T* o = a.o.row<T>(row) + head.o_column;
  const T* q = a.q.row<T>(row) + head.q_column;
  const C lse = a.lse.row<C>(head.head)[row];
  C delta = 0;
  for (int64_t d = 0; d < v_dim; ++d) delta += C(d_o[d]) * C(o[d]);
  std::vector<C> dq(static_cast<size_t>(dim), C(0));
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    const C p = std::exp(head.score(row, j) - lse);
    C dp = 0;
    for (int64_t d = 0; d < v_dim; ++d) dp += C(d_o[d]) * head.value(j, d);
    const C ds = rounded<T>(p * (dp - delta));
    C* dk = sums.dk.data() + (j - first_key) * dim;
    C* dv = sums.dv.data() + (j - first_key) * v_dim;
    for (int64_t d = 0; d < v_dim; ++d) dv[d] += rounded<T>(p) * C(d_o[d]);
    for (int64_t d = 0; d < dim; ++d) {
      dk[d] += ds * C(q[d]);
      dq[static_cast<size_t>(d)] += ds * head.key(j, d);
    }
  }
  for (int64_t d = 0; d < dim; ++d)
    a.d_q.row<T>(row)[head.q_column + d] = static_cast<T>(dq[static_cast<size_t>(d)] * static_cast<C>(a.shape.scale));
}

// One key head of one sequence; the rope part of its dk goes to `rope_partial` [keys, rope].
template <class T>
void backward_key_head(const AttentionBackwardArgs& a, const AttentionSequence& s, int64_t kv_head,
                       compute_t<T>* rope_partial) {
  using C = compute_t<T>;
  const AttentionShape& shape = a.shape;
  const int64_t keys = s.k_end - s.k_begin, dim = shape.nope_dim + shape.rope_dim, group = shape.heads / shape.kv_heads;
  KeyGradients<T> sums{std::vector<C>(static_cast<size_t>(keys * dim), C(0)),
                       std::vector<C>(static_cast<size_t>(keys * shape.v_dim), C(0))};
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    const Head<T> head(a, h);
    for (int64_t i = s.q_begin; i < s.q_end; ++i)
      backward_row<T>(a, head, i, visible_keys(s, a.segment_start, i), s.k_begin, sums);
  }
  for (int64_t j = 0; j < keys; ++j) {
    for (int64_t d = 0; d < dim; ++d) {
      const C dk = sums.dk[static_cast<size_t>(j * dim + d)] * static_cast<C>(shape.scale);
      if (d < shape.nope_dim)
        a.d_k.row<T>(s.k_begin + j)[kv_head * a.d_k_head_stride + d] = static_cast<T>(dk);
      else
        rope_partial[j * shape.rope_dim + d - shape.nope_dim] = dk;
    }
    for (int64_t d = 0; d < shape.v_dim; ++d)
      a.d_v.row<T>(s.k_begin + j)[kv_head * a.d_v_head_stride + d] =
          static_cast<T>(sums.dv[static_cast<size_t>(j * shape.v_dim + d)]);
  }
}

template <class T>
void backward(const AttentionBackwardArgs& a, const Stream& stream) {
  using C = compute_t<T>;
  const int64_t rope = a.shape.rope_dim, kv_heads = a.shape.kv_heads;
  const auto sequences = static_cast<int64_t>(a.sequences.size());
  std::vector<int64_t> offset(static_cast<size_t>(sequences) + 1, 0);  // of a sequence's keys among all keys
  for (int64_t i = 0; i < sequences; ++i) {
    const AttentionSequence& s = a.sequences[static_cast<size_t>(i)];
    offset[static_cast<size_t>(i) + 1] = offset[static_cast<size_t>(i)] + s.k_end - s.k_begin;
  }
  const int64_t keys = offset.back();
  C* partials = rope > 0 ? a.scratch.ptr<C>() : nullptr;  // [kv_heads, keys, rope]
  stream.parallel(sequences * kv_heads, [&](int64_t task) {
    const int64_t i = task / kv_heads, head = task % kv_heads;
    C* partial = rope > 0 ? partials + (head * keys + offset[static_cast<size_t>(i)]) * rope : nullptr;
    backward_key_head<T>(a, a.sequences[static_cast<size_t>(i)], head, partial);
  });
  for (int64_t i = 0; rope > 0 && i < sequences; ++i) {
    const AttentionSequence& s = a.sequences[static_cast<size_t>(i)];
    for (int64_t j = s.k_begin; j < s.k_end; ++j)
      for (int64_t d = 0; d < rope; ++d) {
        C sum = 0;
        for (int64_t h = 0; h < kv_heads; ++h)
          sum += partials[(h * keys + offset[static_cast<size_t>(i)] + j - s.k_begin) * rope + d];
        a.d_k_rope.row<T>(j)[d] = static_cast<T>(sum);
      }
  }
}

}  // namespace

void forward_reference(const AttentionForwardArgs& args, const Stream& stream) {
  check_forward(args);
  visit_float(args.q.dtype, [&](auto zero) { forward<decltype(zero)>(args, stream); });
}

void backward_reference(const AttentionBackwardArgs& args, const Stream& stream) {
  check_backward(args);
  visit_float(args.q.dtype, [&](auto zero) { backward<decltype(zero)>(args, stream); });
}

}  // namespace rorqual::attention
