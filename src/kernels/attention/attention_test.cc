#include "kernels/attention/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "base/rng.h"
#include "kernels/attention/kernels.h"
#include "kernels/attention/problem_test.h"

namespace rorqual::attention {
namespace {

template <class Args>
using Row = KernelRow<Args>;

// Calls body for every row that this CPU runs and every dtype that the row takes; says which rows could not run.
template <class Args, class Body>
void for_each_row(std::span<const Row<Args>> rows, const std::function<Args(const Problem&)>& args_of, Body&& body) {
  std::string lacking;
  const Problem small_problem[] = {Problem({.sequences = sequences_of({3})}, DType::kF64, 1),
                                   Problem({.sequences = sequences_of({3})}, DType::kF32, 1),
                                   Problem({.sequences = sequences_of({3})}, DType::kBF16, 1)};
  for (const Row<Args>& row : rows) {
    if (row.isa > cpu_isa()) {
      lacking += fmt::format(" {} (needs {})", row.name, isa_name(row.isa));
      continue;
    }
    int dtypes = 0;
    for (const Problem& p : small_problem)
      if (row.refuse(args_of(p)).empty()) {
        ++dtypes;
        SCOPED_TRACE(fmt::format("{} on {}", row.name, dtype_name(p.q.dtype())));
        body(row, p.q.dtype());
      }
    EXPECT_GT(dtypes, 0) << row.name;
  }
  if (!lacking.empty()) GTEST_SKIP() << "not on this CPU:" << lacking;
}

template <class Body>
void for_each_forward(Body&& body) {
  for_each_row<AttentionForwardArgs>(
      attention_forward_kernels(), [](const Problem& p) { return p.forward(); }, body);
}
template <class Body>
void for_each_backward(Body&& body) {
  for_each_row<AttentionBackwardArgs>(
      attention_backward_kernels(), [](const Problem& p) { return p.backward(); }, body);
}

// Sizes 1..40 mixed, every remainder of 16 and of 6, several sequences, cached keys, grouped heads, no rope, blocks beyond 64
// and 256 keys, and the shapes that models have.
std::vector<Sizes> all_sizes() {
  std::vector<Sizes> sizes;
  for (int64_t i = 1; i <= 40; ++i) {
    const int64_t kv_heads = 1 + i % 3, group = 1 + i % 2;
    sizes.push_back({kv_heads * group, kv_heads, 1 + (i * 7) % 40, i % 4 == 0 ? 0 : 1 + (i * 11) % 24, 1 + (i * 13) % 40,
                     sequences_of({i, 1, 41 - i}, i % 5 == 2 ? i : 0), i % 3 == 1});
  }
  sizes.push_back({2, 2, 32, 16, 32, sequences_of({70, 64, 65, 128, 129}), false});
  sizes.push_back({2, 1, 5, 3, 6, sequences_of({300}), true});
  sizes.push_back({2, 2, 5, 3, 17, sequences_of({300}, 290), false});
  sizes.push_back({1, 1, 6, 0, 4, sequences_of({7, 2}, 600), false});
  sizes.push_back({4, 4, 64, 32, 64, sequences_of({97}), false});
  sizes.push_back({2, 2, 128, 64, 128, sequences_of({131}), true});
  sizes.push_back({4, 1, 100, 0, 100, sequences_of({66, 3}), false});
  return sizes;
}

void run_forward(const Row<AttentionForwardArgs>& row, Problem& p, int threads) {
  ThreadPool pool(threads);
  p.o.poison();
  p.lse.poison();
  row.run(p.forward(), Stream(pool));
}

void run_backward(const Row<AttentionBackwardArgs>& row, Problem& p, int threads) {
  ThreadPool pool(threads);
  for (Buffer* b : {&p.d_q, &p.d_k, &p.d_v, &p.d_k_rope, &p.scratch}) b->poison();
  row.run(p.backward(), Stream(pool));
}

std::string backward_difference(const Problem& p, const BackwardTruth& truth) {
  std::string text = difference("d_q", p.d_q, truth.d_q);
  if (text.empty()) text = difference("d_k", p.d_k, truth.d_k);
  if (text.empty()) text = difference("d_v", p.d_v, truth.d_v);
  if (text.empty() && p.sizes.rope > 0) text = difference("d_k_rope", p.d_k_rope, truth.d_k_rope);
  return text;
}

TEST(AttentionForward, EveryRowMatchesPlainFormulas) {
  const std::vector<Sizes> sizes = all_sizes();
  for_each_forward([&](const Row<AttentionForwardArgs>& row, DType dtype) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      Problem p(sizes[i], dtype, i);
      run_forward(row, p, 1);
      const ForwardTruth truth = forward_truth(p);
      ASSERT_EQ(difference("o", p.o, truth.o), "") << sizes[i].text();
      ASSERT_EQ(difference("lse", p.lse, truth.lse), "") << sizes[i].text();
    }
  });
}

