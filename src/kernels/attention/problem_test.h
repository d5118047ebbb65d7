// Problems for attention's tests: tensors with poisoned gaps, the answer in double by plain formulas, and for every element
// how far a row of the table may be from it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/attention/attention.h"

namespace rorqual::attention {

// A tensor with room around it: starts one element off alignment, has gaps between rows, everything NaN until set.
class Buffer {
 public:
  Buffer() = default;
  Buffer(DType dtype, int64_t rows, int64_t cols, int64_t gap);
  // Rebuilt on each call, since buffers are copied and moved.
  Tensor tensor() const;
  double get(int64_t r, int64_t c) const;
  void set(int64_t r, int64_t c, double value);  // rounds to the dtype
  bool poisoned(int64_t r, int64_t c) const;     // c may reach into the gap
  void poison();
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t stride() const { return stride_; }
  DType dtype() const { return dtype_; }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  const std::byte* at(int64_t r, int64_t c) const;
  DType dtype_ = DType::kF32;
  int64_t rows_ = 0, cols_ = 0, stride_ = 0;
  std::vector<std::byte> bytes_;
};

// What a buffer must hold: elements with value and allowed error; the others must still be poisoned.
struct Expected {
  int64_t rows = 0, cols = 0;
  std::vector<double> value, bound;
  std::vector<char> used;

  Expected() = default;
  Expected(int64_t r, int64_t c)
      : rows(r), cols(c), value(static_cast<size_t>(r * c)), bound(value.size()), used(value.size(), 0) {}
  size_t index(int64_t r, int64_t c) const { return static_cast<size_t>(r * cols + c); }
  void add(int64_t r, int64_t c, double v, double b) {
    value[index(r, c)] += v;
    bound[index(r, c)] += b;
    used[index(r, c)] = 1;
  }
};

// Empty if `got` is as expected, else names the worst element.
std::string difference(const std::string& name, const Buffer& got, const Expected& want);

struct Sizes {
  int64_t heads = 1, kv_heads = 1, nope = 8, rope = 4, v = 8;
  std::vector<AttentionSequence> sequences;
  bool segments = false;
  std::string text() const;
};
// Sequences of these lengths behind one another with a row of poison between them; keys are `cached` longer than queries.
std::vector<AttentionSequence> sequences_of(const std::vector<int64_t>& lengths, int64_t cached = 0);

struct Problem {
  Problem(const Sizes& sizes, DType dtype, uint64_t seed);
  AttentionForwardArgs forward() const;
  AttentionBackwardArgs backward() const;
  // Sets o and lse to the true ones, as backward's inputs.
  void set_forward_result();

  Sizes sizes;
  AttentionShape shape;
  std::vector<int64_t> segment_start;
  Buffer q, k, k_rope, v, o, lse, d_o, d_q, d_k, d_v, d_k_rope, scratch;
};

struct ForwardTruth {
  Expected o, lse;
};
ForwardTruth forward_truth(const Problem& problem);

struct BackwardTruth {
  Expected d_q, d_k, d_v, d_k_rope;
};
BackwardTruth backward_truth(const Problem& problem);

}  // namespace rorqual::attention
