// What the tests of attention's kernels on Hopper share: problems with gaps and poison, and elements with bounds.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/rng.h"
#include "kernels/attention/attention.h"
#include "numerics/bf16.h"

namespace rorqual::attention_sm90a_test {

inline constexpr int64_t kNope = 128, kRope = 64, kHead = kNope + kRope, kValue = 128;
inline constexpr uint16_t kPoison = 0xffff;  // a NaN, and what device memory begins with

// A matrix of BF16 with a gap behind each row, poisoned until set. Its strides keep rows aligned to 16 bytes.
struct Matrix {
  int64_t rows = 0, cols = 0, stride = 0;
  std::vector<uint16_t> bits;
  Matrix(int64_t r, int64_t c, int64_t gap = 8)
      : rows(r), cols(c), stride(c + gap), bits(static_cast<size_t>(r * stride), kPoison) {}
  uint16_t& at(int64_t r, int64_t c) { return bits[static_cast<size_t>(r * stride + c)]; }
  double get(int64_t r, int64_t c) const {
    return static_cast<double>(static_cast<float>(Bf16::from_bits(bits[static_cast<size_t>(r * stride + c)])));
  }
  Tensor tensor(void* data) const { return {data, DType::kBF16, rows, cols, stride}; }
};

struct Sizes {
  int64_t heads = 1;
  std::vector<AttentionSequence> sequences;
  bool segments = false;
  int64_t segment = 0;  // the only one begins at this row; 0: at random rows
};

// Sequences of these many queries behind one another, a row of poison before each; keys are `cached` longer.
inline std::vector<AttentionSequence> sequences_of(const std::vector<int64_t>& lengths, int64_t cached = 0) {
  std::vector<AttentionSequence> sequences;
  int64_t q = 1, k = 2;
  for (const int64_t n : lengths) {
    sequences.push_back({q, q + n, k, k + n + cached});
    q += n + 1;
    k += n + cached + 1;
  }
  return sequences;
}

struct Problem {
  Sizes sizes;
  AttentionShape shape;
  std::vector<int64_t> segment_start;
  Matrix q, k, k_rope, v, o, d_o;
  std::vector<float> lse;
  static constexpr int64_t kKeyStride = kNope + 16, kValueStride = kValue + 24;  // elements from head to head

  int64_t q_rows() const { return sizes.sequences.back().q_end + 1; }
  int64_t k_rows() const { return sizes.sequences.back().k_end + 1; }

  Problem(const Sizes& s, uint64_t seed)
      : sizes(s),
        shape{s.heads, s.heads, kNope, kRope, kValue, 1 / std::sqrt(static_cast<double>(kHead))},
        q(q_rows(), s.heads * kHead),
        k(k_rows(), s.heads * kKeyStride),
        k_rope(k_rows(), kRope, 24),
        v(k_rows(), s.heads * kValueStride),
        o(q_rows(), s.heads * kValue, 16),
        d_o(q_rows(), s.heads * kValue),
        lse(static_cast<size_t>(s.heads * q_rows()), NAN) {
    uint64_t position = 0;
    const auto fill = [&](Matrix& m, int64_t row, int64_t column, int64_t n) {
      for (int64_t c = column; c < column + n; ++c)
        m.at(row, c) = Bf16(static_cast<float>(random_normal({.seed = seed}, position++))).bits;
    };
    for (const AttentionSequence& sequence : s.sequences) {
      for (int64_t i = sequence.q_begin; i < sequence.q_end; ++i) {
        fill(q, i, 0, q.cols);
        fill(d_o, i, 0, d_o.cols);
      }
      for (int64_t j = sequence.k_begin; j < sequence.k_end; ++j) {
        for (int64_t h = 0; h < s.heads; ++h) {
          fill(k, j, h * kKeyStride, kNope);
          fill(v, j, h * kValueStride, kValue);
        }
        fill(k_rope, j, 0, kRope);
      }
    }
    if (s.segments) make_segments(seed);
    forward();
  }

