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

constexpr DType kDTypes[] = {DType::kF64, DType::kF32, DType::kBF16};

// The tables, and the AMX row with its instructions in software.
template <class Args>
std::string only_bf16(const Args& args) {
  return args.q.dtype == DType::kBF16 ? "" : "BF16 only";
}
void run_forward_model(const AttentionForwardArgs& args, const Stream& stream) {
  run_forward_jobs(args, stream, forward_amx_model, amx_forward_scratch);
}
void run_backward_model(const AttentionBackwardArgs& args, const Stream& stream) {
  run_backward_jobs(args, stream, backward_amx_model, amx_backward_scratch);
}
std::vector<Row<AttentionForwardArgs>> forward_rows() {
  const auto rows = attention_forward_kernels();
  std::vector<Row<AttentionForwardArgs>> all(rows.begin(), rows.end());
  all.push_back({"model of amx_bf16", Isa::kAvx512, only_bf16<AttentionForwardArgs>, run_forward_model});
  return all;
}
std::vector<Row<AttentionBackwardArgs>> backward_rows() {
  const auto rows = attention_backward_kernels();
  std::vector<Row<AttentionBackwardArgs>> all(rows.begin(), rows.end());
  all.push_back({"model of amx_bf16", Isa::kAvx512, only_bf16<AttentionBackwardArgs>, run_backward_model});
  return all;
}

// Calls body for every row that this CPU runs and every dtype that the row takes.
template <class Args, class Body>
void for_each_row(const std::vector<Row<Args>>& rows, const std::function<Args(const Problem&)>& args_of, Body&& body) {
  for (const Row<Args>& row : rows) {
    if (row.isa > cpu_isa()) continue;
    int dtypes = 0;
    for (const DType dtype : kDTypes) {
      if (!row.refuse(args_of(Problem({.sequences = sequences_of({3})}, dtype, 1))).empty()) continue;
      ++dtypes;
      SCOPED_TRACE(fmt::format("{} on {}", row.name, dtype_name(dtype)));
      body(row, dtype);
    }
    EXPECT_GT(dtypes, 0) << row.name;
  }
}

