#include "kernels/router/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/common/matrix_for_tests.h"

namespace rorqual {
namespace {

using testing::difference;
using testing::Matrix;

constexpr double kHalfUlp = 0x1p-24;

RouterShape v3_shape(int64_t experts, int64_t top_k, int64_t groups, int64_t top_groups) {
  return {.experts = experts, .top_k = top_k, .groups = groups, .top_groups = top_groups, .scale = 2.5};
}
RouterShape softmax_shape(int64_t experts, int64_t top_k, int64_t groups = 1, int64_t top_groups = 1) {
  return {.experts = experts,
          .top_k = top_k,
          .groups = groups,
          .top_groups = top_groups,
          .score = ScoreFunction::kSoftmax,
          .group_sum_of_two = false,
          .normalise = false,
          .scale = 16};
}

// Shapes of models and odd ones.
std::vector<RouterShape> shapes() {
  std::vector<RouterShape> s{v3_shape(256, 8, 8, 4), softmax_shape(160, 6, 8, 3), softmax_shape(64, 6), v3_shape(16, 4, 4, 2)};
  for (int64_t n = 1; n <= 40; ++n) {
    s.push_back(v3_shape(n, std::min<int64_t>(n, 1 + n % 9), 1, 1));
    s.push_back(softmax_shape(n, std::min<int64_t>(n, 1 + n % 5)));
    s.back().normalise = n % 2;
    if (n % 3 == 0) s.push_back(v3_shape(n, 1 + n / 3, 3, 2));
    if (n % 5 == 0) s.push_back(softmax_shape(n, 1, 5, 1));
  }
  return s;
}

struct Routing {
  Matrix scores, weight;
  std::vector<int32_t> expert;
};

using Forward = KernelRow<RouterForwardArgs>;

Routing route(const Forward& row, const RouterShape& shape, const Matrix& logits, const Matrix* bias, const Stream& stream) {
  const DType dtype = logits.tensor().dtype;
  Routing r{Matrix(dtype, logits.rows(), shape.experts), Matrix(dtype, logits.rows(), shape.top_k), {}};
  r.expert.assign(static_cast<size_t>(logits.rows() * shape.top_k) + 1, -7);
  const RouterForwardArgs args{shape, logits, bias ? bias->tensor() : Tensor{}, r.scores, r.expert.data(), r.weight};
  EXPECT_EQ(row.refuse(args), "");
  row.run(args, stream);
  EXPECT_EQ(r.scores.written_outside() + r.weight.written_outside(), "");
  EXPECT_EQ(r.expert.back(), -7) << "written beyond the experts";
  r.expert.pop_back();
  return r;
}
Routing route(const RouterShape& shape, const Matrix& logits, const Matrix* bias = nullptr) {
  ThreadPool pool(1);
  return route(router_forward_kernels().back(), shape, logits, bias, Stream(pool));
}

// Indices of the k largest, the lower index first among equals, ascending.
template <class T>
std::vector<int32_t> largest(const std::vector<T>& value, int64_t k) {
  std::vector<int32_t> order(value.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return value[a] > value[b]; });
  order.resize(static_cast<size_t>(k));
  std::sort(order.begin(), order.end());
  return order;
}

// The choice by sorting, written apart from the kernels. In F32, as the kernels add bias and group scores.
std::vector<int32_t> choose_by_sorting(const RouterShape& shape, const Matrix& scores, int64_t row, const Matrix* bias) {
  std::vector<float> c;
  for (int64_t i = 0; i < shape.experts; ++i) {
    c.push_back(static_cast<float>(scores.at(row, i)));
    if (bias) c.back() += static_cast<float>(bias->at(0, i));
    if (std::isnan(c.back())) c.back() = -INFINITY;
  }
  const int64_t size = shape.experts / shape.groups;
  std::vector<float> group;
  for (int64_t g = 0; g < shape.groups; ++g) {
    std::vector<float> members(c.begin() + g * size, c.begin() + (g + 1) * size);
    std::sort(members.rbegin(), members.rend());
    group.push_back(members[0] + (shape.group_sum_of_two && size > 1 ? members[1] : 0.0f));
    if (std::isnan(group.back())) group.back() = -INFINITY;
  }
  std::vector<float> kept;
  std::vector<int32_t> index;
  for (int32_t g : largest(group, shape.top_groups))
    for (int64_t i = g * size; i < (g + 1) * size; ++i) {
      kept.push_back(c[i]);
      index.push_back(static_cast<int32_t>(i));
    }
  std::vector<int32_t> chosen;
  for (int32_t i : largest(kept, shape.top_k)) chosen.push_back(index[i]);
  return chosen;
}

// Scores differ by the exponential (2 ulp on either side), additions and division; softmax also by the sum, whose vector order
// has experts / 8 + 4 additions in a lane at most.
std::string compare(const RouterShape& shape, const Routing& expected, const Routing& actual) {
  const double sum_error = shape.score == ScoreFunction::kSoftmax ? static_cast<double>(shape.experts) / 8 + 4 + 8 : 0;
  const double relative = (12 + sum_error) * kHalfUlp;
  std::string text = difference(expected.scores, actual.scores,
                                [&](int64_t r, int64_t c) { return relative * std::abs(expected.scores.at(r, c)) + 0x1p-126; });
  if (!text.empty()) return "scores: " + text;
  if (expected.expert != actual.expert) return "other experts chosen";
  // A weight is a quotient of a score and a sum of top_k scores.
  text = difference(expected.weight, actual.weight, [&](int64_t r, int64_t c) {
    return (2 * relative + (2 * static_cast<double>(shape.top_k) + 4) * kHalfUlp) * std::abs(expected.weight.at(r, c));
  });
  return text.empty() ? text : "weights: " + text;
}

class RouterForward : public ::testing::TestWithParam<Forward> {};
INSTANTIATE_TEST_SUITE_P(Rows, RouterForward, ::testing::ValuesIn(router_forward_kernels()), testing::RowName());

TEST_P(RouterForward, AgreesWithReference) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(2);
  const Stream stream(pool);
  for (const RouterShape& shape : shapes()) {
    Matrix logits(DType::kF32, 5, shape.experts), bias(DType::kF32, 1, shape.experts);
    logits.fill_normal(static_cast<uint64_t>(shape.experts), 2);
    bias.fill_normal(2, 0.1);
    const Matrix* used = shape.score == ScoreFunction::kSigmoid ? &bias : nullptr;
    const Routing expected = route(router_forward_kernels().back(), shape, logits, used, stream);
    const Routing actual = route(GetParam(), shape, logits, used, stream);
    ASSERT_EQ(compare(shape, expected, actual), "") << shape.experts << " experts";
  }
}

