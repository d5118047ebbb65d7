#include "kernels/router/sm90a.h"

#include "kernels/common/sm90a_for_tests.h"
#include "kernels/router/selection.h"

namespace rorqual {
namespace {

using hopper::DeviceBuffer;
using testing::difference;
using testing::Matrix;
using testing::Mirrored;
using RouterSm90a = hopper::HopperTest;

constexpr double kHalfUlp = 0x1p-24;

RouterShape sigmoid_shape(int64_t experts, int64_t top_k, int64_t groups = 1, int64_t top_groups = 1) {
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
std::vector<RouterShape> shapes() {
  std::vector<RouterShape> all{sigmoid_shape(256, 8, 8, 4),  softmax_shape(160, 6, 8, 3), softmax_shape(64, 6),
                               sigmoid_shape(512, 9, 32, 3), sigmoid_shape(256, 8, 4, 2), sigmoid_shape(480, 7, 3, 1),
                               sigmoid_shape(16, 4, 4, 2),   sigmoid_shape(384, 8),       sigmoid_shape(72, 6, 6, 2),
                               softmax_shape(512, 40),       sigmoid_shape(20, 3, 20, 3)};
  for (int64_t n = 1; n <= 40; n += 3) {
    all.push_back(sigmoid_shape(n, 1 + n / 3));
    all.push_back(softmax_shape(n, n));
    all.back().normalise = n % 2 == 0;
  }
  return all;
}

// A forward on the device.
struct Routing {
  Matrix scores, weight;
  std::vector<int32_t> expert;

  Routing(const RouterShape& shape, const Matrix& logits, const Matrix* bias)
      : scores(DType::kF32, logits.rows(), shape.experts), weight(DType::kF32, logits.rows(), shape.top_k, 2) {
    const Mirrored x(logits), s(scores), w(weight);
    const std::optional<Mirrored> b = bias ? std::optional<Mirrored>(*bias) : std::nullopt;
    const DeviceBuffer choice(static_cast<size_t>(logits.rows() * shape.top_k + 1) * sizeof(int32_t));
    const RouterForwardArgs args{shape, x.device(), b ? b->device() : Tensor{}, s.device(), choice.as<int32_t>(), w.device()};
    EXPECT_EQ(refuse_router_forward_sm90a(args), "");
    router_forward_sm90a(args, Stream::on_device());
    s.fetch(scores);
    w.fetch(weight);
    expert = hopper::to_host<int32_t>(choice);
    EXPECT_EQ(expert.back(), -1) << "written beyond the experts";
    expert.pop_back();
    EXPECT_EQ(scores.written_outside() + weight.written_outside(), "");
  }
};

// Choices and weights are those of the scalar truth for the scores that the device found.
void expect_chosen_as_truth(const RouterShape& shape, const Routing& r, const Matrix* bias) {
  router::ExpertChooser<float> chooser(shape);
  std::vector<int32_t> expert(static_cast<size_t>(shape.top_k));
  std::vector<float> weight(expert.size());
  for (int64_t t = 0; t < r.scores.rows(); ++t) {
    const float* scores = r.scores.tensor().row<float>(t);
    chooser.choose(scores, bias ? bias->tensor().ptr<float>() : nullptr, expert.data());
    router::routing_weights(shape, scores, expert.data(), weight.data());
    for (int64_t k = 0; k < shape.top_k; ++k) {
      ASSERT_EQ(r.expert[static_cast<size_t>(t * shape.top_k + k)], expert[static_cast<size_t>(k)])
          << "choice " << k << " of token " << t << ", " << shape.experts << " experts in " << shape.groups << " groups";
      const double found = r.weight.at(t, k), right = static_cast<double>(weight[static_cast<size_t>(k)]);
      ASSERT_TRUE(found == right || (std::isnan(found) && std::isnan(right))) << found << ", not " << right;
    }
  }
}

void expect_scores(const RouterShape& shape, const Matrix& logits, const Matrix& scores) {
  Matrix expected(DType::kF64, logits.rows(), shape.experts);
  for (int64_t t = 0; t < logits.rows(); ++t) {
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < shape.experts; ++i) max = std::max(max, logits.at(t, i));
    for (int64_t i = 0; i < shape.experts; ++i) sum += std::exp(logits.at(t, i) - max);
    for (int64_t i = 0; i < shape.experts; ++i)
      expected.set(t, i,
                   shape.score == ScoreFunction::kSigmoid ? 1 / (1 + std::exp(-logits.at(t, i)))
                                                          : std::exp(logits.at(t, i) - max) / sum);
  }
  // The exponential (2 ulp, and the rounding of its argument up to 16), the sum of 16 values in a lane and the tree, the
  // quotient.
  const double relative = (4 + 16 + 16 + 5 + 3) * kHalfUlp;
  EXPECT_EQ(difference(expected, scores, [&](int64_t t, int64_t i) { return relative * expected.at(t, i) + 0x1p-126; }), "");
}

TEST_F(RouterSm90a, ChoosesAsTheScalarTruth) {
  for (const RouterShape& shape : shapes())
    for (const int64_t tokens : {1, 23}) {
      SCOPED_TRACE(fmt::format("{} experts, top {}", shape.experts, shape.top_k));
      Matrix logits(DType::kF32, tokens, shape.experts), bias(DType::kF32, 1, shape.experts);
      logits.fill_normal(static_cast<uint64_t>(shape.experts), 2);
      bias.fill_normal(2, 0.1);
      const Matrix* used = shape.score == ScoreFunction::kSigmoid && tokens > 1 ? &bias : nullptr;
      const Routing r(shape, logits, used);
      expect_scores(shape, logits, r.scores);
      expect_chosen_as_truth(shape, r, used);
    }
}

TEST_F(RouterSm90a, LowestIndicesWinTies) {
  for (const RouterShape& shape :
       {sigmoid_shape(256, 8, 8, 4), softmax_shape(160, 6, 8, 3), sigmoid_shape(96, 7), sigmoid_shape(256, 5, 2, 1)}) {
    Matrix logits(DType::kF32, 9, shape.experts), bias(DType::kF32, 1, shape.experts);
    // Few different values: ties within lanes, across lanes, across groups; row 0 is all equal.
    logits.fill([](int64_t t, int64_t i) {
      return t == 0 ? 0.5 : 0.25 * static_cast<double>(random_below({.seed = 3}, static_cast<uint64_t>(t * 1000 + i), 1 + t));
    });
    bias.fill([](int64_t, int64_t i) { return i % 3 == 0 ? -0.0 : 0.0; });
    const Routing r(shape, logits, &bias);
    expect_chosen_as_truth(shape, r, &bias);
    for (int64_t k = 0; k < shape.top_k; ++k) EXPECT_EQ(r.expert[static_cast<size_t>(k)], k);
  }
}

// The two largest of a group 32 apart: in the registers of one lane.
TEST_F(RouterSm90a, GroupsAddBothOfTheirLargest) {
  const RouterShape shape = sigmoid_shape(256, 4, 4, 1);
  Matrix logits(DType::kF32, 4, 256);
  logits.fill([](int64_t t, int64_t i) {
    const int64_t group = i / 64, place = i % 64;
    if (group == t && place % 32 == 5) return 1.0;                          // the best two
    if (group != t && place == 7) return 1.5 + static_cast<double>(group);  // the best one, and nothing beside it
    return -9.0;
  });
  const Routing r(shape, logits, nullptr);
  expect_chosen_as_truth(shape, r, nullptr);
  for (int64_t t = 0; t < 4; ++t) EXPECT_EQ(r.expert[static_cast<size_t>(4 * t)] / 64, t);
}

TEST_F(RouterSm90a, SpecialScoresAreRankedAsInTheTruth) {
  for (const RouterShape& shape : {sigmoid_shape(64, 6, 8, 3), softmax_shape(64, 6), sigmoid_shape(32, 32)}) {
    Matrix logits(DType::kF32, 4, shape.experts), bias(DType::kF32, 1, shape.experts);
    logits.fill_normal(7, 3);
    bias.fill_normal(8, 1);
    for (int64_t i = 0; i < shape.experts; ++i) {
      if (i % 3 != 0) logits.set(1, i, -1000);  // scores that underflow
      if (i % 5 == 0) logits.set(2, i, std::nan(""));
      if (i % 7 == 0) bias.set(0, i, static_cast<double>(-INFINITY));
      if (i % 11 == 0) bias.set(0, i, std::nan(""));
    }
    expect_chosen_as_truth(shape, Routing(shape, logits, &bias), &bias);
    expect_chosen_as_truth(shape, Routing(shape, logits, nullptr), nullptr);
  }
}

// ---- Statistics and gradients

struct Chosen {
  Matrix scores, d_weight;
  std::vector<int32_t> expert;
  Chosen(const RouterShape& shape, int64_t tokens)
      : scores(DType::kF32, tokens, shape.experts), d_weight(DType::kF32, tokens, shape.top_k) {
    Matrix logits(DType::kF32, tokens, shape.experts), weight(DType::kF32, tokens, shape.top_k);
    logits.fill_normal(static_cast<uint64_t>(17 + shape.experts), 2);
    d_weight.fill_normal(9);
    expert.assign(static_cast<size_t>(tokens * shape.top_k), 0);
    router_forward_kernels().back().run({shape, logits, {}, scores, expert.data(), weight}, testing::one_thread());
  }
};

struct Statistics {
  std::vector<int32_t> count;
  std::vector<int64_t> load;
  double loss;
};
Statistics statistics_on_device(const RouterShape& shape, const Chosen& c, int64_t length, double coefficient,
                                const std::vector<int64_t>& load) {
  const Mirrored scores(c.scores);
  const int64_t tokens = c.scores.rows();
  const auto expert = hopper::to_device(c.expert), loads = hopper::to_device(load);
  const DeviceBuffer count(static_cast<size_t>(tokens / length * shape.experts) * sizeof(int32_t)), loss(sizeof(double)),
      scratch(static_cast<size_t>(router_statistics_scratch_sm90a(tokens, length)) * sizeof(double));
  const RouterStatisticsSm90aArgs args{.shape = shape,
                                       .scores = scores.device(),
                                       .expert = expert.as<int32_t>(),
                                       .sequence_length = length,
                                       .coefficient = coefficient,
                                       .count = count.as<int32_t>(),
                                       .load = loads.as<int64_t>(),
                                       .loss = loss.as<double>(),
                                       .scratch = scratch.as<double>()};
  EXPECT_EQ(refuse_router_statistics_sm90a(args), "");
  router_statistics_sm90a(args, Stream::on_device());
  return {hopper::to_host<int32_t>(count), hopper::to_host<int64_t>(loads), hopper::to_host<double>(loss)[0]};
}

TEST_F(RouterSm90a, CountsAndBalanceLossAgree) {
  struct Case {
    RouterShape shape;
    int64_t sequences, length;
  };
  for (const Case& c : {Case{sigmoid_shape(256, 8, 8, 4), 2, 70}, Case{softmax_shape(40, 6), 3, 5},
                        Case{sigmoid_shape(512, 4), 1, 130}, Case{sigmoid_shape(3, 1), 1, 1}}) {
    const Chosen chosen(c.shape, c.sequences * c.length);
    std::vector<int64_t> before(static_cast<size_t>(c.shape.experts));
    for (size_t i = 0; i < before.size(); ++i) before[i] = static_cast<int64_t>(1000 + i);
    std::vector<int64_t> load = before;
    const RouterStatistics expected =
        router_statistics(c.shape, chosen.scores, chosen.expert.data(), c.length, 0.37, load.data(), testing::one_thread());
    const Statistics found = statistics_on_device(c.shape, chosen, c.length, 0.37, before);
    EXPECT_EQ(found.load, load);
    EXPECT_NEAR(found.loss, expected.balance_loss, 1e-12 * expected.balance_loss);
    std::vector<int32_t> count(found.count.size());
    for (size_t i = 0; i < chosen.expert.size(); ++i)
      ++count[static_cast<size_t>(static_cast<int64_t>(i) / c.shape.top_k / c.length * c.shape.experts + chosen.expert[i])];
    EXPECT_EQ(found.count, count);
    EXPECT_EQ(statistics_on_device(c.shape, chosen, c.length, 0.37, before).loss, found.loss);
  }
}

void expect_gradients(const RouterShape& shape, int64_t sequences, int64_t length, double coefficient) {
  const Chosen chosen(shape, sequences * length);
  Matrix expected(DType::kF32, sequences * length, shape.experts), found(expected);
  RouterBackwardArgs args{.shape = shape,
                          .scores = chosen.scores,
                          .expert = chosen.expert.data(),
                          .d_weight = chosen.d_weight,
                          .sequence_length = length,
                          .balance_coefficient = coefficient,
                          .d_logits = expected};
  router_backward_kernels().back().run(args, testing::one_thread());
  const auto count =
      statistics_on_device(shape, chosen, length, 0, std::vector<int64_t>(static_cast<size_t>(shape.experts))).count;
  const Mirrored scores(chosen.scores), d_weight(chosen.d_weight), d_logits(found);
  const auto expert = hopper::to_device(chosen.expert), counts = hopper::to_device(count);
  args.scores = scores.device();
  args.expert = expert.as<int32_t>();
  args.d_weight = d_weight.device();
  args.d_logits = d_logits.device();
  args.count = counts.as<int32_t>();
  ASSERT_EQ(refuse_router_backward_sm90a(args), "");
  router_backward_sm90a(args, Stream::on_device());
  d_logits.fetch(found);
  EXPECT_EQ(found.written_outside(), "");
  // Without sums over all experts every operation is the truth's. With them, sums in double differ by far less than half an
  // ulp of a float, but may round the mean to its neighbour: of the size of the largest gradient.
  const bool exact = coefficient == 0 && shape.score == ScoreFunction::kSigmoid;
  const double sequence = static_cast<double>(length), most = coefficient * static_cast<double>(shape.experts) / sequence;
  EXPECT_EQ(difference(expected, found,
                       [&](int64_t t, int64_t i) {
                         if (exact) return 0.0;
                         double largest = most;
                         for (int64_t k = 0; k < shape.top_k; ++k)
                           largest += shape.scale * std::abs(chosen.d_weight.at(t, k)) * static_cast<double>(shape.top_k);
                         return 16 * kHalfUlp * largest * chosen.scores.at(t, i) + 1e-30;
                       }),
            "")
      << shape.experts << " experts, coefficient " << coefficient;
}

TEST_F(RouterSm90a, GradientsAgree) {
  for (RouterShape shape : {sigmoid_shape(256, 8, 8, 4), softmax_shape(160, 6, 8, 3), sigmoid_shape(512, 40),
                            sigmoid_shape(5, 2), softmax_shape(33, 33)})
    for (const bool normalise : {true, false})
      for (const double coefficient : {0.0, 1e-2}) {
        shape.normalise = normalise;
        expect_gradients(shape, 2, 9, coefficient);
        expect_gradients(shape, 1, 1, coefficient);
      }
}

TEST_F(RouterSm90a, TakesNoTokens) {
  const RouterShape shape = sigmoid_shape(8, 2);
  const Tensor none(nullptr, DType::kF32, 0, 8);
  router_forward_sm90a({shape, none, {}, none, nullptr, none}, Stream::on_device());
  RouterBackwardArgs backward;
  backward.shape = shape;
  backward.scores = none;
  router_backward_sm90a(backward, Stream::on_device());
  const std::vector<double> before{7};
  const auto loss = hopper::to_device(before);
  router_statistics_sm90a({.shape = shape, .scores = none, .sequence_length = 4, .loss = loss.as<double>()},
                          Stream::on_device());
  EXPECT_EQ(hopper::to_host<double>(loss)[0], 0);
}

TEST_F(RouterSm90a, RefusesWhatItCannotDo) {
  const auto refuse = [](const RouterShape& shape, DType dtype) {
    RouterForwardArgs args;
    args.shape = shape;
    args.logits = Tensor(nullptr, dtype, 1, shape.experts);
    return refuse_router_forward_sm90a(args);
  };
  EXPECT_EQ(refuse(sigmoid_shape(512, 8), DType::kF32), "");
  EXPECT_NE(refuse(sigmoid_shape(512, 8), DType::kF64), "");
  EXPECT_NE(refuse(sigmoid_shape(513, 8), DType::kF32), "");
  EXPECT_NE(refuse(sigmoid_shape(66, 8, 33, 8), DType::kF32), "");
  RouterBackwardArgs backward;
  backward.shape = sigmoid_shape(8, 2);
  backward.scores = Tensor(nullptr, DType::kF32, 1, 8);
  EXPECT_EQ(refuse_router_backward_sm90a(backward), "");
  backward.balance_coefficient = 1;
  EXPECT_NE(refuse_router_backward_sm90a(backward), "");
}

}  // namespace
}  // namespace rorqual
