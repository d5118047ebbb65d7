// Backward on Hopper against gradients by definition in double, from o and lse of the reference's forward pass.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/cpu.h"
#include "base/rng.h"
#include "hopper/test_support.h"
#include "kernels/attention/sm90a.h"
#include "numerics/bf16.h"

namespace rorqual {
namespace {

using AttentionBackwardSm90a = hopper::HopperTest;

constexpr int64_t kNope = 128, kRope = 64, kHead = kNope + kRope, kValue = 128;
constexpr uint16_t kPoison = 0xffff;  // a NaN, and what device memory begins with

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
std::vector<AttentionSequence> sequences_of(const std::vector<int64_t>& lengths, int64_t cached = 0) {
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

struct Gradients {
  static constexpr int64_t kKeyStride = kNope + 8, kValueStride = kValue + 40;
  Matrix d_q, d_k, d_v, d_k_rope;
  explicit Gradients(const Problem& p)
      : d_q(p.q_rows(), p.sizes.heads * kHead, 24),
        d_k(p.k_rows(), p.sizes.heads * kKeyStride),
        d_v(p.k_rows(), p.sizes.heads * kValueStride),
        d_k_rope(p.k_rows(), kRope) {}
  bool operator==(const Gradients& other) const {
    return d_q.bits == other.d_q.bits && d_k.bits == other.d_k.bits && d_v.bits == other.d_v.bits &&
           d_k_rope.bits == other.d_k_rope.bits;
  }
};

// A problem in device memory.
struct OnDevice {
  const Problem& p;
  Gradients empty;
  hopper::DeviceBuffer q, k, k_rope, v, o, lse, d_o, segment_start, d_q, d_k, d_v, d_k_rope, scratch;

  explicit OnDevice(const Problem& problem)
      : p(problem),
        empty(problem),
        q(hopper::to_device(p.q.bits)),
        k(hopper::to_device(p.k.bits)),
        k_rope(hopper::to_device(p.k_rope.bits)),
        v(hopper::to_device(p.v.bits)),
        o(hopper::to_device(p.o.bits)),
        lse(hopper::to_device(p.lse)),
        d_o(hopper::to_device(p.d_o.bits)),
        segment_start(p.segment_start.empty() ? hopper::DeviceBuffer(8) : hopper::to_device(p.segment_start)),
        d_q(empty.d_q.bits.size() * 2),
        d_k(empty.d_k.bits.size() * 2),
        d_v(empty.d_v.bits.size() * 2),
        d_k_rope(empty.d_k_rope.bits.size() * 2),
        scratch(static_cast<size_t>(4 * attention_backward_scratch_sm90a(p.shape, p.sizes.sequences))) {}

  AttentionBackwardArgs args() const {
    AttentionBackwardArgs a;
    a.shape = p.shape;
    a.sequences = p.sizes.sequences;
    a.segment_start = {segment_start.as<int64_t>(), p.segment_start.size()};
    a.q = p.q.tensor(q.data());
    a.k = p.k.tensor(k.data());
    a.k_head_stride = Problem::kKeyStride;
    a.k_rope = p.k_rope.tensor(k_rope.data());
    a.v = p.v.tensor(v.data());
    a.v_head_stride = Problem::kValueStride;
    a.o = p.o.tensor(o.data());
    a.lse = Tensor(lse.data(), DType::kF32, p.sizes.heads, p.q_rows());
    a.d_o = p.d_o.tensor(d_o.data());
    a.d_q = empty.d_q.tensor(d_q.data());
    a.d_k = empty.d_k.tensor(d_k.data());
    a.d_k_head_stride = Gradients::kKeyStride;
    a.d_v = empty.d_v.tensor(d_v.data());
    a.d_v_head_stride = Gradients::kValueStride;
    a.d_k_rope = empty.d_k_rope.tensor(d_k_rope.data());
    a.scratch = Tensor(scratch.data(), DType::kF32, 1, static_cast<int64_t>(scratch.bytes() / 4));
    return a;
  }

  Gradients run() const {
    for (const hopper::DeviceBuffer* b : {&d_q, &d_k, &d_v, &d_k_rope, &scratch}) b->fill(0xff);
    attention_backward_sm90a(args(), Stream::on_device());
    Gradients g(p);
    g.d_q.bits = hopper::to_host<uint16_t>(d_q);
    g.d_k.bits = hopper::to_host<uint16_t>(d_k);
    g.d_v.bits = hopper::to_host<uint16_t>(d_v);
    g.d_k_rope.bits = hopper::to_host<uint16_t>(d_k_rope);
    return g;
  }
};

// What a gradient must be: elements with value and allowed error; the others must still be poisoned.
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
constexpr double kSum = 0x1p-22, kBf16 = 0x1p-8;

struct Truth {
  Expected d_q, d_k, d_v, d_k_rope;

  // Bounds: p = exp(s − lse) is off by the score's error (192 terms, roundings of the scale and of the exponential), ds by that
  // and dp's and delta's errors; both are rounded to BF16; sums of n terms are off by n·kSum; the result is rounded.
  explicit Truth(const Problem& p, const Gradients& g) : d_q(g.d_q), d_k(g.d_k), d_v(g.d_v), d_k_rope(g.d_k_rope) {
    for (const AttentionSequence& s : p.sizes.sequences) {
      for (int64_t j = s.k_begin; j < s.k_end; ++j)
        for (int64_t h = 0; h < p.sizes.heads; ++h) add_key(h, j, nullptr, nullptr, nullptr, nullptr);
      for (int64_t h = 0; h < p.sizes.heads; ++h)
        for (int64_t i = s.q_begin; i < s.q_end; ++i) add_query(p, s, h, i);
    }
    for (Expected* e : {&d_q, &d_k, &d_v, &d_k_rope})
      for (size_t i = 0; i < e->value.size(); ++i) e->bound[i] += 1.01 * kBf16 * std::abs(e->value[i]) + 0x1p-100;
  }

 private:
  void add_key(int64_t h, int64_t j, const double* dk, const double* dk_bound, const double* dv, const double* dv_bound) {
    for (int64_t d = 0; d < kHead; ++d) {
      const double value = dk ? dk[d] : 0, bound = dk ? dk_bound[d] : 0;
      if (d < kNope)
        d_k.add(j, h * Gradients::kKeyStride + d, value, bound);
      else
        d_k_rope.add(j, d - kNope, value, bound);
    }
    for (int64_t d = 0; d < kValue; ++d) d_v.add(j, h * Gradients::kValueStride + d, dv ? dv[d] : 0, dv ? dv_bound[d] : 0);
  }

  void add_query(const Problem& p, const AttentionSequence& s, int64_t h, int64_t i) {
    const double lse = static_cast<double>(p.lse[static_cast<size_t>(h * p.q_rows() + i)]), scale = p.shape.scale;
    const double n = static_cast<double>(s.k_end - s.k_begin + 64);
    const auto key = [&](int64_t j, int64_t d) {
      return d < kNope ? p.k.get(j, h * Problem::kKeyStride + d) : p.k_rope.get(j, d - kNope);
    };
    double delta = 0, delta_size = 0;
    for (int64_t d = 0; d < kValue; ++d) {
      const double x = p.d_o.get(i, h * kValue + d) * p.o.get(i, h * kValue + d);
      delta += x;
      delta_size += std::abs(x);
    }
    for (int64_t j = p.first_key(s, i); j <= Problem::last_key(s, i); ++j) {
      double score = 0, size = 0, dp = 0, dp_size = 0;
      for (int64_t d = 0; d < kHead; ++d) {
        const double x = p.q.get(i, h * kHead + d) * key(j, d) * scale;
        score += x;
        size += std::abs(x);
      }
      for (int64_t d = 0; d < kValue; ++d) {
        const double x = p.d_o.get(i, h * kValue + d) * p.v.get(j, h * Problem::kValueStride + d);
        dp += x;
        dp_size += std::abs(x);
      }
      const double weight = std::exp(score - lse), ds = weight * (dp - delta);
      const double relative = kSum * (24 * size + std::abs(score) + std::abs(lse) + 4);
      const double ds_error = (relative + kBf16) * std::abs(ds) + weight * 16 * kSum * (dp_size + delta_size);
      double dk[kHead], dk_bound[kHead], dv[kValue], dv_bound[kValue];
      for (int64_t d = 0; d < kHead; ++d) {
        const double k = key(j, d) * scale, q = p.q.get(i, h * kHead + d) * scale, error = ds_error + n * kSum * std::abs(ds);
        d_q.add(i, h * kHead + d, ds * k, error * std::abs(k));
        dk[d] = ds * q;
        dk_bound[d] = error * std::abs(q);
      }
      for (int64_t d = 0; d < kValue; ++d) {
        dv[d] = weight * p.d_o.get(i, h * kValue + d);
        dv_bound[d] = (relative + kBf16 + n * kSum) * std::abs(dv[d]);
      }
      add_key(h, j, dk, dk_bound, dv, dv_bound);
    }
  }
};

// Empty if `got` is as expected, else the worst element. Bounds are of the worst case, so the error as a whole must be smaller:
// roundings to BF16 of independent terms stay near 2^-9 of the norm.
std::string difference(const char* name, const Matrix& got, const Expected& want) {
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

std::string difference(const Gradients& g, const Truth& truth) {
  std::string text = difference("d_q", g.d_q, truth.d_q);
  if (text.empty()) text = difference("d_k", g.d_k, truth.d_k);
  if (text.empty()) text = difference("d_v", g.d_v, truth.d_v);
  if (text.empty()) text = difference("d_k_rope", g.d_k_rope, truth.d_k_rope);
  return text;
}

void expect_true_gradients(const Sizes& sizes, uint64_t seed) {
  const Problem p(sizes, seed);
  const Gradients got = OnDevice(p).run();
  EXPECT_EQ(difference(got, Truth(p, got)), "");
}

TEST_F(AttentionBackwardSm90a, OneWholeTile) {
  expect_true_gradients({1, sequences_of({128})}, 1);
}

TEST_F(AttentionBackwardSm90a, RaggedSequences) {
  expect_true_gradients({2, sequences_of({1, 65, 3})}, 2);
  expect_true_gradients({1, sequences_of({200})}, 3);
}

TEST_F(AttentionBackwardSm90a, KeysBeforeTheQueries) {
  expect_true_gradients({1, sequences_of({70, 5}, 100)}, 4);
}

// 330 rows: tiles of keys that no segment of a tile of queries has. Row 30: queries that see the end of a tile, not its begin.
TEST_F(AttentionBackwardSm90a, Segments) {
  expect_true_gradients({2, sequences_of({40, 150}), true}, 5);
  expect_true_gradients({1, sequences_of({330}), true}, 6);
  expect_true_gradients({1, sequences_of({200}), true, 30}, 6);
}

TEST_F(AttentionBackwardSm90a, ManyHeads) {
  expect_true_gradients({9, sequences_of({2}), false}, 7);
}

// More than one launch takes.
TEST_F(AttentionBackwardSm90a, ManySequences) {
  std::vector<int64_t> lengths(hopper::is_emulated() ? 131 : 300, 1);
  lengths[17] = 4;
  lengths[129] = 9;
  expect_true_gradients({1, sequences_of(lengths), true}, 8);
}

TEST_F(AttentionBackwardSm90a, KeysThatNobodySeesGetZeros) {
  expect_true_gradients({1, sequences_of({0, 6, 0}, 70)}, 9);
  expect_true_gradients({1, sequences_of({0}, 3)}, 10);
}

TEST_F(AttentionBackwardSm90a, NothingToDo) {
  const Problem p({1, sequences_of({3})}, 11);
  const OnDevice device(p);
  AttentionBackwardArgs args = device.args();
  args.sequences = {};
  args.scratch = Tensor(device.scratch.data(), DType::kF32, 1, 0);
  attention_backward_sm90a(args, Stream::on_device());
  for (const hopper::DeviceBuffer* b : {&device.d_q, &device.d_k, &device.d_v, &device.d_k_rope})
    for (const uint16_t bits : hopper::to_host<uint16_t>(*b)) ASSERT_EQ(bits, kPoison);
}

// The emulator draws another order of warps, copies and products each time.
TEST_F(AttentionBackwardSm90a, TimingDoesNotShow) {
  const Problem p({2, sequences_of({hopper::is_emulated() ? 200 : 2000, 70}, 5), true}, 12);
  const OnDevice device(p);
  const Gradients first = device.run();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(device.run() == first) << "run " << i + 2;
}

TEST_F(AttentionBackwardSm90a, SequenceAloneHasTheSameBits) {
  const Problem p({2, sequences_of({90, 17, 130})}, 13);
  const OnDevice device(p);
  const Gradients together = device.run();
  for (const hopper::DeviceBuffer* b : {&device.d_q, &device.d_k, &device.d_v, &device.d_k_rope}) b->fill(0xff);
  for (const AttentionSequence& s : p.sizes.sequences) {
    AttentionBackwardArgs args = device.args();
    args.sequences = {&s, 1};
    attention_backward_sm90a(args, Stream::on_device());
  }
  EXPECT_EQ(hopper::to_host<uint16_t>(device.d_q), together.d_q.bits);
  EXPECT_EQ(hopper::to_host<uint16_t>(device.d_k), together.d_k.bits);
  EXPECT_EQ(hopper::to_host<uint16_t>(device.d_v), together.d_v.bits);
  EXPECT_EQ(hopper::to_host<uint16_t>(device.d_k_rope), together.d_k_rope.bits);
}

TEST_F(AttentionBackwardSm90a, LongSequencesOfManyHeads) {
  if (hopper::is_emulated()) GTEST_SKIP() << "for a GPU";
  expect_true_gradients({3, sequences_of({500, 384})}, 14);
}

TEST_F(AttentionBackwardSm90a, RefusesWhatItCannotTake) {
  const Problem p({2, sequences_of({3})}, 15);
  const OnDevice device(p);
  EXPECT_EQ(refuse_attention_backward_sm90a(device.args()), "");
  const auto reason = [&](auto change) {
    AttentionBackwardArgs args = device.args();
    change(args);
    return refuse_attention_backward_sm90a(args);
  };
  EXPECT_EQ(reason([](auto& a) { a.shape.kv_heads = 1; }), "2 heads share 1 key heads");
  EXPECT_EQ(reason([](auto& a) { a.shape.nope_dim = 64; }), "head sizes are 64 + 64, 128, not 128 + 64, 128");
  EXPECT_EQ(reason([](auto& a) { a.q.dtype = DType::kF32; }), "q holds F32, not BF16");
  EXPECT_EQ(reason([](auto& a) { a.d_o.stride += 1; }), "rows of d_o are not 16-byte aligned");
  EXPECT_EQ(reason([](auto& a) { a.k_head_stride += 4; }), "rows of k are not 16-byte aligned");
  EXPECT_EQ(reason([](auto& a) { a.d_k_rope.data = static_cast<uint16_t*>(a.d_k_rope.data) + 1; }),
            "rows of d_k_rope are not 16-byte aligned");
  EXPECT_EQ(reason([](auto& a) { a.lse.dtype = DType::kBF16; }), "lse holds BF16, not F32");
  EXPECT_EQ(reason([](auto& a) {
              a.scratch = {};
              a.scratch.dtype = DType::kF64;
            }),
            "scratch is not F32, 16-byte aligned");
}

}  // namespace
}  // namespace rorqual