// Many equal scores: logits and bias take few values.
TEST_P(RouterForward, ChoosesAsSortingDoesWithTies) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(1);
  for (const RouterShape& shape : shapes()) {
    Matrix logits(DType::kF32, 20, shape.experts), bias(DType::kF32, 1, shape.experts);
    logits.fill([&](int64_t r, int64_t c) {
      const uint64_t draw = random_below({.seed = 3}, static_cast<uint64_t>(r * shape.experts + c), 7);
      return draw == 6 && r % 4 == 3 ? std::nan("") : static_cast<double>(draw % 4) - 1;
    });
    bias.fill([&](int64_t, int64_t c) {
      const double values[] = {-0.9, -0.65, -0.4, -0.9, -0.65, -0.4, -INFINITY, INFINITY};
      return values[random_below({.seed = 4}, static_cast<uint64_t>(c), 8)];
    });
    for (const Matrix* b : {static_cast<const Matrix*>(nullptr), static_cast<const Matrix*>(&bias)}) {
      const Routing r = route(GetParam(), shape, logits, b, Stream(pool));
      for (int64_t t = 0; t < 20; ++t) {
        const auto expected = choose_by_sorting(shape, r.scores, t, b);
        const std::vector<int32_t> actual(r.expert.begin() + t * shape.top_k, r.expert.begin() + (t + 1) * shape.top_k);
        ASSERT_EQ(actual, expected) << shape.experts << " experts, " << shape.groups << " groups, token " << t;
      }
    }
  }
}

TEST_P(RouterForward, ExtremeLogits) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(1);
  const Stream stream(pool);
  for (RouterShape shape : {v3_shape(20, 4, 4, 2), softmax_shape(20, 4, 4, 2)}) {
    Matrix logits(DType::kF32, 5, 20);
    const double extremes[] = {3e38, -3e38, INFINITY, -INFINITY};
    logits.fill(
        [&](int64_t r, int64_t c) { return r < 4 ? (c == 7 ? extremes[r] : 0.25 * static_cast<double>(c)) : std::nan(""); });
    const Routing expected = route(router_forward_kernels().back(), shape, logits, nullptr, stream);
    const Routing actual = route(GetParam(), shape, logits, nullptr, stream);
    EXPECT_EQ(compare(shape, expected, actual), "");
    // All scores NaN: equal ranks, so the lowest indices.
    EXPECT_EQ(std::vector<int32_t>(actual.expert.end() - 4, actual.expert.end()), (std::vector<int32_t>{0, 1, 2, 3}));
  }
}