TEST(AttentionForward, LogSumExpMayBeAbsent) {
  for_each_forward([&](const Row<AttentionForwardArgs>& row, DType dtype) {
    Problem p({.heads = 2, .kv_heads = 2, .sequences = sequences_of({20})}, dtype, 1);
    run_forward(row, p, 1);
    const std::vector<std::byte> with = p.o.bytes();
    p.lse.poison();
    const std::vector<std::byte> poison = p.lse.bytes();
    p.o.poison();
    ThreadPool pool(1);
    AttentionForwardArgs args = p.forward();
    args.lse = {};
    row.run(args, Stream(pool));
    EXPECT_EQ(p.o.bytes(), with);
    EXPECT_EQ(p.lse.bytes(), poison);
  });
}

// Scores of ±200 and more: no overflow, and rows whose softmax is one key wide.
TEST(AttentionForward, LargeScores) {
  for_each_forward([&](const Row<AttentionForwardArgs>& row, DType dtype) {
    Problem p({.heads = 2, .kv_heads = 2, .nope = 16, .rope = 0, .v = 16, .sequences = sequences_of({90})}, dtype, 3);
    p.shape.scale = 30;
    run_forward(row, p, 1);
    const ForwardTruth truth = forward_truth(p);
    EXPECT_EQ(difference("o", p.o, truth.o), "");
    EXPECT_EQ(difference("lse", p.lse, truth.lse), "");
  });
}

// Two keys whose scores are 0 and log 3: weights 1/4 and 3/4.
TEST(AttentionForward, ByHand) {
  for_each_forward([&](const Row<AttentionForwardArgs>& row, DType dtype) {
    Problem p({.heads = 1, .kv_heads = 1, .nope = 1, .rope = 1, .v = 1, .sequences = sequences_of({2})}, dtype, 1);
    p.shape.scale = std::log(3.0);
    const AttentionSequence s = p.sizes.sequences[0];
    p.q.set(s.q_begin + 1, 0, 0.5);
    p.q.set(s.q_begin + 1, 1, 0.25);
    p.k.set(s.k_begin, 0, 1);
    p.k_rope.set(s.k_begin, 0, -2);
    p.k.set(s.k_begin + 1, 0, 1);
    p.k_rope.set(s.k_begin + 1, 0, 2);
    p.v.set(s.k_begin, 0, 8);
    p.v.set(s.k_begin + 1, 0, 16);
    run_forward(row, p, 1);
    EXPECT_EQ(p.o.get(s.q_begin, 0), 8);
    EXPECT_NEAR(p.o.get(s.q_begin + 1, 0), 14, dtype == DType::kBF16 ? 0.0625 : dtype == DType::kF32 ? 1e-5 : 1e-13);
    EXPECT_NEAR(p.lse.get(0, s.q_begin + 1), std::log(4.0), dtype == DType::kF64 ? 1e-14 : 1e-6);
  });
}

