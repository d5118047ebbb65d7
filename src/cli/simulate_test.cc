// `rorqual simulate`, `rorqual plan search` and `rorqual plan serving`: what they print, draw and refuse. The numbers
// themselves are tested in sim/.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "cli/command_test_support.h"

namespace rorqual {
namespace {

using nlohmann::json;
using testing::HasSubstr;

Outcome simulate(std::vector<std::string> arguments) {
  static constexpr AddCommand kSimulate[] = {add_simulate};
  arguments.insert(arguments.begin(), "simulate");
  return run_command(std::move(arguments), kSimulate);
}

json json_of(const Outcome& outcome) {
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return json::parse(outcome.out, nullptr, false);
}

// A file of this process's own in the temporary folder, removed with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& name)
      : path_(std::filesystem::temp_directory_path() / ("rorqual_" + std::to_string(getpid()) + name)) {}
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  std::string path() const { return path_; }

 private:
  std::filesystem::path path_;
};

const std::vector<std::string> kV3 = {"v3-671b", "--cluster", "h800", "--mesh", "pp=16,ep=64,dp=2"};
std::vector<std::string> v3_and(std::vector<std::string> more) {
  more.insert(more.begin(), kV3.begin(), kV3.end());
  return more;
}

TEST(Simulate, JsonHasWhatTheStepIsMadeOf) {
  const json j = json_of(simulate(v3_and({"--json"})));
  EXPECT_EQ(j["ranks"], 2048);
  EXPECT_EQ(j["micro_batches"], 120);
  const double step = j["step_seconds"];
  EXPECT_DOUBLE_EQ(j["tokens_per_second"].get<double>(), 15360 * 4096 / step);
  EXPECT_NEAR(j["gpu_hours_per_trillion_tokens"].get<double>(), 2048 / 3600.0 * 1e12 / (15360 * 4096 / step), 1);
  EXPECT_LT(j["mfu"]["causal"], j["mfu"]["non_causal"]);
  double network = 0;
  for (const char* part : {"dispatch", "combine", "pipeline", "gradients"})
    network += j["bytes_per_token"][part]["network"].get<double>();
  EXPECT_DOUBLE_EQ(j["bytes_per_token"]["total"]["network"].get<double>(), network);
  const double shares = j["compute_share"].get<double>() + j["exposed_communication_share"].get<double>() +
                        j["bubble_share"].get<double>() + j["seconds"]["optimizer"].get<double>() / step;
  EXPECT_NEAR(shares, 1, 0.02);
}

TEST(Simulate, SkewStragglersAndFailuresCost) {
  const double balanced = json_of(simulate(v3_and({"--json"})))["step_seconds"];
  const json skewed = json_of(simulate(v3_and({"--json", "--routing", "zipf:0.5"})));
  EXPECT_GT(skewed["step_seconds"], balanced);
  EXPECT_GT(skewed["load_max_over_mean"], 1.2);
  EXPECT_GT(json_of(simulate(v3_and({"--json", "--straggler", "17:1.5"})))["step_seconds"], 1.1 * balanced);
  const json run = json_of(simulate(v3_and({"--json", "--mtbf-hours", "50000"})))["run"];
  EXPECT_GT(run["failures"], 0);
  EXPECT_LT(run["goodput"], 1);
}

TEST(Simulate, LoadsOfAFileSteer) {
  const TemporaryFile loads("_loads.json");
  std::vector<double> one(256, 1);
  one[3] = 100;  // on rank 0
  write_file_atomically(loads.path(), json::array({one}).dump());
  EXPECT_GT(json_of(simulate(v3_and({"--json", "--routing", loads.path()})))["load_max_over_mean"], 3);
  write_file_atomically(loads.path(), "[[1, 2]]");
  const Outcome wrong = simulate(v3_and({"--routing", loads.path()}));
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("256"));
}

