#include "kernels/attention/problem_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "kernels/attention/kernels.h"

namespace rorqual::attention {
namespace {

// Quiet NaNs with a payload that no kernel makes by itself.
constexpr uint64_t kPoisonF64 = 0x7ff8dead0000beefu;
constexpr uint32_t kPoisonF32 = 0x7fc0deadu;
constexpr uint16_t kPoisonBF16 = 0x7fdeu;

// Unit roundoff of sums, and of a rounding to the operands' type.
double sum_unit(DType dtype) {
  return dtype == DType::kF64 ? 0x1p-53 : 0x1p-24;
}
double operand_unit(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : 0;
}

}  // namespace

Buffer::Buffer(DType dtype, int64_t rows, int64_t cols, int64_t gap)
    : dtype_(dtype),
      rows_(rows),
      cols_(cols),
      stride_(cols + gap),
      bytes_(static_cast<size_t>((rows * (cols + gap) + 1) * size_of(dtype))) {
  poison();
}

const std::byte* Buffer::at(int64_t r, int64_t c) const {
  return bytes_.data() + (1 + r * stride_ + c) * size_of(dtype_);
}

Tensor Buffer::tensor() const {
  if (bytes_.empty()) return {};
  return {const_cast<std::byte*>(at(0, 0)), dtype_, rows_, cols_, stride_};
}

double Buffer::get(int64_t r, int64_t c) const {
  return visit_float(dtype_, [&](auto zero) {
    std::memcpy(&zero, at(r, c), sizeof(zero));
    return static_cast<double>(zero);
  });
}

void Buffer::set(int64_t r, int64_t c, double value) {
  visit_float(dtype_, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, Bf16>)
      zero = Bf16(static_cast<float>(value));
    else
      zero = static_cast<T>(value);
    std::memcpy(const_cast<std::byte*>(at(r, c)), &zero, sizeof(zero));
  });
}

void Buffer::poison() {
  for (size_t i = 0; i < bytes_.size(); i += static_cast<size_t>(size_of(dtype_))) {
    if (dtype_ == DType::kF64) std::memcpy(&bytes_[i], &kPoisonF64, 8);
    if (dtype_ == DType::kF32) std::memcpy(&bytes_[i], &kPoisonF32, 4);
    if (dtype_ == DType::kBF16) std::memcpy(&bytes_[i], &kPoisonBF16, 2);
  }
}

bool Buffer::poisoned(int64_t r, int64_t c) const {
  if (dtype_ == DType::kF64) return std::memcmp(at(r, c), &kPoisonF64, 8) == 0;
  if (dtype_ == DType::kF32) return std::memcmp(at(r, c), &kPoisonF32, 4) == 0;
  return std::memcmp(at(r, c), &kPoisonBF16, 2) == 0;
}

std::string difference(const std::string& name, const Buffer& got, const Expected& want) {
  double worst = 1;
  std::string text;
  for (int64_t r = 0; r < got.rows(); ++r)
    for (int64_t c = 0; c < got.stride(); ++c) {
      if (c >= want.cols || !want.used[want.index(r, c)]) {
        if (!got.poisoned(r, c)) return fmt::format("{}[{}, {}] was written, but belongs to nobody", name, r, c);
        continue;
      }
      const double x = got.get(r, c), y = want.value[want.index(r, c)], bound = want.bound[want.index(r, c)];
      const double ratio = std::abs(x - y) / bound;
      if (ratio <= worst || x == y) continue;
      worst = std::isnan(ratio) ? INFINITY : ratio;
      text = fmt::format("{}[{}, {}] is {}, expected {} ± {}, {} times the bound", name, r, c, x, y, bound, worst);
    }
  return text;
}

std::string Sizes::text() const {
  std::string s = fmt::format("{} heads, {} key heads, {}+{}/{}, segments {}:", heads, kv_heads, nope, rope, v, segments);
  for (const AttentionSequence& q : sequences) s += fmt::format(" [{},{})x[{},{})", q.q_begin, q.q_end, q.k_begin, q.k_end);
  return s;
}

std::vector<AttentionSequence> sequences_of(const std::vector<int64_t>& lengths, int64_t cached) {
  std::vector<AttentionSequence> sequences;
  int64_t q = 1, k = 2;
  for (int64_t n : lengths) {
    sequences.push_back({q, q + n, k, k + n + cached});
    q += n + 1;
    k += n + cached + 1;
  }
  return sequences;
}

