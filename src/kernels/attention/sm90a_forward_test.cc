// Forward on Hopper against its definition in double.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "hopper/test_support.h"
#include "kernels/attention/sm90a.h"
#include "kernels/attention/sm90a_problem_test.h"

namespace rorqual {
namespace {

using namespace attention_sm90a_test;
using AttentionForwardSm90a = hopper::HopperTest;

struct Result {
  Matrix o;
  std::vector<float> lse;
  bool operator==(const Result& other) const {
    return o.bits == other.o.bits && std::memcmp(lse.data(), other.lse.data(), lse.size() * 4) == 0;
  }
};

// A problem in device memory.
struct OnDevice {
  const Problem& p;
  hopper::DeviceBuffer q, k, k_rope, v, segment_start, o, lse;

  explicit OnDevice(const Problem& problem)
      : p(problem),
        q(hopper::to_device(p.q.bits)),
        k(hopper::to_device(p.k.bits)),
        k_rope(hopper::to_device(p.k_rope.bits)),
        v(hopper::to_device(p.v.bits)),
        segment_start(p.segment_start.empty() ? hopper::DeviceBuffer(8) : hopper::to_device(p.segment_start)),
        o(p.o.bits.size() * 2),
        lse(p.lse.size() * 4) {}

  AttentionForwardArgs args() const {
    AttentionForwardArgs a;
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
    return a;
  }
  Result result() const {
    return {[&] {
              Matrix m = p.o;
              m.bits = hopper::to_host<uint16_t>(o);
              return m;
            }(),
            hopper::to_host<float>(lse)};
  }
  Result run() const {
    o.fill(0xff);
    lse.fill(0xff);
    attention_forward_sm90a(args(), Stream::on_device());
    return result();
  }
};

// Bounds: a weight is off by the score's error (192 terms, roundings of the scale and of the exponential) and by its rounding
// to BF16; the sum of weights by the scores' errors; sums of n terms by n·kSum; the result is rounded.
std::string difference_from_truth(const Problem& p, const Result& got) {
  Expected o(p.o);
  for (const AttentionSequence& s : p.sizes.sequences)
    for (int64_t h = 0; h < p.sizes.heads; ++h)
      for (int64_t i = s.q_begin; i < s.q_end; ++i) {
        std::vector<double> score;
        double relative = 0, largest = -INFINITY;
        for (int64_t j = p.first_key(s, i); j <= Problem::last_key(s, i); ++j) {
          double sum = 0, size = 0;
          for (int64_t d = 0; d < kHead; ++d) {
            const double key = d < kNope ? p.k.get(j, h * Problem::kKeyStride + d) : p.k_rope.get(j, d - kNope);
            const double x = p.q.get(i, h * kHead + d) * key * p.shape.scale;
            sum += x;
            size += std::abs(x);
          }
          score.push_back(sum);
          largest = std::max(largest, sum);
          relative = std::max(relative, kSum * (24 * size + 2 * std::abs(sum) + 8));
        }
        double total = 0;
        for (double& x : score) total += x = std::exp(x - largest);
        const double n = static_cast<double>(s.k_end - s.k_begin + 64);
        for (int64_t d = 0; d < kValue; ++d) {
          double sum = 0, size = 0;
          for (size_t j = 0; j < score.size(); ++j) {
            const double x =
                score[j] / total * p.v.get(p.first_key(s, i) + static_cast<int64_t>(j), h * Problem::kValueStride + d);
            sum += x;
            size += std::abs(x);
          }
          o.add(i, h * kValue + d, sum, size * (2 * relative + kBf16 + n * kSum) + 1.01 * kBf16 * std::abs(sum) + 0x1p-100);
        }
        const double lse = largest + std::log(total),
                     given = static_cast<double>(got.lse[static_cast<size_t>(h * p.q_rows() + i)]);
        if (!(std::abs(lse - given) <= 2 * relative + n * kSum + kSum * std::abs(lse)))
          return fmt::format("lse of query {}, head {} is {}, expected {}", i, h, given, lse);
      }
  return difference("o", got.o, o);
}

void expect_true(const Sizes& sizes, uint64_t seed) {
  const Problem p(sizes, seed);
  EXPECT_EQ(difference_from_truth(p, OnDevice(p).run()), "");
}

TEST_F(AttentionForwardSm90a, WholeTiles) {
  expect_true({1, sequences_of({128})}, 1);
  expect_true({1, sequences_of({256})}, 2);
}

TEST_F(AttentionForwardSm90a, RaggedSequences) {
  expect_true({2, sequences_of({1, 63, 64, 65})}, 3);
  expect_true({1, sequences_of({127, 129, 130})}, 4);
  expect_true({1, sequences_of({300})}, 5);
}

TEST_F(AttentionForwardSm90a, KeysBeforeTheQueries) {
  expect_true({1, sequences_of({70, 5}, 100)}, 6);
  expect_true({1, sequences_of({1}, 290)}, 7);
}

TEST_F(AttentionForwardSm90a, Segments) {
  expect_true({2, sequences_of({40, 150}), true}, 8);
  expect_true({1, sequences_of({330}), true}, 9);
  expect_true({1, sequences_of({300}), true, 260}, 10);
}

// Tiles of queries in pairs, the middle one alone; beside a sequence whose keys are mostly before its queries, not paired.
TEST_F(AttentionForwardSm90a, PairsOfTiles) {
  std::vector<AttentionSequence> sequences = sequences_of({30, 260});
  sequences.push_back({sequences[1].q_end + 3, sequences[1].q_end + 140, sequences[1].k_end + 1, sequences[1].k_end + 300});
  expect_true({2, sequences}, 20);
}

// More work than blocks, more sequences than a launch takes.
TEST_F(AttentionForwardSm90a, ManyHeadsAndSequences) {
  expect_true({7, sequences_of({140})}, 11);
  std::vector<int64_t> lengths(45, 1);
  lengths[17] = 4;
  lengths[44] = 9;
  lengths[20] = 0;
  expect_true({1, sequences_of(lengths), true}, 12);
}

TEST_F(AttentionForwardSm90a, NothingToDo) {
  const Problem p({1, sequences_of({3})}, 13);
  const OnDevice device(p);
  AttentionForwardArgs args = device.args();
  args.sequences = {};
  attention_forward_sm90a(args, Stream::on_device());
  for (const uint16_t bits : hopper::to_host<uint16_t>(device.o)) ASSERT_EQ(bits, kPoison);
}

TEST_F(AttentionForwardSm90a, LseMayBeAbsent) {
  const Problem p({1, sequences_of({70})}, 14);
  const OnDevice device(p);
  const Result with = device.run();
  device.o.fill(0xff);
  AttentionForwardArgs args = device.args();
  args.lse = {};
  attention_forward_sm90a(args, Stream::on_device());
  EXPECT_EQ(device.result().o.bits, with.o.bits);
}

// The emulator draws another order of warps, copies and products each time.
TEST_F(AttentionForwardSm90a, TimingDoesNotShow) {
  const Problem p({2, sequences_of({hopper::is_emulated() ? 200 : 2000, 70}, 5), true}, 15);
  const OnDevice device(p);
  const Result first = device.run();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(device.run() == first) << "run " << i + 2;
}

TEST_F(AttentionForwardSm90a, SequenceAloneHasTheSameBits) {
  const Problem p({2, sequences_of({90, 17, 230})}, 16);
  const OnDevice device(p);
  const Result together = device.run();
  device.o.fill(0xff);
  device.lse.fill(0xff);
  for (const AttentionSequence& s : p.sizes.sequences) {
    AttentionForwardArgs args = device.args();
    args.sequences = {&s, 1};
    attention_forward_sm90a(args, Stream::on_device());
  }
  EXPECT_TRUE(device.result() == together);
}

// The last queries of a sequence with the keys before them: other tiles of queries, some with a tile of keys that not all of
// them see; the same bits. Large scores, so that what is not exact shows.
TEST_F(AttentionForwardSm90a, AQueryAloneHasTheSameBits) {
  Problem p({1, sequences_of({200})}, 17);
  p.shape.scale = 3;
  const OnDevice device(p);
  const Result together = device.run();
  const AttentionSequence all = p.sizes.sequences[0];
  for (const int64_t from : {1, 70, 128, 199}) {
    device.o.fill(0xff);
    device.lse.fill(0xff);
    AttentionForwardArgs args = device.args();
    const AttentionSequence some{all.q_begin + from, all.q_end, all.k_begin, all.k_end};
    args.sequences = {&some, 1};
    attention_forward_sm90a(args, Stream::on_device());
    const Result alone = device.result();
    for (int64_t i = some.q_begin; i < some.q_end; ++i) {
      const auto at = static_cast<size_t>(i);
      ASSERT_EQ(alone.lse[at], together.lse[at]) << "query " << i;
      for (int64_t d = 0; d < kValue; ++d)
        ASSERT_EQ(alone.o.get(i, d), together.o.get(i, d)) << "query " << i << ", column " << d;
    }
  }
}

TEST_F(AttentionForwardSm90a, LongSequencesOfManyHeads) {
  if (hopper::is_emulated()) GTEST_SKIP() << "for a GPU";
  expect_true({5, sequences_of({1500, 384})}, 18);
}

TEST_F(AttentionForwardSm90a, RefusesWhatItCannotTake) {
  const Problem p({2, sequences_of({3})}, 19);
  const OnDevice device(p);
  EXPECT_EQ(refuse_attention_forward_sm90a(device.args()), "");
  const auto reason = [&](auto change) {
    AttentionForwardArgs args = device.args();
    change(args);
    return refuse_attention_forward_sm90a(args);
  };
  EXPECT_EQ(reason([](auto& a) { a.shape.kv_heads = 1; }), "2 heads share 1 key heads");
  EXPECT_EQ(reason([](auto& a) { a.shape.v_dim = 64; }), "head sizes are 128 + 64, 64, not 128 + 64, 128");
  EXPECT_EQ(reason([](auto& a) { a.shape.scale = 0; }), "scores are scaled by 0");
  EXPECT_EQ(reason([](auto& a) { a.v.dtype = DType::kF32; }), "v holds F32, not BF16");
  EXPECT_EQ(reason([](auto& a) { a.o.stride += 1; }), "rows of o are not 16-byte aligned");
  EXPECT_EQ(reason([](auto& a) { a.k_head_stride += 4; }), "rows of k are not 16-byte aligned");
  EXPECT_EQ(reason([](auto& a) { a.lse.dtype = DType::kBF16; }), "lse holds BF16, not F32");
}

}  // namespace
}  // namespace rorqual
