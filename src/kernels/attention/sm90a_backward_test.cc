// Backward on Hopper against gradients by definition in double, from o and lse of the reference's forward pass.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "hopper/test_support.h"
#include "kernels/attention/sm90a.h"
#include "kernels/attention/sm90a_problem_test.h"

namespace rorqual {
namespace {

using namespace attention_sm90a_test;
using AttentionBackwardSm90a = hopper::HopperTest;

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