template <class Body>
void for_each_forward(Body&& body) {
  for_each_row<AttentionForwardArgs>(
      forward_rows(), [](const Problem& p) { return p.forward(); }, body);
}
template <class Body>
void for_each_backward(Body&& body) {
  for_each_row<AttentionBackwardArgs>(
      backward_rows(), [](const Problem& p) { return p.backward(); }, body);
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
  for (const DType dtype : kDTypes)
    for (size_t i = 0; i < sizes.size(); ++i) {
      Problem p(sizes[i], dtype, i);
      const ForwardTruth truth = forward_truth(p);
      for (const auto& row : forward_rows()) {
        if (row.isa > cpu_isa() || !row.refuse(p.forward()).empty()) continue;
        run_forward(row, p, 1);
        ASSERT_EQ(difference("o", p.o, truth.o), "") << row.name << " on " << dtype_name(dtype) << ", " << sizes[i].text();
        ASSERT_EQ(difference("lse", p.lse, truth.lse), "")
            << row.name << " on " << dtype_name(dtype) << ", " << sizes[i].text();
      }
    }
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
        ThreadPool pool(1);
        for (const AttentionSequence& s : p.sizes.sequences)
          for (int64_t i = s.q_begin; i < s.q_end; i += 5) {  // odd, so that every place in a tile comes up
            for (int64_t c = 0; c < p.o.cols(); ++c) p.o.set(i, c, NAN);
            for (int64_t h = 0; h < p.lse.rows(); ++h) p.lse.set(h, i, NAN);
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

// A NaN in one query spoils that row of that head and no other; in a value, that element of the rows that see its key.
TEST(AttentionForward, NaNSpreadsWhereItMust) {
  for_each_forward([&](const Row<AttentionForwardArgs>& row, DType dtype) {
    Problem p({2, 2, 16, 8, 16, sequences_of({40}), false}, dtype, 7);
    const AttentionSequence s = p.sizes.sequences[0];
    p.q.set(s.q_begin + 9, 24 + 3, NAN);
    p.v.set(s.k_begin + 30, 2, NAN);
    run_forward(row, p, 1);
    for (int64_t i = 0; i < 40; ++i)
      for (int64_t c = 0; c < 32; ++c) {
        const bool spoiled = std::isnan(p.o.get(s.q_begin + i, c));
        if (c >= 16) {
          EXPECT_EQ(spoiled, i == 9) << i << ", " << c;
        } else if (c != 2 || i >= 30) {  // before row 30, rows that share a tile with it may or may not be spoiled
          EXPECT_EQ(spoiled, c == 2) << i << ", " << c;
        }
      }
    EXPECT_TRUE(std::isnan(p.lse.get(1, s.q_begin + 9)));
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
  for (const DType dtype : kDTypes)
    for (size_t i = 0; i < sizes.size(); ++i) {
      Problem p(sizes[i], dtype, 100 + i);
      p.set_forward_result();
      const BackwardTruth truth = backward_truth(p);
      for (const auto& row : backward_rows()) {
        if (row.isa > cpu_isa() || !row.refuse(p.backward()).empty()) continue;
        run_backward(row, p, 1);
        ASSERT_EQ(backward_difference(p, truth), "") << row.name << " on " << dtype_name(dtype) << ", " << sizes[i].text();
      }
    }
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

// A sequence without queries still owns its keys' gradients: zeros.
TEST(AttentionBackward, KeysThatNobodySeesGetZeros) {
  for_each_backward([&](const Row<AttentionBackwardArgs>& row, DType dtype) {
    Problem p({2, 1, 12, 8, 20, sequences_of({0, 6, 0}, 70), false}, dtype, 9);
    p.set_forward_result();
    run_backward(row, p, 2);
    EXPECT_EQ(backward_difference(p, backward_truth(p)), "");
    EXPECT_EQ(p.d_k.get(p.sizes.sequences[0].k_begin, 0), 0);
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

// Both polynomials against libm's double over the range that softmax uses and its edges, at every position of a vector.
TEST(AttentionExp2, WithinTwoUlp) {
  const struct {
    Isa isa;
    float smallest;
    void (*run)(const float*, float*, int64_t);
  } functions[] = {{Isa::kAvx2, -125.0f, exp2_avx2}, {Isa::kAvx512, -126.0f, exp2_avx512}};
  for (const auto& f : functions) {
    if (f.isa > cpu_isa()) GTEST_SKIP() << "not on this CPU: " << isa_name(f.isa);
    std::vector<float> x, y;
    for (float v = f.smallest; v < 127.5f; v += 0.0009731f) x.push_back(v);
    x.push_back(f.smallest);
    y.resize(x.size());
    f.run(x.data(), y.data(), static_cast<int64_t>(x.size()));
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double truth = std::exp2(static_cast<double>(x[i]));
      const double ulp = std::exp2(std::floor(std::log2(truth)) - 23);
      const double error = std::abs(static_cast<double>(y[i]) - truth) / ulp;
      if (!(error <= worst)) worst = error, at = i;
    }
    EXPECT_LE(worst, 1.5) << isa_name(f.isa) << ": 2^" << x[at] << " is " << y[at];
    const float edges[] = {0, -0.0f, -INFINITY, -200, f.smallest - 0.01f, 128, 200, INFINITY, NAN, 1, -1};
    const float expected[] = {1, 1, 0, 0, 0, INFINITY, INFINITY, INFINITY, NAN, 2, 0.5f};
    for (int64_t n = 1; n <= 11; ++n) {
      float got[12];
      got[n] = -7;
      f.run(edges, got, n);
      for (int64_t i = 0; i < n; ++i)
        EXPECT_TRUE(got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i])))
            << edges[i] << " gives " << got[i];
      EXPECT_EQ(got[n], -7);
    }
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
    for (const DType dtype : kDTypes) EXPECT_EQ(name(dtype, Isa::kReference), "reference");
    EXPECT_EQ(name(DType::kF32, Isa::kAvx2), "avx2_f32");
    EXPECT_EQ(name(DType::kBF16, Isa::kAvx2), "avx2_bf16");
    EXPECT_EQ(name(DType::kF32, Isa::kAvx512), "avx512_f32");
    EXPECT_EQ(name(DType::kBF16, Isa::kAvx512), "avx512_bf16");
    EXPECT_EQ(name(DType::kF32, Isa::kAmx), "avx512_f32");
    EXPECT_EQ(name(DType::kBF16, Isa::kAmx), "amx_bf16");
    EXPECT_EQ(name(DType::kF64, Isa::kAmx), "reference");
  }
}

TEST(AttentionSelect, ThisCpuRunsEveryRow) {
  std::string lacking;
  for (const auto& row : attention_forward_kernels())
    if (row.isa > cpu_isa()) lacking += fmt::format(" {} (needs {})", row.name, isa_name(row.isa));
  if (!lacking.empty()) GTEST_SKIP() << "not tested on this CPU:" << lacking;
}

TEST(AttentionSelect, PublicFunctionsObeyTheForcedInstructionSet) {
  Problem p({.heads = 2, .kv_heads = 2, .sequences = sequences_of({70})}, DType::kF32, 1);
  ThreadPool pool(2);
  const Stream stream(pool);
  for (const Row<AttentionForwardArgs>& row : attention_forward_kernels()) {
    if (row.isa > cpu_isa() || !row.refuse(p.forward()).empty()) continue;
    run_forward(row, p, 1);
    const std::vector<std::byte> o = p.o.bytes();
    p.o.poison();
    const ScopedIsa forced(row.isa);
    attention_forward(p.forward(), stream);
    EXPECT_EQ(p.o.bytes(), o) << row.name;
  }
  p.set_forward_result();
  for (const Row<AttentionBackwardArgs>& row : attention_backward_kernels()) {
    if (row.isa > cpu_isa() || !row.refuse(p.backward()).empty()) continue;
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