Problem::Problem(const Sizes& s, DType dtype, uint64_t seed)
    : sizes(s), shape{s.heads, s.kv_heads, s.nope, s.rope, s.v, 1 / std::sqrt(static_cast<double>(s.nope + s.rope))} {
  const int64_t q_rows = s.sequences.back().q_end + 1, k_rows = s.sequences.back().k_end + 1;
  const DType sums = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  q = Buffer(dtype, q_rows, s.heads * (s.nope + s.rope), 3);
  k = Buffer(dtype, k_rows, s.kv_heads * (s.nope + 5), 1);
  v = Buffer(dtype, k_rows, s.kv_heads * (s.v + 2), 2);
  o = Buffer(dtype, q_rows, s.heads * s.v, 5);
  d_o = Buffer(dtype, q_rows, s.heads * s.v, 1);
  d_q = Buffer(dtype, q_rows, s.heads * (s.nope + s.rope), 2);
  d_k = Buffer(dtype, k_rows, s.kv_heads * (s.nope + 1), 4);
  d_v = Buffer(dtype, k_rows, s.kv_heads * (s.v + 3), 3);
  lse = Buffer(sums, s.heads, q_rows, 2);
  if (s.rope > 0) {
    k_rope = Buffer(dtype, k_rows, s.rope, 2);
    d_k_rope = Buffer(dtype, k_rows, s.rope, 1);
    scratch = Buffer(sums, 1, attention_backward_scratch(shape, s.sequences), 16);
  }
  const RandomKey key{seed};
  uint64_t position = 0;
  const auto fill = [&](Buffer& b, int64_t row, int64_t column, int64_t n) {
    for (int64_t c = 0; c < n; ++c) b.set(row, column + c, random_normal(key, position++));
  };
  for (const AttentionSequence& sequence : s.sequences) {
    for (int64_t i = sequence.q_begin; i < sequence.q_end; ++i) {
      fill(q, i, 0, q.cols());
      fill(d_o, i, 0, d_o.cols());
    }
    for (int64_t j = sequence.k_begin; j < sequence.k_end; ++j) {
      for (int64_t h = 0; h < s.kv_heads; ++h) {
        fill(k, j, h * (s.nope + 5), s.nope);
        fill(v, j, h * (s.v + 2), s.v);
      }
      if (s.rope > 0) fill(k_rope, j, 0, s.rope);
    }
  }
  if (!s.segments) return;
  segment_start.assign(static_cast<size_t>(q_rows), 0);
  for (const AttentionSequence& sequence : s.sequences) {
    int64_t start = sequence.k_begin;
    for (int64_t i = sequence.q_begin; i < sequence.q_end; ++i) {
      const int64_t own = sequence.k_end - (sequence.q_end - i);
      if (random_below(key, position++, 11) == 0) start = own - static_cast<int64_t>(random_below(key, position++, 3));
      segment_start[static_cast<size_t>(i)] = std::max(start, sequence.k_begin);
    }
  }
}

AttentionForwardArgs Problem::forward() const {
  AttentionForwardArgs a;
  a.shape = shape;
  a.sequences = sizes.sequences;
  a.segment_start = segment_start;
  a.q = q.tensor();
  a.k = k.tensor();
  a.k_head_stride = sizes.nope + 5;
  a.k_rope = k_rope.tensor();
  a.v = v.tensor();
  a.v_head_stride = sizes.v + 2;
  a.o = o.tensor();
  a.lse = lse.tensor();
  return a;
}

AttentionBackwardArgs Problem::backward() const {
  AttentionBackwardArgs a;
  a.shape = shape;
  a.sequences = sizes.sequences;
  a.segment_start = segment_start;
  a.q = q.tensor();
  a.k = k.tensor();
  a.k_head_stride = sizes.nope + 5;
  a.k_rope = k_rope.tensor();
  a.v = v.tensor();
  a.v_head_stride = sizes.v + 2;
  a.o = o.tensor();
  a.lse = lse.tensor();
  a.d_o = d_o.tensor();
  a.d_q = d_q.tensor();
  a.d_k = d_k.tensor();
  a.d_k_head_stride = sizes.nope + 1;
  a.d_v = d_v.tensor();
  a.d_v_head_stride = sizes.v + 3;
  a.d_k_rope = d_k_rope.tensor();
  a.scratch = scratch.tensor();
  return a;
}