TEST_P(RouterForward, SameBitsForEveryNumberOfThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  const RouterShape shape = v3_shape(64, 6, 8, 4);
  Matrix logits(DType::kF32, 700, 64);
  logits.fill_normal(5);
  ThreadPool one(1);
  const Routing expected = route(GetParam(), shape, logits, nullptr, Stream(one));
  for (int threads : {2, 3}) {
    ThreadPool pool(threads);
    const Routing actual = route(GetParam(), shape, logits, nullptr, Stream(pool));
    EXPECT_EQ(difference(expected.scores, actual.scores), "");
    EXPECT_EQ(difference(expected.weight, actual.weight), "");
    EXPECT_EQ(expected.expert, actual.expert);
  }
}

Matrix row_of(std::vector<double> values) {
  Matrix m(DType::kF64, 1, static_cast<int64_t>(values.size()));
  m.fill([&](int64_t, int64_t c) { return values[c]; });
  return m;
}

TEST(Router, WeightsByHand) {
  const Matrix logits = row_of({std::log(3.0), 0, -50, std::log(1.0 / 3)});  // sigmoid: 3/4, 1/2, 0, 1/4
  const Routing r = route(v3_shape(4, 2, 1, 1), logits);
  EXPECT_EQ(r.expert, (std::vector<int32_t>{0, 1}));
  EXPECT_NEAR(r.weight.at(0, 0), 2.5 * 0.6, 1e-14);
  EXPECT_NEAR(r.weight.at(0, 1), 2.5 * 0.4, 1e-14);
  const Routing soft = route(softmax_shape(4, 2), row_of({std::log(0.1), std::log(0.2), std::log(0.3), std::log(0.4)}));
  EXPECT_EQ(soft.expert, (std::vector<int32_t>{2, 3}));
  EXPECT_NEAR(soft.weight.at(0, 0), 16 * 0.3, 1e-13);
  EXPECT_NEAR(soft.weight.at(0, 1), 16 * 0.4, 1e-13);
}

// The bias chooses, the unbiased score weighs.
TEST(Router, BiasSelectsOnly) {
  const Matrix logits = row_of({1, 0, 0, -1}), bias = row_of({-0.9, 0, 0.1, 0.5});
  const Routing r = route(v3_shape(4, 2, 1, 1), logits, &bias);
  EXPECT_EQ(r.expert, (std::vector<int32_t>{2, 3}));
  const double a = 0.5, b = 1 / (1 + std::exp(1.0));
  EXPECT_NEAR(r.weight.at(0, 0), 2.5 * a / (a + b), 1e-14);
  EXPECT_NEAR(r.scores.at(0, 0), 1 / (1 + std::exp(-1.0)), 1e-14);
}

// The strongest expert sits in a group whose sum of two is not among the best.
TEST(Router, GroupsLimitTheChoice) {
  const Matrix logits = row_of({5, -5, 1, 1, 0.5, 0.9});
  RouterShape shape = v3_shape(6, 2, 3, 1);
  EXPECT_EQ(route(shape, logits).expert, (std::vector<int32_t>{2, 3}));
  shape.group_sum_of_two = false;
  EXPECT_EQ(route(shape, logits).expert, (std::vector<int32_t>{0, 1}));
}

// Negative biased scores in the kept group beat anything excluded: a mask of 0.0 would get this wrong.
TEST(Router, ExcludedGroupsNeverWin) {
  const Matrix logits = row_of({0, 0, 0, 0}), bias = row_of({-2, -2, -3, -1.5});
  RouterShape shape = v3_shape(4, 2, 2, 1);
  EXPECT_EQ(route(shape, logits, &bias).expert, (std::vector<int32_t>{0, 1}));
}

