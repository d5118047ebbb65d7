#include "sim/chunk.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "plan/pipeline_timing.h"
#include "sim/pipeline_events.h"

namespace rorqual {
namespace {

BlockTimes block_of(PhaseSeconds attention, PhaseSeconds mlp, ExchangeSeconds exchange) {
  return {.name = "block", .members = {{attention, mlp, attention, mlp}}, .routed = true, .exchange = exchange};
}

using List = std::vector<const BlockTimes*>;

// attention 2 forward, 4 + 1 backward; experts 3, 3 + 3; dispatch 1, combine 2.
TEST(Chunk, TakesWhatHandsCount) {
  const BlockTimes b = block_of({2, 4, 1}, {3, 3, 3}, {1, 2});
  const List list = {&b};
  EXPECT_DOUBLE_EQ(run_chunk(list, {}, BackwardParts::kBoth, false).seconds, 2 + 1 + 3 + 2);
  // 0-1 rows, 1-4 experts' input gradient, 4-7 weight gradient beside rows 4-6, 7-11 attention, 11-12 its weight gradient.
  EXPECT_DOUBLE_EQ(run_chunk({}, list, BackwardParts::kBoth, false).seconds, 12);
  EXPECT_DOUBLE_EQ(run_chunk({}, list, BackwardParts::kInput, false).seconds, 1 + 3 + 2 + 4);
  EXPECT_DOUBLE_EQ(run_chunk({}, list, BackwardParts::kWeight, false).seconds, 3 + 1);
  // Attention 0-2, backward's experts 2-8, forward's 8-11, backward's attention 11-16: all rows travel beside.
  const ChunkRun both = run_chunk(list, list, BackwardParts::kBoth, true);
  EXPECT_DOUBLE_EQ(both.seconds, 16);
  EXPECT_DOUBLE_EQ(both.compute, 16);
  EXPECT_DOUBLE_EQ(both.communication, 6);
  EXPECT_EQ(both.spans.size(), 10U);
}

TEST(Chunk, WaitsForTheSlowestMember) {
  BlockTimes b = block_of({2, 4, 1}, {3, 3, 3}, {1, 2});
  b.members.push_back(b.members.front());
  b.members[1].mlp.forward = 10;
  const List list = {&b};
  const ChunkRun run = run_chunk(list, {}, BackwardParts::kBoth, false);
  EXPECT_DOUBLE_EQ(run.seconds, 2 + 1 + 10 + 2);
  EXPECT_DOUBLE_EQ(run.busy, 12);
  EXPECT_DOUBLE_EQ(run.compute, (5 + 12) / 2.0);
}

TEST(Chunk, ComputesMoreSlowlyBesideRows) {
  BlockTimes b = block_of({2, 4, 1}, {3, 3, 3}, {1, 2});
  b.members[0].mlp_beside.weight_gradient = 6;
  b.members[0].attention_beside.forward = 5;
  const List list = {&b};
  EXPECT_DOUBLE_EQ(run_chunk(list, {}, BackwardParts::kBoth, false).seconds, 8) << "nothing is beside";
  EXPECT_DOUBLE_EQ(run_chunk({}, list, BackwardParts::kWeight, false).seconds, 4);
  EXPECT_DOUBLE_EQ(run_chunk({}, list, BackwardParts::kBoth, false).seconds, 15);
  EXPECT_DOUBLE_EQ(run_chunk(list, list, BackwardParts::kBoth, false).seconds, 16 + 3 + 3);
}

TEST(Chunk, TwoForwardsTakeTurns) {
  // Attention 2, 2; experts 3, 3; rows 2-3 and 4-5, then 7-9 and 10-12.
  const BlockTimes b = block_of({2, 4, 1}, {3, 3, 3}, {1, 2});
  const List list = {&b};
  EXPECT_DOUBLE_EQ(run_two_forward(list).seconds, 12);
}

double random_in(int64_t& at, double most) {
  return most * random_uniform({.seed = 7}, static_cast<uint64_t>(at++));
}

TEST(Chunk, OverlapNeverBeatsTheLargerOfComputeAndCommunication) {
  int64_t at = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<BlockTimes> blocks;
    const double rows = round % 3 == 0 ? 0 : random_in(at, 3);
    for (int i = 0; i < 1 + round % 9; ++i) {
      blocks.push_back(block_of({random_in(at, 2), random_in(at, 2), random_in(at, 2)},
                                {random_in(at, 2), random_in(at, 2), random_in(at, 2)}, {rows, random_in(at, rows)}));
    }
    const size_t cut = blocks.size() / 3;
    List forward, backward;
    double compute = 0, communication = 0;
    for (size_t i = 0; i < blocks.size(); ++i) {
      const BlockSeconds& s = blocks[i].members[0];
      (i < cut ? forward : backward).push_back(&blocks[i]);
      compute += i < cut ? s.attention.forward + s.mlp.forward : s.attention.backward() + s.mlp.backward();
      communication += blocks[i].exchange.dispatch + blocks[i].exchange.combine;
    }
    const ChunkRun run = run_chunk(forward, backward, BackwardParts::kBoth, false);
    EXPECT_GE(run.seconds, std::max(compute, communication) * (1 - 1e-12)) << "round " << round;
    EXPECT_LE(run.seconds, (compute + communication) * (1 + 1e-12)) << "one of the streams always works, round " << round;
    if (communication == 0) {
      EXPECT_NEAR(run.seconds, compute, 1e-12 * compute);
    }
  }
}

PipelineEvents run_uniform(const PipelineSchedule& schedule, double f, double b, double w, MessageSeconds message) {
  return run_pipeline_events(
      schedule,
      [&](int, const PipelineAction& a) {
        switch (a.kind) {
          case PipelineActionKind::kForward:
            return f;
          case PipelineActionKind::kBackward:
            return b;
          case PipelineActionKind::kInputGradient:
            return b - w;
          case PipelineActionKind::kWeightGradient:
            return w;
          default:
            return f + b;
        }
      },
      [&](int, int) { return message; });
}

// The published bubbles (spec 3.2), which are exact for F = W = B / 2.
TEST(PipelineEvents, IdlesAsPublishedWhereMessagesTakeNoTime) {
  const auto idle = [](PipelineKind kind, int ranks, int micro_batches) {
    const PipelineEvents run =
        run_uniform(make_pipeline_schedule({.kind = kind, .ranks = ranks, .micro_batches = micro_batches}), 1, 2, 1, {});
    double most = 0;
    for (const double busy : run.busy) most = std::max(most, run.makespan - busy);
    return most;
  };
  for (const int ranks : {2, 4, 8, 16}) {
    EXPECT_DOUBLE_EQ(idle(PipelineKind::k1F1B, ranks, 3 * ranks), (ranks - 1) * 3.0);
    EXPECT_DOUBLE_EQ(idle(PipelineKind::kZB1P, ranks, 3 * ranks), (ranks - 1) * 1.0);
    EXPECT_DOUBLE_EQ(idle(PipelineKind::kDualPipe, ranks, 4 * ranks), (ranks / 2 - 1) * 2.0);
    EXPECT_DOUBLE_EQ(idle(PipelineKind::kDualPipeV, ranks, 4 * ranks), (ranks - 1) * 2.0);
  }
}

// Event by event, and by the clock of the plan: the same, whatever the costs.
TEST(PipelineEvents, AgreesWithThePlansClock) {
  int64_t at = 1000;
  for (const PipelineKind kind :
       {PipelineKind::k1F1B, PipelineKind::kZB1P, PipelineKind::kDualPipe, PipelineKind::kDualPipeV}) {
    for (const int ranks : {2, 4, 6, 10}) {
      const double f = 0.5 + random_in(at, 2), w = 0.2 + random_in(at, 2), b = w + 0.1 + random_in(at, 3);
      const PipelineSchedule schedule = make_pipeline_schedule({.kind = kind, .ranks = ranks, .micro_batches = 2 * ranks + 6});
      const PipelineRun expected =
          run_pipeline(schedule, {.forward = f, .backward = b, .weight = w, .forward_backward = f + b});
      const PipelineEvents run = run_uniform(schedule, f, b, w, {});
      EXPECT_NEAR(run.makespan, expected.makespan, 1e-9) << pipeline_kind_name(kind) << " on " << ranks;
      for (size_t r = 0; r < run.spans.size(); ++r) {
        ASSERT_EQ(run.spans[r].size(), expected.spans[r].size());
        for (size_t i = 0; i < run.spans[r].size(); ++i) EXPECT_NEAR(run.spans[r][i].begin, expected.spans[r][i].begin, 1e-9);
      }
    }
  }
}

TEST(PipelineEvents, MessagesTakeTheirTime) {
  const PipelineSchedule schedule = make_pipeline_schedule({.kind = PipelineKind::k1F1B, .ranks = 2, .micro_batches = 1});
  // Forward 0-1, message to 4.5, forward and backward to 7.5, message to 11, backward to 13.
  EXPECT_DOUBLE_EQ(run_uniform(schedule, 1, 2, 1, {.link = 3, .latency = 0.5}).makespan, 13);
}

TEST(PipelineEvents, MessagesOfOneRankShareItsLink) {
  using Kind = PipelineActionKind;
  PipelineSchedule schedule{.shape = {.kind = PipelineKind::k1F1B, .ranks = 3, .micro_batches = 1}, .ranks = {}};
  const auto action = [](Kind kind, int peer) {
    return PipelineAction{.kind = kind, .phase = 1, .chunk = {}, .backward = {}, .peer = peer};
  };
  schedule.ranks.push_back({action(Kind::kSendActivation, 1), action(Kind::kSendActivation, 2), action(Kind::kCommit, -1)});
  for (int rank = 1; rank < 3; ++rank)
    schedule.ranks.push_back({action(Kind::kReceiveActivation, 0), action(Kind::kCommit, -1), action(Kind::kForward, -1)});
  const PipelineEvents run = run_uniform(schedule, 1, 2, 1, {.link = 2, .latency = 0});
  EXPECT_DOUBLE_EQ(run.spans[1][0].begin, 2);
  EXPECT_DOUBLE_EQ(run.spans[2][0].begin, 4);
}

}  // namespace
}  // namespace rorqual