namespace {

// One head of a problem in plain double.
struct Plain {
  const Problem& p;
  int64_t head, kv_head, dim;
  Plain(const Problem& problem, int64_t h)
      : p(problem),
        head(h),
        kv_head(h / (problem.sizes.heads / problem.sizes.kv_heads)),
        dim(problem.sizes.nope + problem.sizes.rope) {}
  double q(int64_t i, int64_t d) const { return p.q.get(i, head * dim + d); }
  double k(int64_t j, int64_t d) const {
    return d < p.sizes.nope ? p.k.get(j, kv_head * (p.sizes.nope + 5) + d) : p.k_rope.get(j, d - p.sizes.nope);
  }
  double v(int64_t j, int64_t d) const { return p.v.get(j, kv_head * (p.sizes.v + 2) + d); }
  double o(int64_t i, int64_t d) const { return p.o.get(i, head * p.sizes.v + d); }
  double d_o(int64_t i, int64_t d) const { return p.d_o.get(i, head * p.sizes.v + d); }
};

// Scores of a row's visible keys, and the largest Σ|q·k|·scale among them: a score's error is at most (dim + 4)·u times that
// (dim products and sums, the scale and log2(e) folded into one factor, its rounding and the factor's own).
struct Scores {
  std::vector<double> s;
  double magnitude = 0, largest = -INFINITY;
  Scores(const Plain& plain, int64_t i, KeyRange keys) {
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      double sum = 0, absolute = 0;
      for (int64_t d = 0; d < plain.dim; ++d) {
        const double x = plain.q(i, d) * plain.k(j, d);
        sum += x;
        absolute += std::abs(x);
      }
      s.push_back(sum * plain.p.shape.scale);
      magnitude = std::max(magnitude, absolute * plain.p.shape.scale);
      largest = std::max(largest, s.back());
    }
  }
};

}  // namespace

// o = Σ p·v / Σ p. Relative error of each p: that of exp of a score and a maximum which are both off by e = (dim +
// 4)·u·magnitude, the subtraction's and the exponential's own roundings (8u); of a sum of n terms n·u, once above and once
// below the line; of rescaling when the maximum grows, 4u per block of keys (n / 64 + 1 of them at most); BF16 rounds p and o.
ForwardTruth forward_truth(const Problem& p) {
  ForwardTruth truth{{p.o.rows(), p.o.cols()}, {p.lse.rows(), p.lse.cols()}};
  const double u = sum_unit(p.q.dtype()), u_operand = operand_unit(p.q.dtype());
  for (const AttentionSequence& sequence : p.sizes.sequences)
    for (int64_t h = 0; h < p.sizes.heads; ++h)
      for (int64_t i = sequence.q_begin; i < sequence.q_end; ++i) {
        const Plain plain(p, h);
        const KeyRange keys = visible_keys(sequence, p.segment_start, i);
        const Scores scores(plain, i, keys);
        const double n = static_cast<double>(keys.end - keys.begin);
        const double score_error = static_cast<double>(plain.dim + 4) * u * scores.magnitude;
        double sum = 0;
        for (double s : scores.s) sum += std::exp(s - scores.largest);
        const double lse = scores.largest + std::log(sum);
        truth.lse.add(h, i, lse, score_error + u * (n + 16) + 4 * u * std::abs(lse) + 4 * u * std::abs(scores.largest));
        const double relative = 2 * score_error + (2 * n + 16 + n / 16) * u + 2 * u * scores.magnitude + u_operand;
        for (int64_t d = 0; d < p.sizes.v; ++d) {
          double o = 0, absolute = 0;
          for (size_t j = 0; j < scores.s.size(); ++j) {
            const double x = std::exp(scores.s[j] - lse) * plain.v(keys.begin + static_cast<int64_t>(j), d);
            o += x;
            absolute += std::abs(x);
          }
          truth.o.add(i, h * p.sizes.v + d, o, relative * absolute + u_operand * std::abs(o) * 1.01 + 0x1p-126);
        }
      }
  return truth;
}

void Problem::set_forward_result() {
  const ForwardTruth truth = forward_truth(*this);
  for (int64_t r = 0; r < o.rows(); ++r)
    for (int64_t c = 0; c < o.cols(); ++c)
      if (truth.o.used[truth.o.index(r, c)]) o.set(r, c, truth.o.value[truth.o.index(r, c)]);
  for (int64_t r = 0; r < lse.rows(); ++r)
    for (int64_t c = 0; c < lse.cols(); ++c)
      if (truth.lse.used[truth.lse.index(r, c)]) lse.set(r, c, truth.lse.value[truth.lse.index(r, c)]);
}