  // About every 20th row begins a segment, at its own key or one or two before; or one row of every sequence does.
  void make_segments(uint64_t seed) {
    segment_start.assign(static_cast<size_t>(q_rows()), 0);
    for (const AttentionSequence& s : sizes.sequences) {
      int64_t start = s.k_begin;
      for (int64_t i = s.q_begin; i < s.q_end; ++i) {
        const auto words = random_words({.seed = seed + 1}, static_cast<uint64_t>(i));
        const bool begins = sizes.segment > 0 ? i == s.q_begin + sizes.segment : words[0] % 20 == 0;
        if (begins) start = last_key(s, i) - static_cast<int64_t>(words[1] % 3);
        segment_start[static_cast<size_t>(i)] = std::max(start, s.k_begin);
      }
    }
  }
  int64_t first_key(const AttentionSequence& s, int64_t i) const {
    return segment_start.empty() ? s.k_begin : std::max(s.k_begin, segment_start[static_cast<size_t>(i)]);
  }
  static int64_t last_key(const AttentionSequence& s, int64_t i) { return s.k_end - (s.q_end - i); }

  void forward() {
    const ScopedIsa isa(Isa::kReference);
    ThreadPool pool(1);
    AttentionForwardArgs a;
    a.shape = shape;
    a.sequences = sizes.sequences;
    a.segment_start = segment_start;
    a.q = q.tensor(q.bits.data());
    a.k = k.tensor(k.bits.data());
    a.k_head_stride = kKeyStride;
    a.k_rope = k_rope.tensor(k_rope.bits.data());
    a.v = v.tensor(v.bits.data());
    a.v_head_stride = kValueStride;
    a.o = o.tensor(o.bits.data());
    a.lse = Tensor(lse.data(), DType::kF32, sizes.heads, q_rows());
    attention_forward(a, Stream(pool));
  }
};

// What a result must be: elements with value and allowed error; the others must still be poisoned.
struct Expected {
  int64_t cols;
  std::vector<double> value, bound;
  std::vector<char> used;
  explicit Expected(const Matrix& m)
      : cols(m.cols), value(static_cast<size_t>(m.rows * m.cols), 0), bound(value.size(), 0), used(value.size(), 0) {}
  void add(int64_t r, int64_t c, double v, double b) {
    const auto i = static_cast<size_t>(r * cols + c);
    value[i] += v;
    bound[i] += b;
    used[i] = 1;
  }
};

// u: of a sum in the tensor cores (their alignment cuts below 2^-22 of the largest term); of BF16.
inline constexpr double kSum = 0x1p-22, kBf16 = 0x1p-8;

// Empty if `got` is as expected, else the worst element. Bounds are of the worst case, so the error as a whole must be smaller:
// roundings to BF16 of independent terms stay near 2^-9 of the norm.
inline std::string difference(const char* name, const Matrix& got, const Expected& want) {
  double worst = 1, errors = 0, norm = 0;
  std::string text;
  for (int64_t r = 0; r < got.rows; ++r)
    for (int64_t c = 0; c < got.stride; ++c) {
      const auto i = static_cast<size_t>(r * want.cols + c);
      if (c >= want.cols || !want.used[i]) {
        if (got.bits[static_cast<size_t>(r * got.stride + c)] != kPoison)
          return fmt::format("{}[{}, {}] was written, but belongs to nobody", name, r, c);
        continue;
      }
      const double error = std::abs(got.get(r, c) - want.value[i]), ratio = error / want.bound[i];
      errors += error * error;
      norm += want.value[i] * want.value[i];
      if (ratio <= worst) continue;
      worst = std::isnan(ratio) ? INFINITY : ratio;
      text = fmt::format("{}[{}, {}] is {}, expected {} ± {}", name, r, c, got.get(r, c), want.value[i], want.bound[i]);
    }
  if (text.empty() && errors > 0x1p-14 * norm)
    text = fmt::format("{} is off by {} of its norm", name, std::sqrt(errors / norm));
  return text;
}

}  // namespace rorqual::attention_sm90a_test
