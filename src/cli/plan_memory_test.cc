#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "cli/command_test_support.h"
#include "plan/cluster.h"

namespace rorqual {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json plan_memory_json(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "memory");
  arguments.emplace_back("--json");
  const Outcome outcome = run_plan(arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return json::parse(outcome.out);
}

TEST(PlanMemory, TellsEveryRankOfAMesh) {
  const json j = plan_memory_json({"v3-671b", "--mesh", "pp=16,ep=64,dp=2", "--schedule", "dualpipe", "--device", "h800-80g"});
  EXPECT_EQ(j["ranks"], 2048);
  EXPECT_EQ(j["mesh"], "pp=16,dp=2,ep=64");
  EXPECT_EQ(j["micro_batches"], 120);
  EXPECT_EQ(j["device_memory"], load_cluster("h800").device.memory_bytes);
  ASSERT_EQ(j["per_rank"].size(), 16u);
  int64_t largest = 0;
  bool fits = true;
  for (const json& rank : j["per_rank"]) {
    EXPECT_EQ(rank["ranks"], 128);
    EXPECT_EQ(rank["peak_activations"], 17);
    int64_t device = 0;
    for (const json& c : j["classes"])
      if (!c["host"]) device += rank["bytes"][c["key"].get<std::string>()].get<int64_t>();
    EXPECT_EQ(device, rank["device_bytes"]);
    EXPECT_EQ(rank["fits"].get<bool>(), device <= j["device_memory"].get<int64_t>());
    EXPECT_EQ(rank["fits"].get<bool>(), rank["load_that_fits"].get<double>() >= 1);
    largest = std::max(largest, device);
    fits = fits && rank["fits"].get<bool>();
  }
  EXPECT_EQ(j["largest"], largest);
  EXPECT_EQ(j["fits"], fits);
}

TEST(PlanMemory, DevicesAndOverrides) {
  const json tiny = plan_memory_json({"tiny"});
  EXPECT_FALSE(tiny.contains("fits"));
  const int64_t bytes = tiny["largest"];
  EXPECT_EQ(plan_memory_json({"tiny", "--device-memory", std::to_string(bytes)})["fits"], true);
  EXPECT_EQ(plan_memory_json({"tiny", "--device-memory", std::to_string(bytes - 1)})["fits"], false);
  EXPECT_EQ(plan_memory_json({"tiny", "--device-memory", "2GiB"})["device_memory"], int64_t{2} << 30);
  EXPECT_LT(plan_memory_json({"tiny", "--set", "train.micro_batch_sequences=4"})["largest"].get<int64_t>(), bytes);
  // 3 layers of a latent of 32 and a rotary key of 16 in BF16.
  const json served = plan_memory_json({"tiny", "--cache-tokens", "1000"});
  EXPECT_EQ(served["per_rank"][0]["bytes"]["cache"], 1000 * 3 * (32 + 16) * 2);
}

TEST(PlanMemory, WritesAPicture) {
  const auto file = std::filesystem::temp_directory_path() / ("rorqual_plan_memory_" + std::to_string(getpid()) + ".svg");
  const Outcome outcome =
      run_plan({"memory", "small", "--mesh", "pp=2", "--set", "grad_lanes=1", "--svg", file, "--device-memory", "1GiB"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("fits"));
  const std::string svg = read_file(file);
  std::filesystem::remove(file);
  EXPECT_THAT(svg, HasSubstr("small on pp=2"));
  EXPECT_THAT(svg, HasSubstr("1.0 GiB a device"));
  EXPECT_THAT(svg, HasSubstr("kept for backward"));
}

TEST(PlanMemory, RefusesWhatCannotBe) {
  const auto refuse = [](const std::vector<std::string>& arguments, const std::string& words) {
    std::vector<std::string> all = {"memory"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const Outcome outcome = run_plan(all);
    EXPECT_EQ(outcome.code, 2) << words;
    EXPECT_EQ(outcome.out, "");
    EXPECT_THAT(outcome.err, HasSubstr(words));
  };
  refuse({}, "RECIPE is required");
  refuse({"nosuch"}, "no recipe 'nosuch'");
  refuse({"tiny", "--mesh", "pp=two"}, "pp needs a number");
  refuse({"tiny", "--mesh", "qq=2"}, "'qq' is no axis");
  refuse({"tiny", "--mesh", "pp=8"}, "makes 8 stages, the model has 3 layers");
  refuse({"tiny", "--mesh", "dp=3"}, "train.batch_sequences = 8");
  refuse({"small", "--mesh", "dp=2"}, "raise grad_lanes");
  refuse({"tiny", "--schedule", "gpipe"}, "gpipe");
  refuse({"v3-671b", "--mesh", "pp=3,dp=128", "--schedule", "dualpipe"}, "even");
  refuse({"tiny", "--device", "h900"}, "h900");
  refuse({"tiny", "--device", "h800-80g", "--device-memory", "1GiB"}, "give one of them");
  refuse({"tiny", "--device-memory", "much"}, "much");
  refuse({"tiny", "--cache-tokens", "-1"}, "-1");
  refuse({"tiny", "--set", "model.hiden_size=2"}, "did you mean 'model.hidden_size'");
}

}  // namespace
}  // namespace rorqual