// p = exp(s - lse): relative error e = score error + 2u·(|s| + |lse|) + 8u. ds = p·(dp - delta): p's error, and the errors of
// two sums of v_dim terms. Then dv = Σ p·do, dq = scale·Σ ds·k and dk = scale·Σ ds·q: the terms' errors, n·u for a sum of n
// terms, and BF16's roundings of p or ds and of the result. n of dk and dv counts every query of every head that shares the
// key.
BackwardTruth backward_truth(const Problem& p) {
  const Sizes& s = p.sizes;
  BackwardTruth truth{{p.d_q.rows(), p.d_q.cols()}, {p.d_k.rows(), p.d_k.cols()}, {p.d_v.rows(), p.d_v.cols()}, {}};
  if (s.rope > 0) truth.d_k_rope = Expected(p.d_k_rope.rows(), p.d_k_rope.cols());
  const double u = sum_unit(p.q.dtype()), u_operand = operand_unit(p.q.dtype()), scale = p.shape.scale;
  const double v_dim = static_cast<double>(s.v);
  for (const AttentionSequence& sequence : s.sequences) {
    for (int64_t j = sequence.k_begin; j < sequence.k_end; ++j) {  // keys that nobody sees get zeros
      for (int64_t g = 0; g < s.kv_heads; ++g) {
        for (int64_t d = 0; d < s.nope; ++d) truth.d_k.add(j, g * (s.nope + 1) + d, 0, 0x1p-126);
        for (int64_t d = 0; d < s.v; ++d) truth.d_v.add(j, g * (s.v + 3) + d, 0, 0x1p-126);
      }
      for (int64_t d = 0; d < s.rope; ++d) truth.d_k_rope.add(j, d, 0, 0x1p-126);
    }
    const double queries = static_cast<double>((sequence.q_end - sequence.q_begin) * (s.heads / s.kv_heads) + s.kv_heads + 4);
    for (int64_t h = 0; h < s.heads; ++h)
      for (int64_t i = sequence.q_begin; i < sequence.q_end; ++i) {
        const Plain plain(p, h);
        const KeyRange keys = visible_keys(sequence, p.segment_start, i);
        const Scores scores(plain, i, keys);
        const double n = static_cast<double>(keys.end - keys.begin + 4), lse = p.lse.get(h, i);
        double delta = 0, delta_absolute = 0;
        for (int64_t d = 0; d < s.v; ++d) {
          delta += plain.d_o(i, d) * plain.o(i, d);
          delta_absolute += std::abs(plain.d_o(i, d) * plain.o(i, d));
        }
        for (int64_t j = keys.begin; j < keys.end; ++j) {
          const double score = scores.s[static_cast<size_t>(j - keys.begin)], weight = std::exp(score - lse);
          const double relative =
              static_cast<double>(plain.dim + 4) * u * scores.magnitude + 2 * u * (std::abs(score) + std::abs(lse)) + 8 * u;
          double dp = 0, dp_absolute = 0;
          for (int64_t d = 0; d < s.v; ++d) {
            dp += plain.d_o(i, d) * plain.v(j, d);
            dp_absolute += std::abs(plain.d_o(i, d) * plain.v(j, d));
          }
          const double ds = weight * (dp - delta);
          const double ds_error =
              (relative + u_operand) * std::abs(ds) + weight * (v_dim + 2) * u * (dp_absolute + delta_absolute);
          for (int64_t d = 0; d < s.v; ++d) {
            const double x = weight * plain.d_o(i, d);
            truth.d_v.add(j, plain.kv_head * (s.v + 3) + d, x, (relative + u_operand + queries * u) * std::abs(x));
          }
          for (int64_t d = 0; d < plain.dim; ++d) {
            const double key = plain.k(j, d) * scale, query = plain.q(i, d) * scale;
            truth.d_q.add(i, h * plain.dim + d, ds * key, (ds_error + n * u * std::abs(ds)) * std::abs(key));
            const double bound = (ds_error + queries * u * std::abs(ds)) * std::abs(query);
            if (d < s.nope)
              truth.d_k.add(j, plain.kv_head * (s.nope + 1) + d, ds * query, bound);
            else
              truth.d_k_rope.add(j, d - s.nope, ds * query, bound);
          }
        }
      }
  }
  for (Expected* e : {&truth.d_q, &truth.d_k, &truth.d_v, &truth.d_k_rope})
    for (size_t x = 0; x < e->value.size(); ++x) e->bound[x] += 1.01 * u_operand * std::abs(e->value[x]) + 0x1p-126;
  return truth;
}

}  // namespace rorqual::attention