TEST(Simulate, DrawsAndTraces) {
  const TemporaryFile svg("_step.svg"), trace("_step.json");
  const Outcome outcome = simulate(v3_and({"--svg", svg.path(), "--trace", trace.path()}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("GPU-hours per trillion tokens"));
  EXPECT_THAT(read_file(svg.path()), HasSubstr("v3-671b on h800, pp=16,dp=2,ep=64 (dualpipe)"));
  const json events = json::parse(read_file(trace.path()));
  EXPECT_GT(events["traceEvents"].size(), 1000u);
}

TEST(Simulate, RefusesWhatCannotBe) {
  const auto refuse = [](const std::vector<std::string>& arguments, const std::string& words) {
    const Outcome outcome = simulate(arguments);
    EXPECT_EQ(outcome.code, 2) << words;
    EXPECT_EQ(outcome.out, "");
    EXPECT_THAT(outcome.err, HasSubstr(words));
  };
  refuse({}, "required");
  refuse({"nosuch", "--cluster", "h800", "--mesh", "pp=1"}, "no recipe 'nosuch'");
  refuse({"v3-671b", "--cluster", "h900", "--mesh", "pp=1"}, "h900");
  refuse({"v3-671b", "--cluster", "h800", "--mesh", "pp=16,ep=64,dp=4"}, "2048");
  refuse({"v3-671b", "--cluster", "h800", "--mesh", "pp=15,ep=64,dp=2"}, "even");
  refuse(v3_and({"--routing", "zipf:x"}), "zipf:x");
  refuse(v3_and({"--straggler", "17"}), "RANK:FACTOR");
  refuse(v3_and({"--straggler", "5000:2"}), "5000");
  refuse(v3_and({"--schedule", "gpipe"}), "gpipe");
  const Outcome no_file = simulate(v3_and({"--routing", "/nonexistent.json"}));
  EXPECT_EQ(no_file.code, 1);
  EXPECT_THAT(no_file.err, HasSubstr("/nonexistent.json"));
}

const json& search_of_8_ranks() {
  static const json found = json_of(run_plan({"search", "v3-16b", "--cluster", "h800", "--ranks", "8", "--json"}));
  return found;
}

TEST(PlanSearch, RanksMeshesByTime) {
  const json& j = search_of_8_ranks();
  EXPECT_EQ(j["ranks"], 8);
  double last = 0;
  int64_t fit = 0;
  for (const json& mesh : j["meshes"]) {
    EXPECT_EQ(mesh["fits"].get<bool>(), mesh["device_bytes"].get<int64_t>() <= j["device_memory"].get<int64_t>());
    if (!mesh["fits"].get<bool>()) continue;
    ++fit;
    EXPECT_GE(mesh["step_seconds"].get<double>(), last);
    last = mesh["step_seconds"];
    EXPECT_NE(mesh["limit"], "");
  }
  EXPECT_GT(fit, 1);
}

// The search and the commands that look closer at one of its meshes tell the same.
TEST(PlanSearch, AgreesWithSimulateAndMemory) {
  for (const json& mesh : search_of_8_ranks()["meshes"]) {
    if (!mesh["fits"].get<bool>() || mesh["stage_begin"].size() < 5) continue;  // stages to be cut differently
    const json step =
        json_of(simulate({"v3-16b", "--cluster", "h800", "--mesh", mesh["mesh"], "--schedule", mesh["schedule"], "--json"}));
    EXPECT_DOUBLE_EQ(step["step_seconds"].get<double>(), mesh["step_seconds"].get<double>());
    EXPECT_EQ(step["stage_begin"], mesh["stage_begin"]);
    const json memory = json_of(run_plan({"memory", "v3-16b", "--mesh", mesh["mesh"], "--schedule", mesh["schedule"],
                                          "--cluster", "h800", "--set", "grad_lanes=" + mesh["grad_lanes"].dump(), "--set",
                                          "expert_lane_group=" + mesh["expert_lane_group"].dump(), "--json"}));
    EXPECT_EQ(memory["largest"], mesh["device_bytes"]);
    EXPECT_EQ(memory["device_memory"], search_of_8_ranks()["device_memory"]);
    return;
  }
  FAIL() << "no mesh of 8 ranks has a pipeline";
}

TEST(PlanServing, PredictsBothPhases) {
  const json decode = json_of(run_plan({"serving", "v3-671b", "--cluster", "h800", "--phase", "decode", "--ranks", "144",
                                        "--slots", "2", "--batch", "88", "--context", "4989", "--json"}));
  const double pass = decode["pass_seconds"];
  EXPECT_NEAR(decode["tokens_per_second_per_node"].get<double>(), 88 * 8 / pass, 1);
  EXPECT_GE(pass, decode["compute_seconds"].get<double>());
  const Outcome prefill = run_plan({"serving", "v3-671b", "--cluster", "h800", "--phase", "prefill", "--ranks", "32", "--slots",
                                    "9", "--batch", "16384", "--context", "4096"});
  EXPECT_EQ(prefill.code, 0) << prefill.err;
  EXPECT_THAT(prefill.out, HasSubstr("32 ranks read 16384 tokens each, prompts of 4096"));
}

TEST(PlanServing, RefusesWhatCannotBe) {
  const auto refuse = [](const std::string& recipe, const std::string& ranks, const std::string& slots,
                         const std::string& batch, const std::string& words) {
    const Outcome outcome = run_plan({"serving", recipe, "--cluster", "h800", "--phase", "decode", "--ranks", ranks, "--slots",
                                      slots, "--batch", batch, "--context", "4096"});
    EXPECT_EQ(outcome.code, 2) << words;
    EXPECT_THAT(outcome.err, HasSubstr(words));
  };
  refuse("v3-671b", "144", "1", "88", "cannot hold 256 experts");
  refuse("v3-671b", "12", "30", "88", "whole nodes of 8");
  refuse("v3-671b", "4096", "1", "88", "has 2048");
  refuse("v3-671b", "144", "2", "1", "two micro-batches");
  refuse("deepseek-llm-67b", "144", "2", "88", "MLA");
}

}  // namespace
}  // namespace rorqual
