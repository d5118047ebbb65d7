#include "plan/pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

// Tables of an independent simulation of the published control flow (spec 3.3).
struct Golden {
  const char* file;
  PipelineKind kind;
};
constexpr Golden kGoldens[] = {{"dualpipe_pp2_c4", PipelineKind::kDualPipe},
                               {"dualpipe_pp4_c20", PipelineKind::kDualPipe},
                               {"dualpipev_pp4_c10", PipelineKind::kDualPipeV}};

TEST(PipelineSchedule, IsTheGoldenOne) {
  for (const Golden& golden : kGoldens) {
    SCOPED_TRACE(golden.file);
    const Json g = Json::parse(read_file(std::string("tests/golden/plan/") + golden.file + ".json"));
    const PipelineShape shape{.kind = golden.kind, .ranks = g["pp_ranks"], .micro_batches = g["num_chunks"]};
    const bool v = golden.kind == PipelineKind::kDualPipeV;
    const PipelineSchedule schedule = make_pipeline_schedule(shape);
    EXPECT_EQ(shape.micro_batches_each(), g["chunks_per_direction"].get<int>());
    ASSERT_EQ(schedule.ranks.size(), g["ops"].size());
    for (size_t r = 0; r < schedule.ranks.size(); ++r) {
      Json ops = Json::array();
      for (const PipelineAction& a : schedule.ranks[r])
        if (a.is_compute()) ops.push_back({{"phase", a.phase}, {"op", pipeline_action_name(a)}});
      EXPECT_EQ(ops, g["ops"][r]) << "rank " << r;
      const Json& stages = g["stage_of_rank"][std::to_string(r)];
      EXPECT_EQ(shape.stage(static_cast<int>(r), 0), stages[v ? "slot0" : "dir0"].get<int>());
      EXPECT_EQ(shape.stage(static_cast<int>(r), 1), stages[v ? "slot1" : "dir1"].get<int>());
    }
  }
}

std::vector<std::string> ops(PipelineKind kind, int ranks, int micro_batches, size_t rank) {
  return pipeline_ops(make_pipeline_schedule({.kind = kind, .ranks = ranks, .micro_batches = micro_batches}).ranks[rank]);
}

TEST(PipelineSchedule, OneForwardOneBackward) {
  EXPECT_THAT(ops(PipelineKind::k1F1B, 3, 4, 0), ElementsAre("F0.0", "F0.1", "F0.2", "B0.0", "F0.3", "B0.1", "B0.2", "B0.3"));
  EXPECT_THAT(ops(PipelineKind::k1F1B, 3, 4, 2), ElementsAre("F0.0", "B0.0", "F0.1", "B0.1", "F0.2", "B0.2", "F0.3", "B0.3"));
  EXPECT_THAT(ops(PipelineKind::k1F1B, 3, 1, 0), ElementsAre("F0.0", "B0.0"));
}

TEST(PipelineSchedule, ZeroBubbleDefersAsManyWeightGradientsAsThereAreRanksBefore) {
  EXPECT_THAT(ops(PipelineKind::kZB1P, 3, 4, 0),
              ElementsAre("F0.0", "F0.1", "F0.2", "Bi0.0", "W0.0", "F0.3", "Bi0.1", "W0.1", "Bi0.2", "W0.2", "Bi0.3", "W0.3"));
  EXPECT_THAT(ops(PipelineKind::kZB1P, 3, 4, 2),
              ElementsAre("F0.0", "Bi0.0", "F0.1", "Bi0.1", "F0.2", "Bi0.2", "W0.0", "F0.3", "Bi0.3", "W0.1", "W0.2", "W0.3"));
}

TEST(PipelineShape, KnowsItsNeighbours) {
  const PipelineShape v{.kind = PipelineKind::kDualPipeV, .ranks = 4, .micro_batches = 10};
  EXPECT_EQ(v.next_rank(3, 0), 3) << "the turn";
  EXPECT_EQ(v.previous_rank(3, 1), 3);
  EXPECT_EQ(v.next_rank(0, 1), -1) << "the loss";
  EXPECT_TRUE(v.is_last(0, 1));
  const PipelineShape dual{.kind = PipelineKind::kDualPipe, .ranks = 4, .micro_batches = 10};
  EXPECT_EQ(dual.next_rank(2, 1), 1);
  EXPECT_EQ(dual.previous_rank(2, 1), 3);
  EXPECT_TRUE(dual.is_first(3, 1));
  EXPECT_EQ(dual.micro_batches_each(), 5);
}

TEST(PipelineShape, SizesThatDoNotExistNameTheirRule) {
  const struct {
    PipelineShape shape;
    const char* words;
  } cases[] = {
      {{PipelineKind::kDualPipe, 3, 12}, "even number of ranks"},
      {{PipelineKind::kDualPipe, 4, 9}, "even number of micro-batches"},
      {{PipelineKind::kDualPipe, 4, 6}, "4 ranks need 8, not 6"},
      {{PipelineKind::kDualPipeV, 3, 5}, "3 ranks need 6, not 5"},
      {{PipelineKind::k1F1B, 0, 5}, "0 ranks"},
      {{PipelineKind::kZB1P, 3, 0}, "at least 1"},
      {{PipelineKind::kZB1P, 1 << 14, 1 << 20}, "more than"},
  };
  for (const auto& c : cases) {
    try {
      make_pipeline_schedule(c.shape);
      ADD_FAILURE() << c.words;
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), 2);
      EXPECT_THAT(error.what(), HasSubstr(c.words));
    }
  }
  EXPECT_THROW(parse_pipeline_kind("gpipe"), Error);
}

}  // namespace
}  // namespace rorqual
