#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "cli/command_test_support.h"

namespace rorqual {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class PlanExperts : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(dir_); }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  // Runs `rorqual plan experts --load FILE ARGUMENTS…` in this process; FILE holds `loads`.
  Outcome run(const std::string& loads, std::vector<std::string> arguments) const {
    write_file_atomically(dir_ / "loads.json", loads);
    arguments.insert(arguments.begin(), {"experts", "--load", dir_ / "loads.json"});
    return run_plan(std::move(arguments));
  }

  static std::vector<std::string> sizes(int64_t replicas, int64_t groups, int64_t nodes, int64_t gpus) {
    return {"--replicas", std::to_string(replicas), "--groups", std::to_string(groups),
            "--nodes",    std::to_string(nodes),    "--gpus",   std::to_string(gpus)};
  }

  const std::filesystem::path dir_ =
      std::filesystem::temp_directory_path() / ("rorqual_plan_experts_" + std::to_string(getpid()) + "_" +
                                                testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(PlanExperts, PrintsTheGoldenTables) {
  for (const char* name : {"readme", "seed1_prefill_ep32", "seed4_ties_small"}) {
    SCOPED_TRACE(name);
    const json golden = json::parse(read_file(std::string("tests/golden/eplb_") + name + ".json"));
    auto arguments = sizes(golden["num_replicas"], golden["num_groups"], golden["num_nodes"], golden["num_gpus"]);
    arguments.emplace_back("--json");
    const Outcome outcome = run(golden["weight"].dump(), arguments);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const json found = json::parse(outcome.out);
    EXPECT_EQ(found["phy2log"], golden["phy2log"]);
    EXPECT_EQ(found["log2phy"], golden["log2phy"]);
    EXPECT_EQ(found["logcnt"], golden["logcnt"]);
    for (size_t layer = 0; layer < found["max_over_mean"].size(); ++layer) {
      EXPECT_NEAR(found["max_over_mean"][layer].get<double>(), golden["max_over_mean_gpu_load"][layer].get<double>(), 2e-6);
    }
  }
}

TEST_F(PlanExperts, PrintsATableAndDraws) {
  auto arguments = sizes(6, 2, 2, 2);
  arguments.insert(arguments.end(), {"--svg", dir_ / "loads.svg"});
  // Before: 30 and 10. After: expert 0 gets a copy, its node two GPUs' worth of the other experts.
  const Outcome outcome = run("[[20, 10, 5, 5], [1, 1, 1, 1]]", arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("4 experts in 6 slots, 3 on each of 2 GPUs; 2 groups kept whole on 2 nodes"));
  EXPECT_THAT(outcome.out, HasSubstr("     0         1.500       1.500   2 of expert 0"));
  EXPECT_THAT(outcome.out, HasSubstr(" worst         1.500       1.500"));
  const std::string svg = read_file(dir_ / "loads.svg");
  EXPECT_TRUE(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
  EXPECT_THAT(svg, HasSubstr("layer 1"));
  EXPECT_THAT(svg, HasSubstr("GPU 0, node 0: load 30, 1.500 of the mean"));
}

TEST_F(PlanExperts, SaysWhatIsWrongWithTheLoads) {
  const auto refusal = [&](const std::string& loads) {
    const Outcome outcome = run(loads, sizes(4, 1, 1, 2));
    EXPECT_EQ(outcome.code, 1);
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  };
  EXPECT_THAT(refusal("[[1, 2"), HasSubstr("is not JSON"));
  EXPECT_THAT(refusal(""), HasSubstr("is not JSON"));
  EXPECT_THAT(refusal("[[NaN, 2]]"), HasSubstr("is not JSON"));
  EXPECT_THAT(refusal("{\"a\": 1}"), HasSubstr("holds no array of layers"));
  EXPECT_THAT(refusal("[]"), HasSubstr("holds no array of layers"));
  EXPECT_THAT(refusal("[1, 2]"), HasSubstr("layer 0 is no array of loads"));
  EXPECT_THAT(refusal("[[1, 2], []]"), HasSubstr("layer 1 is no array of loads"));
  EXPECT_THAT(refusal("[[1, 2], [3]]"), HasSubstr("layer 1 has 1 loads where layer 0 has 2"));
  EXPECT_THAT(refusal("[[1, \"2\"]]"), HasSubstr("layer 0, expert 1 is no number"));
  EXPECT_THAT(refusal("[[1, -2]]"), HasSubstr("finite in FP32 and not negative, not -2"));
  EXPECT_THAT(refusal("[[1, 1e39]]"), HasSubstr("finite in FP32 and not negative"));
}

TEST_F(PlanExperts, NamesTheRuleThatSizesBreak) {
  const std::string loads = "[[1, 2, 3, 4]]";
  const auto refusal = [&](const std::vector<std::string>& arguments) {
    const Outcome outcome = run(loads, arguments);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  };
  EXPECT_THAT(refusal(sizes(4, 3, 1, 2)), HasSubstr("4 experts do not divide over 3 groups"));
  EXPECT_THAT(refusal(sizes(5, 2, 1, 2)), HasSubstr("5 replicas do not divide over 2 GPUs"));
  EXPECT_THAT(refusal(sizes(6, 2, 2, 3)), HasSubstr("3 GPUs do not divide over 2 nodes"));
  EXPECT_THAT(refusal(sizes(2, 2, 1, 2)), HasSubstr("2 replicas cannot hold 4 experts"));
  EXPECT_THAT(refusal(sizes(0, 2, 1, 2)), HasSubstr("--replicas"));
  EXPECT_THAT(refusal({"--replicas", "4"}), HasSubstr("--groups"));
}

TEST_F(PlanExperts, LeavesNoPictureBehindAMistake) {
  auto arguments = sizes(5, 2, 1, 2);
  arguments.insert(arguments.end(), {"--svg", dir_ / "loads.svg"});
  EXPECT_EQ(run("[[1, 2, 3, 4]]", arguments).code, 2);
  EXPECT_FALSE(std::filesystem::exists(dir_ / "loads.svg"));
}

}  // namespace
}  // namespace rorqual
