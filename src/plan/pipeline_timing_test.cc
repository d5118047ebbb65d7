#include "plan/pipeline_timing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "plan/pipeline_check.h"
#include "plan/pipeline_test_util.h"

namespace rorqual {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using Json = nlohmann::json;
using enum PipelineKind;

constexpr PipelineKind kKinds[] = {k1F1B, kZB1P, kDualPipe, kDualPipeV};
// Sums of a few hundred costs below 10: 1e-9 is above 1000 roundings of 2^-53 times a makespan below 10^4.
constexpr double kRounding = 1e-9;

double most_idle(const PipelineRun& run) {
  return *std::max_element(run.idle.begin(), run.idle.end());
}

TEST(PipelineTiming, IsTheGoldenOne) {
  const std::pair<const char*, PipelineKind> goldens[] = {
      {"dualpipe_pp2_c4", kDualPipe}, {"dualpipe_pp4_c20", kDualPipe}, {"dualpipev_pp4_c10", kDualPipeV}};
  for (const auto& [file, kind] : goldens) {
    SCOPED_TRACE(file);
    const Json g = Json::parse(read_file(std::string("tests/golden/plan/") + file + ".json"));
    const PipelineSchedule schedule =
        make_pipeline_schedule({.kind = kind, .ranks = g["pp_ranks"], .micro_batches = g["num_chunks"]});
    const Json& model = g["timing_model"];
    const PipelineCosts costs{model["F"], model["B_full"], model["W"], model["F_and_B"]};
    const PipelineRun run = run_pipeline(schedule, costs);
    EXPECT_EQ(run_pipeline(schedule, costs, 0).idle, run.idle) << "no rank waits for another to receive";
    EXPECT_EQ(run.makespan, g["makespan"].get<double>());
    EXPECT_EQ(run.idle, g["idle_per_rank"].get<std::vector<double>>());
    EXPECT_EQ(run.messages, g["p2p_messages_per_rank"].get<std::vector<int64_t>>());
    EXPECT_EQ(run.batches, g["p2p_batches_per_rank"].get<std::vector<int64_t>>());
    EXPECT_THAT(run.stopped_at, Each(-1));
    const PipelineCheck check = check_pipeline(schedule);
    ASSERT_FALSE(check.fault) << check.fault->why;
    for (size_t r = 0; r < run.spans.size(); ++r) {
      Json timeline = Json::array();
      for (const PipelineSpan& s : run.spans[r])
        timeline.push_back({s.begin, s.end, pipeline_action_name(schedule.ranks[r][static_cast<size_t>(s.action)])});
      EXPECT_EQ(timeline, g["timeline"][r]) << "rank " << r;
      EXPECT_EQ(check.peaks[r].activations, g["peak_live_activations"][r].get<int>());
      EXPECT_EQ(check.peaks[r].weight_gradients, g["peak_pending_W"][r].get<int>());
    }
  }
}

// Peaks that depend on the sizes alone; the rank with `rank` ranks before it.
void expect_peaks(const PipelineShape& shape, int rank, const PipelinePeaks& peaks) {
  const int p = shape.ranks, c = shape.micro_batches, before = rank, behind = p - 1 - rank;
  int activations = std::min(c, behind + 1), weights = 0, held = activations;
  if (shape.kind == kZB1P) {
    weights = std::min(c, before + 1);
    held = std::min(c, p);
  } else if (shape.kind == kDualPipe) {
    activations = p + 1, weights = std::min(before, behind) + 1, held = p + 1;
  } else if (shape.kind == kDualPipeV) {
    activations = 2 * p + 1, weights = before + 1, held = 2 * p + 1;
  }
  EXPECT_EQ(peaks.activations, activations) << "rank " << rank;
  EXPECT_EQ(peaks.weight_gradients, weights) << "rank " << rank;
  EXPECT_EQ(peaks.held, held) << "rank " << rank;
  EXPECT_LE(peaks.messages, 6) << "rank " << rank << ": what waits in message buffers does not grow with the sizes";
}

// Every size from 2 to 32 ranks; the numbers of micro-batches are the least, those next to it, and larger ones.
TEST(PipelineTiming, EverySizeIsRightAndWithinTheFormulas) {
  for (const PipelineKind kind : kKinds) {
    for (int ranks = 1; ranks <= 32; ++ranks) {
      const bool dual = kind == kDualPipe;
      if (dual && ranks % 2 != 0) continue;
      const bool two = kind == kDualPipe || kind == kDualPipeV;
      std::vector<int> counts = two ? std::vector<int>{2 * ranks, 2 * ranks + 2} : std::vector<int>{ranks, ranks + 1};
      if (kind == kDualPipeV) counts.push_back(2 * ranks + 1);
      if (!two && ranks > 1) counts.push_back(ranks - 1);
      if (ranks < 10 || ranks == 16) counts.insert(counts.end(), {3 * ranks + ranks % 2, 5 * ranks + 5 * ranks % 2});
      if (ranks > 16) counts = {counts[static_cast<size_t>(ranks / 2 % 2)]};
      if (ranks == 4)
        for (int c = 8; c <= 40; c += 2) counts.push_back(c);
      for (const int micro_batches : counts) {
        const PipelineShape shape{.kind = kind, .ranks = ranks, .micro_batches = micro_batches};
        SCOPED_TRACE(::testing::Message() << pipeline_kind_name(kind) << " " << ranks << " ranks " << micro_batches);
        const PipelineSchedule schedule = make_pipeline_schedule(shape);
        const PipelineCheck check = check_pipeline(schedule);
        ASSERT_FALSE(check.fault) << check.fault->why;
        for (int r = 0; r < ranks; ++r) expect_peaks(shape, r, check.peaks[static_cast<size_t>(r)]);
        const PipelineCosts costs;  // B = F + W and F&B = F + B: here the formulas are exact
        if (kind == kZB1P && micro_batches < ranks) continue;
        EXPECT_THAT(run_pipeline(schedule, costs, ranks % 2).idle, Each(published_bubble(shape, costs)));
      }
    }
  }
}

TEST(PipelineTiming, IdleIsWithinTheFormulasForAllCostsThatTheyCover) {
  TestRandom random(7);
  for (int trial = 0; trial < 200; ++trial) {
    for (const PipelineKind kind : kKinds) {
      const bool two = kind == kDualPipe || kind == kDualPipeV;
      const int ranks = 2 * (1 + random.below(5));
      const int micro_batches = (two ? 2 : 1) * ranks + 2 * random.below(8);
      const PipelineShape shape{.kind = kind, .ranks = ranks, .micro_batches = micro_batches};
      PipelineCosts c;
      c.forward = random.uniform(0.1, 3), c.backward = c.forward + random.uniform(0, 3);
      c.weight = random.uniform(0, std::min(c.forward, c.backward - c.forward));
      c.forward_backward = random.uniform(std::max(c.forward, c.backward), c.forward + c.backward);
      const PipelineRun run = run_pipeline(make_pipeline_schedule(shape), c, trial % 2);
      const double formula = published_bubble(shape, c);
      EXPECT_LE(most_idle(run), formula + kRounding)
          << pipeline_kind_name(kind) << " " << ranks << " " << micro_batches << ": " << c.forward << " " << c.backward << " "
          << c.weight << " " << c.forward_backward;
      if (!two) {
        EXPECT_NEAR(most_idle(run), formula, kRounding);
      }
    }
  }
}

// Outside of what it covers the formula may be exceeded.
TEST(PipelineTiming, IdleMayExceedTheFormulaElsewhere) {
  const PipelineShape shape{.kind = kDualPipe, .ranks = 4, .micro_batches = 20};
  const PipelineCosts costs{.forward = 1, .backward = 3, .weight = 2, .forward_backward = 4};
  EXPECT_EQ(published_bubble(shape, costs), 1);
  const PipelineSchedule schedule = make_pipeline_schedule(shape);
  EXPECT_EQ(most_idle(run_pipeline(schedule, costs)), 2);
  EXPECT_EQ(most_idle(run_pipeline(schedule, costs, 0)), 3) << "a rank waits for its neighbour's weight gradient";
}

// 1F1B idles as published whatever its costs; ZB1P follows a formula of its own where weight gradients are long.
TEST(PipelineTiming, LinearSchedulesIdleAsTheirFormulasSay) {
  TestRandom random(8);
  for (int trial = 0; trial < 200; ++trial) {
    const int ranks = 1 + random.below(8), micro_batches = ranks + random.below(20);
    PipelineCosts c;
    c.forward = random.uniform(0, 3), c.backward = random.uniform(0, 3), c.weight = random.uniform(0, c.backward);
    const PipelineRun plain = run_pipeline(make_pipeline_schedule({k1F1B, ranks, micro_batches}), c);
    for (const double idle : plain.idle) EXPECT_NEAR(idle, published_bubble({k1F1B, ranks, micro_batches}, c), kRounding);
    const double input = c.backward - c.weight;
    const double hidden = std::min({c.weight, c.forward, input});
    const PipelineRun zero = run_pipeline(make_pipeline_schedule({kZB1P, ranks, micro_batches}), c);
    for (const double idle : zero.idle)
      EXPECT_NEAR(idle, (ranks - 1) * (c.forward + input - hidden), kRounding) << c.forward << " " << input << " " << c.weight;
  }
}

// What is idle and what is held does not grow with the number of micro-batches.
TEST(PipelineTiming, BubbleDoesNotGrowWithTheBatch) {
  const PipelineCosts costs{.forward = 1.1, .backward = 2.3, .weight = 0.9, .forward_backward = 2.8};
  for (const PipelineKind kind : kKinds) {
    const double few = most_idle(run_pipeline(make_pipeline_schedule({kind, 8, 40}), costs));
    const double many = most_idle(run_pipeline(make_pipeline_schedule({kind, 8, 400}), costs));
    EXPECT_NEAR(few, many, kRounding) << pipeline_kind_name(kind);
  }
}

TEST(PipelineTiming, BuffersBetweenRanksNeverHurt) {
  const PipelineCosts costs{.forward = 1, .backward = 3, .weight = 2, .forward_backward = 4};
  for (const PipelineKind kind : kKinds) {
    const PipelineSchedule schedule = make_pipeline_schedule({kind, 4, 20});
    double before = run_pipeline(schedule, costs, 0).makespan;
    for (const int buffers : {1, 2, 8}) {
      const double makespan = run_pipeline(schedule, costs, buffers).makespan;
      EXPECT_LE(makespan, before);
      before = makespan;
    }
  }
}

TEST(PipelineCosts, ImpossibleCostsAreRefused) {
  const auto refused = [](PipelineCosts costs, const char* words) {
    try {
      validate(costs);
      ADD_FAILURE() << words;
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), 2);
      EXPECT_THAT(error.what(), HasSubstr(words));
    }
  };
  refused({.forward = -1}, "F is -1");
  refused({.forward_backward = std::numeric_limits<double>::infinity()}, "FB is inf");
  refused({.backward = 2, .weight = 2.5}, "of which W is a part");
  validate(PipelineCosts{.forward = 0, .backward = 0, .weight = 0, .forward_backward = 0});
}

}  // namespace
}  // namespace rorqual
