#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "cli/command_test_support.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::ordered_json;

Outcome run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "pipeline");
  return run_plan(std::move(arguments));
}

TEST(PlanPipeline, JsonIsTheGolden) {
  const Json golden = Json::parse(read_file("tests/golden/plan/dualpipev_pp4_c10.json"));
  const Outcome outcome = run({"--schedule", "dualpipev", "--ranks", "4", "--micro-batches", "10", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json plan = Json::parse(outcome.out);
  EXPECT_EQ(plan["schedule"], "dualpipev");
  EXPECT_EQ(plan["ranks"], 4);
  EXPECT_EQ(plan["micro_batches"], 10);
  EXPECT_EQ(plan["makespan"], golden["makespan"]);
  EXPECT_EQ(plan["idle"], golden["idle_per_rank"]);
  EXPECT_EQ(plan["peak_activations"], golden["peak_live_activations"]);
  EXPECT_EQ(plan["peak_weight_gradients"], golden["peak_pending_W"]);
  EXPECT_EQ(plan["messages"], golden["p2p_messages_per_rank"]);
  for (size_t r = 0; r < 4; ++r) {
    Json ops = Json::array();
    for (const Json& op : golden["ops"][r]) ops.push_back(op["op"]);
    EXPECT_EQ(plan["ops"][r], ops);
  }
}

TEST(PlanPipeline, CostsCount) {
  const Outcome outcome =
      run({"--schedule", "dualpipe", "--ranks", "4", "--micro-batches", "20", "--costs", "FB=4,F=1,B=3,W=2", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(Json::parse(outcome.out)["idle"], Json({2.0, 2.0, 2.0, 2.0})) << "more than the formula's 1 (spec 3.2)";
  const Outcome pair = run({"--schedule", "1f1b", "--ranks", "2", "--micro-batches", "2", "--costs", "F=2.5", "--json"});
  EXPECT_EQ(Json::parse(pair.out)["costs"]["FB"], 4.5) << "unless given, overlap saves nothing";
}

TEST(PlanPipeline, TextNamesTheKeyFigures) {
  const Outcome outcome = run({"--schedule", "zb1p", "--ranks", "2", "--micro-batches", "2"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("ZB1P: 2 ranks, 2 micro-batches"));
  EXPECT_THAT(outcome.out, HasSubstr("makespan 7, idle at most 1 (14.3%), published bubble 1; at most 2 live activations"));
  EXPECT_THAT(outcome.out, HasSubstr("\nrank 0    FF.IWIW\n"));
}

TEST(PlanPipeline, DrawsAndTraces) {
  const fs::path directory = fs::temp_directory_path() / "rorqual_plan_pipeline_test";
  fs::create_directories(directory);
  const std::string svg = directory / "chart.svg", trace = directory / "trace.json";
  const Outcome outcome = run({"--schedule", "dualpipe", "--ranks", "2", "--micro-batches", "4", "--svg", svg.c_str(),
                               "--trace", trace.c_str(), "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(Json::parse(outcome.out).is_object());
  EXPECT_THAT(read_file(svg), HasSubstr("DualPipe: 2 ranks, 4 micro-batches"));
  EXPECT_FALSE(Json::parse(read_file(trace))["traceEvents"].empty());
  fs::remove_all(directory);
}

TEST(PlanPipeline, MistakesExitWithTwoAndNameTheRule) {
  const struct {
    std::vector<std::string> arguments;
    const char* words;
  } cases[] = {
      {{"--schedule", "gpipe", "--ranks", "2", "--micro-batches", "4"}, "--schedule"},
      {{"--schedule", "1f1b", "--ranks", "0", "--micro-batches", "4"}, "--ranks"},
      {{"--schedule", "1f1b", "--ranks", "2"}, "--micro-batches is required"},
      {{"--schedule", "dualpipe", "--ranks", "3", "--micro-batches", "8"}, "even number of ranks"},
      {{"--schedule", "dualpipe", "--ranks", "4", "--micro-batches", "6"}, "4 ranks need 8, not 6"},
      {{"--schedule", "1f1b", "--ranks", "2", "--micro-batches", "4", "--costs", "F=1,G=2"}, "'G=2' is not one of"},
      {{"--schedule", "1f1b", "--ranks", "2", "--micro-batches", "4", "--costs", "F=one"}, "'F=one' is not one of"},
      {{"--schedule", "1f1b", "--ranks", "2", "--micro-batches", "4", "--costs", "F="}, "'F=' is not one of"},
      {{"--schedule", "1f1b", "--ranks", "2", "--micro-batches", "4", "--costs", "F"}, "'F' is not one of"},
      {{"--schedule", "1f1b", "--ranks", "2", "--micro-batches", "4", "--costs", "F=1,F=2"}, "F is given twice"},
      {{"--schedule", "1f1b", "--ranks", "2", "--micro-batches", "4", "--costs", "F=-1"}, "the cost of F is -1"},
      {{"--schedule", "1f1b", "--ranks", "2", "--micro-batches", "4", "--costs", "F=nan"}, "the cost of F is nan"},
      {{"--schedule", "1f1b", "--ranks", "2", "--micro-batches", "4", "--costs", "W=3"}, "of which W is a part"},
  };
  for (const auto& c : cases) {
    const Outcome outcome = run(c.arguments);
    EXPECT_EQ(outcome.code, 2) << c.words;
    EXPECT_THAT(outcome.err, HasSubstr(c.words));
    EXPECT_THAT(outcome.out, IsEmpty());
  }
}

}  // namespace
}  // namespace rorqual