// A query computed alone, against just the keys it sees, has the bits it has inside its sequence. The cache may be longer than
// a block of keys, or end anywhere in it.
TEST(AttentionForward, RowAloneHasTheSameBits) {
  for_each_forward([&](const Row<AttentionForwardArgs>& row, DType dtype) {
    for (const bool segments : {false, true})
      for (const int64_t cached : {0, 70}) {
        Problem p({4, 2, 20, 12, 24, sequences_of({330, 5}, cached), segments}, dtype, 5);
        run_forward(row, p, 2);
        const std::vector<std::byte> o = p.o.bytes(), lse = p.lse.bytes();
        p.o.poison();
        p.lse.poison();
        ThreadPool pool(1);
        for (const AttentionSequence& s : p.sizes.sequences)
          for (int64_t i = s.q_begin; i < s.q_end; ++i) {
            const AttentionSequence alone{i, i + 1, s.k_begin, s.k_end - (s.q_end - i) + 1};
            AttentionForwardArgs args = p.forward();
            args.sequences = {&alone, 1};
            row.run(args, Stream(pool));
          }
        EXPECT_EQ(p.o.bytes(), o) << "segments " << segments << ", cached " << cached;
        EXPECT_EQ(p.lse.bytes(), lse);
      }
  });
}

TEST(AttentionForward, ThreadsDoNotShow) {
  for_each_forward([&](const Row<AttentionForwardArgs>& row, DType dtype) {
    Problem p({3, 3, 24, 8, 20, sequences_of({300, 17, 90, 1}), true}, dtype, 9);
    run_forward(row, p, 1);
    const std::vector<std::byte> o = p.o.bytes(), lse = p.lse.bytes();
    for (const int threads : {2, 3}) {
      run_forward(row, p, threads);
      EXPECT_EQ(p.o.bytes(), o) << threads;
      EXPECT_EQ(p.lse.bytes(), lse) << threads;
    }
  });
}

// The comparison that the tests above rely on sees a zeroed tile, a row that belongs elsewhere, a block of keys left out, a
// write into a gap.
TEST(AttentionForward, DefectsAreCaught) {
  for_each_forward([&](const Row<AttentionForwardArgs>& row, DType dtype) {
    Problem p({2, 2, 16, 8, 16, sequences_of({140}), false}, dtype, 7);
    const ForwardTruth truth = forward_truth(p);
    run_forward(row, p, 1);
    ASSERT_EQ(difference("o", p.o, truth.o), "");
    const Problem good = p;
    for (int64_t r = 61; r < 67; ++r)
      for (int64_t c = 16; c < 32; ++c) p.o.set(r, c, 0);
    EXPECT_NE(difference("o", p.o, truth.o), "");
    p = good;
    for (int64_t c = 0; c < 32; ++c) p.o.set(140, c, good.o.get(139, c));
    EXPECT_NE(difference("o", p.o, truth.o), "");
    p = good;
    p.segment_start.assign(static_cast<size_t>(p.q.rows()), 2);
    for (int64_t i = 130; i < 141; ++i) p.segment_start[static_cast<size_t>(i)] = 66;
    run_forward(row, p, 1);
    EXPECT_NE(difference("o", p.o, truth.o), "");
    EXPECT_NE(difference("lse", p.lse, truth.lse), "");
    p = good;
    p.o.set(0, 3, 1);
    EXPECT_NE(difference("o", p.o, truth.o), "");
  });
}

TEST(AttentionBackward, EveryRowMatchesPlainFormulas) {
  const std::vector<Sizes> sizes = all_sizes();
  for_each_backward([&](const Row<AttentionBackwardArgs>& row, DType dtype) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      Problem p(sizes[i], dtype, 100 + i);
      p.set_forward_result();
      run_backward(row, p, 1);
      ASSERT_EQ(backward_difference(p, backward_truth(p)), "") << sizes[i].text();
    }
  });
}

TEST(AttentionBackward, ThreadsDoNotShow) {
  for_each_backward([&](const Row<AttentionBackwardArgs>& row, DType dtype) {
    Problem p({4, 2, 24, 8, 20, sequences_of({150, 17, 90, 1}), true}, dtype, 9);
    p.set_forward_result();
    run_backward(row, p, 1);
    const Problem one = p;
    for (const int threads : {2, 3}) {
      run_backward(row, p, threads);
      EXPECT_EQ(p.d_q.bytes(), one.d_q.bytes()) << threads;
      EXPECT_EQ(p.d_k.bytes(), one.d_k.bytes()) << threads;
      EXPECT_EQ(p.d_v.bytes(), one.d_v.bytes()) << threads;
      EXPECT_EQ(p.d_k_rope.bytes(), one.d_k_rope.bytes()) << threads;
    }
  });
}