TEST(Router, TiesGoToTheLowestIndex) {
  const Matrix logits = row_of({1, 1, 1, 1, 1, 1, 1, 1});
  EXPECT_EQ(route(v3_shape(8, 3, 1, 1), logits).expert, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(route(v3_shape(8, 3, 4, 2), logits).expert, (std::vector<int32_t>{0, 1, 2}));
  const Matrix later = row_of({0, 0, 0, 0, 1, 0, 0, 1});  // groups 2 and 3 tie for the second place behind none
  EXPECT_EQ(route(v3_shape(8, 2, 4, 1), later).expert, (std::vector<int32_t>{4, 5}));
}

struct Backward {
  RouterShape shape;
  int64_t sequence_length;
  double balance;
};

// Σ weight·d_weight + balance loss, as a function of the logits.
double loss_of(const Backward& b, const Matrix& logits, const Matrix& d_weight, std::vector<int32_t>* expert) {
  const Routing r = route(b.shape, logits);
  std::vector<int64_t> load(static_cast<size_t>(b.shape.experts));
  ThreadPool pool(1);
  double loss = router_statistics(b.shape, r.scores, r.expert.data(), b.sequence_length, b.balance, load.data(), Stream(pool))
                    .balance_loss;
  for (int64_t t = 0; t < logits.rows(); ++t)
    for (int64_t k = 0; k < b.shape.top_k; ++k) loss += r.weight.at(t, k) * d_weight.at(t, k);
  *expert = r.expert;
  return loss;
}

Matrix gradient(const KernelRow<RouterBackwardArgs>& row, const Backward& b, const Matrix& scores,
                const std::vector<int32_t>& expert, const Matrix& d_weight, const Stream& stream) {
  Matrix d(scores.tensor().dtype, scores.rows(), scores.cols());
  const RouterBackwardArgs args{b.shape, scores, expert.data(), d_weight, b.sequence_length, b.balance, d};
  EXPECT_EQ(row.refuse(args), "");
  row.run(args, stream);
  EXPECT_EQ(d.written_outside(), "");
  return d;
}

std::vector<Backward> backward_cases() {
  std::vector<Backward> cases;
  for (RouterShape shape : {v3_shape(12, 3, 4, 2), softmax_shape(12, 3), v3_shape(7, 7, 1, 1)})
    for (bool normalise : {false, true})
      for (double balance : {0.0, 0.7}) {
        shape.normalise = normalise;
        cases.push_back({shape, 3, balance});
      }
  return cases;
}

// Central differences with h = 1e-5: truncation h² · third derivative (about 10, scale 16) ≈ 1e-9; rounding 2^-52 · 50 / h ≈
// 1e-9.
TEST(Router, BackwardIsTheDerivativeInDouble) {
  ThreadPool pool(1);
  for (const Backward& b : backward_cases()) {
    Matrix logits(DType::kF64, 6, b.shape.experts), d_weight(DType::kF64, 6, b.shape.top_k);
    logits.fill_normal(11);
    d_weight.fill_normal(12);
    const Routing r = route(b.shape, logits);
    const Matrix d = gradient(router_backward_kernels().back(), b, r.scores, r.expert, d_weight, Stream(pool));
    for (int64_t t = 0; t < 6; ++t) {
      for (int64_t i = 0; i < b.shape.experts; ++i) {
        const double x = logits.at(t, i), h = 1e-5;
        std::vector<int32_t> above_choice, below_choice;
        logits.set(t, i, x + h);
        const double above = loss_of(b, logits, d_weight, &above_choice);
        logits.set(t, i, x - h);
        const double below = loss_of(b, logits, d_weight, &below_choice);
        logits.set(t, i, x);
        ASSERT_EQ(above_choice, below_choice) << "the choice must not change within h";
        ASSERT_NEAR((above - below) / (2 * h), d.at(t, i), 1e-8)
            << "token " << t << " expert " << i << " normalise " << b.shape.normalise << " balance " << b.balance;
      }
    }
  }
}

// Every gradient is a sum of terms; rounding is relative to the sum of their magnitudes, computed here in double.
Matrix magnitude(const Backward& b, const Matrix& s, const std::vector<int32_t>& expert, const Matrix& d_weight) {
  const int64_t n = b.shape.experts, k = b.shape.top_k, length = b.sequence_length;
  Matrix out(DType::kF64, s.rows(), n);
  for (int64_t t = 0; t < s.rows(); ++t) {
    std::vector<double> f(static_cast<size_t>(n)), m(static_cast<size_t>(n));
    const double unit = std::abs(b.balance) * static_cast<double>(n) / static_cast<double>(k * length * length);
    const int64_t begin = t / length * length;
    for (int64_t i = begin * k; i < (begin + length) * k; ++i) f[expert[i]] += unit;
    double sum = 1e-20, dot = 0, top = 1e-20, top_dot = 0;
    for (int64_t i = 0; i < n; ++i) {
      sum += s.at(t, i);
      dot += f[i] * s.at(t, i);
    }
    for (int64_t i = 0; i < n; ++i) m[i] = (f[i] + dot / sum) / sum;
    for (int64_t j = 0; j < k; ++j) {
      top += s.at(t, expert[t * k + j]);
      top_dot += std::abs(d_weight.at(t, j)) * s.at(t, expert[t * k + j]);
    }
    for (int64_t j = 0; j < k; ++j) {
      const double w = std::abs(d_weight.at(t, j));
      m[expert[t * k + j]] += b.shape.scale * (b.shape.normalise ? (w + top_dot / top) / top : w);
    }
    double all = 0;
    for (int64_t i = 0; i < n; ++i) all += m[i] * s.at(t, i);
    for (int64_t i = 0; i < n; ++i)
      out.set(t, i, s.at(t, i) * (b.shape.score == ScoreFunction::kSoftmax ? m[i] + all : m[i] * (1 - s.at(t, i))));
  }
  return out;
}

// A term passes through two sums (experts / 8 + 4 or top_k additions in a lane) and about ten other operations, on either side.
std::string compare_gradients(const Backward& b, const Matrix& magnitudes, const Matrix& expected, const Matrix& actual) {
  const double operations = 2 * (static_cast<double>(b.shape.experts) / 8 + 4 + static_cast<double>(b.shape.top_k) + 10);
  return difference(expected, actual,
                    [&](int64_t r, int64_t c) { return operations * kHalfUlp * magnitudes.at(r, c) + 0x1p-126; });
}

class RouterBackward : public ::testing::TestWithParam<KernelRow<RouterBackwardArgs>> {};
INSTANTIATE_TEST_SUITE_P(Rows, RouterBackward, ::testing::ValuesIn(router_backward_kernels()), testing::RowName());

TEST_P(RouterBackward, AgreesWithReference) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(2);
  const Stream stream(pool);
  for (const RouterShape& shape : shapes()) {
    for (double balance : {0.0, 0.3}) {
      const Backward b{shape, 4, balance};
      Matrix logits(DType::kF32, 8, shape.experts), d_weight(DType::kF32, 8, shape.top_k);
      logits.fill_normal(static_cast<uint64_t>(shape.experts), 2);
      d_weight.fill_normal(14);
      const Routing r = route(router_forward_kernels().back(), shape, logits, nullptr, stream);
      const Matrix expected = gradient(router_backward_kernels().back(), b, r.scores, r.expert, d_weight, stream);
      const Matrix actual = gradient(GetParam(), b, r.scores, r.expert, d_weight, stream);
      ASSERT_EQ(compare_gradients(b, magnitude(b, r.scores, r.expert, d_weight), expected, actual), "")
          << shape.experts << " experts";
    }
  }
}