// The gradients of a sequence do not depend on what else is in the call.
TEST(AttentionBackward, SequenceAloneHasTheSameBits) {
  for_each_backward([&](const Row<AttentionBackwardArgs>& row, DType dtype) {
    Problem p({4, 2, 12, 8, 20, sequences_of({150, 17, 90}), false}, dtype, 9);
    p.set_forward_result();
    run_backward(row, p, 2);
    const Problem together = p;
    for (Buffer* b : {&p.d_q, &p.d_k, &p.d_v, &p.d_k_rope}) b->poison();
    ThreadPool pool(1);
    for (const AttentionSequence& s : together.sizes.sequences) {
      AttentionBackwardArgs args = p.backward();
      args.sequences = {&s, 1};
      row.run(args, Stream(pool));
    }
    EXPECT_EQ(p.d_q.bytes(), together.d_q.bytes());
    EXPECT_EQ(p.d_k.bytes(), together.d_k.bytes());
    EXPECT_EQ(p.d_v.bytes(), together.d_v.bytes());
    EXPECT_EQ(p.d_k_rope.bytes(), together.d_k_rope.bytes());
  });
}

TEST(AttentionBackward, DefectsAreCaught) {
  for_each_backward([&](const Row<AttentionBackwardArgs>& row, DType dtype) {
    Problem p({2, 2, 16, 8, 16, sequences_of({140}), false}, dtype, 7);
    p.set_forward_result();
    const BackwardTruth truth = backward_truth(p);
    run_backward(row, p, 1);
    ASSERT_EQ(backward_difference(p, truth), "");
    const Problem good = p;
    for (Buffer Problem::*member : {&Problem::d_q, &Problem::d_k, &Problem::d_v, &Problem::d_k_rope}) {
      p = good;
      Buffer& b = p.*member;
      for (int64_t r = 61; r < 67; ++r)  // a tile of zeros in the last 8 columns that are used
        for (int64_t c = 0; c < 8; ++c)
          if (!b.poisoned(r, c)) b.set(r, c, 0);
      EXPECT_NE(backward_difference(p, truth), "");
      p = good;  // a row that belongs elsewhere
      for (int64_t c = 0; c < b.cols(); ++c)
        if (!b.poisoned(66, c)) b.set(66, c, (good.*member).get(67, c));
      EXPECT_NE(backward_difference(p, truth), "");
    }
    p = good;  // the first block of keys left out for the last queries
    p.segment_start.assign(static_cast<size_t>(p.q.rows()), 2);
    for (int64_t i = 130; i < 141; ++i) p.segment_start[static_cast<size_t>(i)] = 66;
    run_backward(row, p, 1);
    EXPECT_NE(difference("d_q", p.d_q, truth.d_q), "");
    EXPECT_NE(difference("d_k", p.d_k, truth.d_k), "");
    EXPECT_NE(difference("d_v", p.d_v, truth.d_v), "");
    EXPECT_NE(difference("d_k_rope", p.d_k_rope, truth.d_k_rope), "");
  });
}

// Σ o·w in double, with the reference.
double weighted_output(Problem& p) {
  ThreadPool pool(1);
  forward_reference(p.forward(), Stream(pool));
  double sum = 0;
  for (const AttentionSequence& s : p.sizes.sequences)
    for (int64_t i = s.q_begin; i < s.q_end; ++i)
      for (int64_t c = 0; c < p.o.cols(); ++c) sum += p.o.get(i, c) * p.d_o.get(i, c);
  return sum;
}

// Five-point differences with h = 2^-11: truncation h⁴/30 times a fifth derivative of order 1e2 at most is 2e-13; rounding
// 2^-53·|loss|·1.5/h, loss below 100, is 3e-11. Both stay below 1e-9.
TEST(AttentionBackward, ReferenceMatchesFiniteDifferences) {
  const Sizes cases[] = {{4, 2, 3, 2, 3, sequences_of({5, 1, 3}), false},
                         {2, 2, 2, 3, 4, sequences_of({4, 2}, 3), false},
                         {3, 1, 4, 0, 2, sequences_of({9}), true},
                         {2, 2, 0, 3, 2, sequences_of({4}), false}};
  for (const Sizes& sizes : cases) {
    Problem p(sizes, DType::kF64, 11);
    weighted_output(p);
    run_backward({"", Isa::kReference, nullptr, backward_reference}, p, 1);
    const auto check = [&](Buffer Problem::*input, const Buffer& gradient, int64_t heads, int64_t head_gap,
                           int64_t gradient_gap) {
      Buffer& x = p.*input;
      if (x.bytes().empty()) return;
      const int64_t dim = x.cols() / heads - head_gap;
      for (int64_t r = 0; r < x.rows(); ++r)
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t d = 0; d < dim; ++d) {
            const int64_t c = h * (dim + head_gap) + d;
            if (x.poisoned(r, c)) continue;
            const double value = x.get(r, c), step = 0x1p-11;
            const auto at = [&](double offset) {
              x.set(r, c, value + offset);
              return weighted_output(p);
            };
            const double slope = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
            x.set(r, c, value);
            EXPECT_NEAR(gradient.get(r, h * (dim + gradient_gap) + d), slope, 1e-9)
                << sizes.text() << " row " << r << " column " << c;
          }
    };
    check(&Problem::q, p.d_q, 1, 0, 0);
    check(&Problem::k, p.d_k, sizes.kv_heads, 5, 1);
    check(&Problem::k_rope, p.d_k_rope, 1, 0, 0);
    check(&Problem::v, p.d_v, sizes.kv_heads, 2, 3);
  }
}

TEST(AttentionSelect, RowsByTypeAndInstructionSet) {
  const auto forward_name = [](DType dtype, Isa isa) {
    const Problem p({.sequences = sequences_of({3})}, dtype, 1);
    return select_row(attention_forward_kernels(), p.forward(), isa).name;
  };
  const auto backward_name = [](DType dtype, Isa isa) {
    const Problem p({.sequences = sequences_of({3})}, dtype, 1);
    return select_row(attention_backward_kernels(), p.backward(), isa).name;
  };
  for (const auto& name : {std::function(forward_name), std::function(backward_name)}) {
    for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16}) EXPECT_EQ(name(dtype, Isa::kReference), "reference");
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      EXPECT_EQ(name(dtype, Isa::kAvx2), "avx2");
      EXPECT_EQ(name(dtype, Isa::kAvx512), "avx512");
    }
    EXPECT_EQ(name(DType::kF64, Isa::kAvx512), "reference");
  }
}

TEST(AttentionSelect, PublicFunctionsObeyTheForcedInstructionSet) {
  Problem p({.heads = 2, .kv_heads = 2, .sequences = sequences_of({70})}, DType::kF32, 1);
  ThreadPool pool(2);
  const Stream stream(pool);
  for (const Row<AttentionForwardArgs>& row : attention_forward_kernels()) {
    if (row.isa > cpu_isa()) continue;
    run_forward(row, p, 1);
    const std::vector<std::byte> o = p.o.bytes();
    p.o.poison();
    const ScopedIsa forced(row.isa);
    attention_forward(p.forward(), stream);
    EXPECT_EQ(p.o.bytes(), o) << row.name;
  }
  p.set_forward_result();
  for (const Row<AttentionBackwardArgs>& row : attention_backward_kernels()) {
    if (row.isa > cpu_isa()) continue;
    run_backward(row, p, 1);
    const std::vector<std::byte> d_q = p.d_q.bytes();
    p.d_q.poison();
    const ScopedIsa forced(row.isa);
    attention_backward(p.backward(), stream);
    EXPECT_EQ(p.d_q.bytes(), d_q) << row.name;
  }
}

}  // namespace
}  // namespace rorqual::attention