TEST_P(RouterBackward, SameBitsForEveryNumberOfThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  const Backward b{v3_shape(64, 6, 8, 4), 100, 0.1};
  Matrix logits(DType::kF32, 700, 64), d_weight(DType::kF32, 700, 6);
  logits.fill_normal(5);
  d_weight.fill_normal(6);
  const Routing r = route(b.shape, logits);
  ThreadPool one(1);
  const Matrix expected = gradient(GetParam(), b, r.scores, r.expert, d_weight, Stream(one));
  for (int threads : {2, 3}) {
    ThreadPool pool(threads);
    EXPECT_EQ(difference(expected, gradient(GetParam(), b, r.scores, r.expert, d_weight, Stream(pool))), "");
  }
}

// Scores that all underflow to zero: gradients vanish, nothing is NaN.
TEST_P(RouterBackward, ZeroScoresGiveZeros) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(1);
  const Backward b{v3_shape(20, 3, 1, 1), 2, 0.1};
  Matrix scores(DType::kF32, 2, 20), d_weight(DType::kF32, 2, 3);
  scores.fill([](int64_t, int64_t) { return 0; });
  d_weight.fill_normal(6);
  const Matrix d = gradient(GetParam(), b, scores, {0, 1, 2, 4, 5, 6}, d_weight, Stream(pool));
  for (int64_t t = 0; t < 2; ++t)
    for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(d.at(t, i), 0.0);
}

TEST(Router, PlantedDefectsAreSeen) {
  ThreadPool pool(1);
  const Stream stream(pool);
  const Backward b{v3_shape(40, 6, 1, 1), 4, 0.3};
  Matrix logits(DType::kF32, 8, 40), d_weight(DType::kF32, 8, 6);
  logits.fill_normal(1);
  d_weight.fill_normal(2);
  const Routing good = route(b.shape, logits);
  Routing tail(good);
  for (int64_t c = 32; c < 40; ++c) tail.scores.set(3, c, 0);
  EXPECT_NE(compare(b.shape, good, tail), "");
  Routing wrong(good);
  std::swap(wrong.expert[6], wrong.expert[12]);
  EXPECT_NE(compare(b.shape, good, wrong), "");
  const auto& reference = router_backward_kernels().back();
  const Matrix expected = gradient(reference, b, good.scores, good.expert, d_weight, stream);
  const Matrix magnitudes = magnitude(b, good.scores, good.expert, d_weight);
  const Backward forgotten{b.shape, 4, 0.0};
  EXPECT_NE(
      compare_gradients(b, magnitudes, expected, gradient(reference, forgotten, good.scores, good.expert, d_weight, stream)),
      "");
  Matrix dropped(expected);
  for (int64_t c = 32; c < 40; ++c) dropped.set(7, c, 0);
  EXPECT_NE(compare_gradients(b, magnitudes, expected, dropped), "");
}

TEST(RouterStatistics, ByHand) {
  ThreadPool pool(1);
  const RouterShape shape = v3_shape(2, 1, 1, 1);
  Matrix scores(DType::kF32, 4, 2);
  const double s[4][2] = {{0.75, 0.25}, {0.5, 0.5}, {0.25, 0.25}, {0.1875, 0.5625}};
  scores.fill([&](int64_t r, int64_t c) { return s[r][c]; });
  const int32_t expert[] = {0, 0, 0, 1};
  int64_t load[] = {10, 20};
  // Sequence 0: f = 2/(1·2)·(2, 0) = (2, 0), P = (0.625, 0.375). Sequence 1: f = (1, 1), P sums to 1.
  const auto stats = router_statistics(shape, scores, expert, 2, 0.5, load, Stream(pool));
  EXPECT_NEAR(stats.balance_loss, 0.5 * (1.25 + 1.0), 1e-15);
  EXPECT_EQ(load[0], 13);
  EXPECT_EQ(load[1], 21);
}

TEST(RouterStatistics, SameBitsForEveryNumberOfThreads) {
  const RouterShape shape = v3_shape(64, 6, 8, 4);
  Matrix logits(DType::kF32, 6000, 64);
  logits.fill_normal(5);
  const Routing r = route(shape, logits);
  const auto loss = [&](int threads) {
    ThreadPool pool(threads);
    std::vector<int64_t> load(64);
    return router_statistics(shape, r.scores, r.expert.data(), 50, 0.1, load.data(), Stream(pool)).balance_loss;
  };
  const double expected = loss(1);
  EXPECT_GT(expected, 0.0);
  EXPECT_EQ(loss(2), expected);
  EXPECT_EQ(loss(3), expected);
}

TEST(Router, SelectsTheBestRowThatAccepts) {
  Matrix f32(DType::kF32, 1, 4), f64(DType::kF64, 1, 4);
  const auto forward = [](const Matrix& x, Isa isa) {
    return select_row(router_forward_kernels(), RouterForwardArgs{v3_shape(4, 2, 1, 1), x, {}, x, nullptr, x}, isa).isa;
  };
  const auto backward = [](const Matrix& x, Isa isa) {
    return select_row(router_backward_kernels(), RouterBackwardArgs{v3_shape(4, 2, 1, 1), x, nullptr, x, 1, 0, x}, isa).isa;
  };
  for (Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    EXPECT_EQ(forward(f32, isa), isa);
    EXPECT_EQ(backward(f32, isa), isa);
  }
  EXPECT_EQ(forward(f32, Isa::kAmx), Isa::kAvx512);
  EXPECT_EQ(forward(f64, Isa::kAmx), Isa::kReference);
  EXPECT_EQ(backward(f64, Isa::kAmx), Isa::kReference);
}

TEST(RouterDeathTest, WrongArguments) {
  ThreadPool pool(1);
  Matrix x(DType::kF32, 3, 4), w(DType::kF32, 3, 2);
  x.fill_normal(1);
  std::vector<int32_t> expert(6);
  EXPECT_DEATH(router_forward({v3_shape(4, 3, 4, 2), x, {}, x, expert.data(), w}, Stream(pool)),
               "top 3 of 4 experts from 2 of 4");
  EXPECT_DEATH(router_backward({v3_shape(4, 2, 1, 1), x, expert.data(), w, 2, 0.1, x}, Stream(pool)), "whole sequences of 2");
}

}  // namespace
}  // namespace rorqual
