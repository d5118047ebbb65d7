// `rorqual train` as a user types it.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "base/cpu.h"
#include "base/file.h"
#include "tests/integration/program.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using Json = nlohmann::json;

std::vector<Json> metrics(const fs::path& run) {
  std::istringstream in(read_file(run / "metrics.jsonl"));
  std::vector<Json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
  return lines;
}

#define ASSERT_RUNS(result)             \
  do {                                  \
    const ProgramResult& r_ = (result); \
    ASSERT_EQ(r_.code, 0) << r_.err;    \
  } while (false)

TEST(TrainCommand, FillsTheRunDirectory) {
  const Workbench bench;
  const ProgramResult result = bench.train("run", "--json --set train.sample_steps=4 --set train.sample_tokens=4");
  ASSERT_RUNS(result);
  const Json summary = Json::parse(result.out);
  EXPECT_EQ(summary["run"], bench.at("run"));
  EXPECT_EQ(summary["step"], 8);
  EXPECT_EQ(summary["tokens"], 8 * 8 * 24);
  EXPECT_EQ(summary["interrupted"], false);
  for (const char* what : {"memory of the run", "master weights", "EMA", "parameters: ", "active per token", "of peak", "ETA"})
    EXPECT_THAT(result.err, HasSubstr(what));
  EXPECT_LT(result.err.find("memory of the run"), result.err.find("step 1/8")) << "the table comes before the first step";

  const fs::path run = bench / "run";
  for (const char* name : {"recipe.toml", "metrics.jsonl", "samples.jsonl", "report.html", "heldout.txt", "data/manifest.json",
                           "tokenizer/tokenizer.json", "checkpoints/step-00000007", "checkpoints/step-00000008"})
    EXPECT_TRUE(fs::exists(run / name)) << name;
  EXPECT_FALSE(fs::exists(run / ".preparing"));
  EXPECT_FALSE(fs::exists(run / "checkpoints/step-00000006")) << "checkpoints_kept is 2";
  EXPECT_THAT(read_file(run / "recipe.toml"), AllOf(HasSubstr("vocab_size = 300"), HasSubstr("fim_rate = 0.1\n"),
                                                    HasSubstr("clip_norm = 1.0\n"), HasSubstr("epsilon = 1e-08\n")));
  EXPECT_THAT(read_file(run / "report.html"), AllOf(HasSubstr("<html"), HasSubstr("</html>"), Not(HasSubstr("src=\"http"))));

  const std::vector<Json> lines = metrics(run);
  ASSERT_EQ(lines.size(), 8u);
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["step"], i + 1);
    EXPECT_EQ(lines[i]["tokens"], (i + 1) * 8 * 24);
    for (const char* key : {"loss", "mtp_loss", "balance_loss", "lr", "grad_norm", "tokens_per_s", "step_ms"})
      EXPECT_TRUE(lines[i][key].is_number() && lines[i][key] > 0) << key << " of " << lines[i];
    ASSERT_EQ(lines[i]["load_max_over_mean"].size(), 2u) << "one MoE layer, one in the MTP module";
    for (const Json& load : lines[i]["load_max_over_mean"]) EXPECT_TRUE(load >= 1.0 && load <= 8.0) << load;
    EXPECT_EQ(lines[i]["bias_range"].size(), 2u);
    EXPECT_EQ(lines[i].contains("heldout_loss"), (i + 1) % 4 == 0) << "heldout_steps is 4";
  }
}

TEST(TrainCommand, StepsIsTheTotalAndResumeCutsTheMetricsBack) {
  const Workbench bench;
  // Held-out loss is measured on the last step too, which a resumed run has more of.
  ASSERT_RUNS(bench.train("straight", "--set train.heldout_steps=0"));
  const std::string sparse = "--set train.heldout_steps=0 --set train.checkpoint_steps=3 ";
  ASSERT_RUNS(bench.train("cut", sparse + "--steps 5"));
  EXPECT_TRUE(fs::exists(bench / "cut/checkpoints/step-00000005")) << "the last step is checkpointed";
  EXPECT_TRUE(fs::exists(bench / "cut/checkpoints/step-00000003"));
  // As if it had been killed after step 5's metrics and before its checkpoint.
  fs::remove_all(bench / "cut/checkpoints/step-00000005");
  const ProgramResult resumed = bench.train("cut", sparse + "--resume --steps 7");
  ASSERT_RUNS(resumed);
  EXPECT_THAT(resumed.err, HasSubstr("resumed at step 3"));
  ASSERT_RUNS(bench.train("cut", sparse + "--resume"));
  EXPECT_EQ(metrics(bench / "cut").size(), 8u);
  auto straight = outcome(bench / "straight"), cut = outcome(bench / "cut");
  straight.erase("state.json");  // holds the recipe, whose checkpoint_steps differ
  cut.erase("state.json");
  EXPECT_EQ(outcome_difference(straight, cut), "");

  const ProgramResult done = bench.train("cut", sparse + "--resume --json");
  ASSERT_RUNS(done);
  EXPECT_THAT(done.err, HasSubstr("nothing to do"));
  EXPECT_EQ(Json::parse(done.out)["step"], 8);
  EXPECT_GT(Json::parse(done.out)["loss"], 1.0) << "the loss it stands at, not zero";
}

TEST(TrainCommand, RefusesAnExistingRunAndAChangedRecipe) {
  const Workbench bench;
  ASSERT_RUNS(bench.train("run", "--steps 2"));
  const auto before = outcome(bench / "run");
  const auto refuse = [&](const std::string& arguments, const std::vector<const char*>& words) {
    const ProgramResult result = bench.train("run", arguments);
    EXPECT_EQ(result.code, 2) << arguments << result.err;
    EXPECT_THAT(result.out, IsEmpty());
    for (const char* word : words) EXPECT_THAT(result.err, HasSubstr(word));
  };
  refuse("--json", {"holds a run already", "--resume"});
  refuse("--resume --json --set train.learning_rate=2e-3 --set model.n_group=2 --set model.topk_group=1",
         {"train.learning_rate: 0.001 → 0.002", "model.n_group: 4 → 2", "model.topk_group: 2 → 1"});
  bench.write("other.txt", "another text");
  refuse("--resume --data " + bench.at("other.txt"), {"text", "other.txt"});
  refuse("--resume --init " + bench.at("run"), {"--init", "--resume"});
  EXPECT_EQ(outcome_difference(before, outcome(bench / "run")), "");
  // Its own recipe.toml is the recipe to go on with.
  ASSERT_RUNS(run_rorqual("train " + bench.at("run/recipe.toml") + " --resume --out " + bench.at("run") + " --steps 3"));
}

TEST(TrainCommand, StartsAgainWhatNeverReachedACheckpoint) {
  const Workbench bench;
  ASSERT_RUNS(bench.train("run"));
  const auto straight = outcome(bench / "run");
  fs::remove_all(bench / "run/checkpoints");
  fs::remove(bench / "run/metrics.jsonl");
  const ProgramResult resumed = bench.train("run", "--resume");
  EXPECT_EQ(resumed.code, 2);
  EXPECT_THAT(resumed.err, HasSubstr("without --resume"));
  const ProgramResult again = bench.train("run");
  ASSERT_RUNS(again);
  EXPECT_THAT(again.err, HasSubstr("starts again"));
  EXPECT_EQ(outcome_difference(straight, outcome(bench / "run")), "");
}

TEST(TrainCommand, ThreadsChangeNoBit) {
  const Workbench bench;
  ASSERT_RUNS(bench.train("one", "", "OMP_NUM_THREADS=1"));
  ASSERT_RUNS(bench.train("two", "", "OMP_NUM_THREADS=2"));
  EXPECT_EQ(outcome_difference(outcome(bench / "one"), outcome(bench / "two")), "");
}

// Same mathematics, other order of sums and other rounding to bf16: a few steps stay within 1% of the loss (each bf16 product
// is off by at most 2^-8 of its size, and the loss averages 192 tokens).
TEST(TrainCommand, EveryInstructionSetTrains) {
  const Workbench bench;
  double reference = 0;
  for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (isa > cpu_isa()) continue;
    const std::string name(isa_name(isa));
    ASSERT_RUNS(bench.train(name, "--steps 3", "RORQUAL_ISA=" + name));
    const double loss = metrics(bench / name).back()["loss"];
    if (isa == Isa::kReference) reference = loss;
    EXPECT_NEAR(loss, reference, 0.01 * reference) << name;
  }
}

TEST(TrainCommand, SignalsFinishTheStepAndSave) {
  const Workbench bench;
  const std::string settings = "--set train.steps=400 --set train.checkpoint_steps=1000 --set train.heldout_steps=0 ";
  std::istringstream words(settings);
  const std::vector<std::string> set{std::istream_iterator<std::string>(words), {}};
  for (const int number : {SIGINT, SIGTERM}) {
    const std::string name = "run" + std::to_string(number);
    std::vector<std::string> arguments = {"train", bench.at("mini.toml"), "--data", bench.at("text"), "--out", bench.at(name)};
    arguments.insert(arguments.end(), set.begin(), set.end());
    BackgroundProgram program(arguments);
    for (int i = 0; i < 3000 && (!fs::exists(bench / name / "metrics.jsonl") || metrics(bench / name).size() < 3); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    program.signal(number);
    EXPECT_EQ(program.wait(), 0);
    const size_t steps = metrics(bench / name).size();
    ASSERT_GE(steps, 3u);
    ASSERT_LT(steps, 400u) << "it ended before the signal: the test says nothing";
    EXPECT_TRUE(fs::exists(bench / name / "checkpoints" / fmt::format("step-{:08}", steps))) << "the step is saved";
    EXPECT_TRUE(fs::exists(bench / name / "report.html"));
    const std::string total = settings + "--steps " + std::to_string(steps + 5);
    ASSERT_RUNS(bench.train(name, total + " --resume"));
    ASSERT_RUNS(bench.train(name + "straight", total));
    EXPECT_EQ(outcome_difference(outcome(bench / (name + "straight")), outcome(bench / name)), "");
  }
}

TEST(TrainCommand, MixesSourcesByWeight) {
  const Workbench bench;
  fs::create_directory(bench / "more");
  bench.write("more/a.jsonl",
              "{\"text\": \"" + std::string(3000, 'b') + "\"}\n{\"text\": \"" + std::string(3000, 'c') + "\"}\n");
  const std::string both = " --data " + bench.at("text") + "=3 --data " + bench.at("more") + "=1";
  const std::string start = "train " + bench.at("mini.toml") + " --set data.heldout_fraction=0";
  ASSERT_RUNS(run_rorqual(start + both + " --steps 2 --out " + bench.at("run")));
  const Json manifest = Json::parse(read_file(bench / "run/data/manifest.json"));
  ASSERT_EQ(manifest["sources"].size(), 2u);
  EXPECT_EQ(manifest["sources"][0]["weight"], 3);
  EXPECT_EQ(manifest["sources"][1]["weight"], 1);
  ASSERT_RUNS(run_rorqual(start + both + " --out " + bench.at("run") + " --resume --steps 3"));
  const ProgramResult other = run_rorqual(start + " --data " + bench.at("text") + " --out " + bench.at("run") + " --resume");
  EXPECT_EQ(other.code, 2) << other.err;
  EXPECT_THAT(other.err, HasSubstr("more=1"));
}

TEST(TrainCommand, InitStartsFromARunOrAnExport) {
  const Workbench bench;
  ASSERT_RUNS(bench.train("base"));
  ASSERT_RUNS(run_rorqual("export " + bench.at("base") + " --dtype f32 --to " + bench.at("hf")));
  // A rate of next to nothing: after one step the loss is the base's, far below that of a fresh start.
  const std::string still = "--steps 1 --set train.learning_rate=1e-12 ";
  ASSERT_RUNS(bench.train("fresh", still));
  ASSERT_RUNS(bench.train("from_run", still + "--init " + bench.at("base")));
  ASSERT_RUNS(bench.train("from_export", still + "--init " + bench.at("hf")));
  const double fresh = metrics(bench / "fresh")[0]["loss"], base = metrics(bench / "base").back()["loss"];
  const double from_run = metrics(bench / "from_run")[0]["loss"];
  EXPECT_LT(from_run, (fresh + base) / 2);
  EXPECT_EQ(metrics(bench / "from_export")[0]["loss"], from_run) << "an f32 export holds the same weights";
  EXPECT_EQ(read_file(bench / "from_export/tokenizer/tokenizer.json"), read_file(bench / "base/tokenizer/tokenizer.json"));
  const ProgramResult other = bench.train("other", "--set model.hidden_size=64 --init " + bench.at("hf"));
  EXPECT_EQ(other.code, 2);
  EXPECT_THAT(other.err, AllOf(HasSubstr("hidden_size = 32"), HasSubstr("64")));
  EXPECT_FALSE(fs::exists(bench / "other"));
}

TEST(TrainCommand, RecipesAreFoundByNameFromAnywhere) {
  const ProgramResult inspected = run_rorqual("inspect tiny --json", "cd / &&");
  ASSERT_RUNS(inspected);
  EXPECT_EQ(Json::parse(inspected.out)["kind"], "recipe");
  const ProgramResult keys = run_rorqual("train tiny --help-keys", "cd / &&");
  ASSERT_RUNS(keys);
  for (const char* key : {"precision", "seed", "grad_lanes", "expert_lane_group", "logical_nodes", "model.q_lora_rank",
                          "train.checkpoint_steps", "data.fim_rate"}) {
    std::istringstream lines(keys.out);
    std::string line, name, type, value;
    while (std::getline(lines, line) && !line.starts_with(std::string(key) + " ")) {
    }
    std::istringstream(line) >> name >> type >> value;
    EXPECT_EQ(name, key);
    EXPECT_THAT(type, testing::AnyOf("string", "integer", "number", "boolean"));
    EXPECT_THAT(value, Not(IsEmpty()));
  }
}

// The averaged weights are updated while the next step's micro-batches run. Experts wide enough that this takes longer than
// what lies between the optimizer and the first micro-batch, which is all fixed cost in a smaller model.
// Trains six steps of four micro-batches; how many of those lie beside the average of the step before.
int micro_batches_beside_the_average() {
  const Workbench bench;
  const auto run = bench.train("run",
                               "--set model.hidden_size=256 --set model.moe_intermediate_size=512 --set train.steps=6 "
                               "--set train.checkpoint_steps=100 --set train.heldout_steps=0 --trace " +
                                   bench.at("trace.json"));
  EXPECT_EQ(run.code, 0) << run.err;
  struct Span {
    double begin, end;
  };
  std::map<std::string, std::vector<Span>> spans;
  const Json trace = Json::parse(read_file(bench / "trace.json"));
  std::map<std::string, std::set<int>> threads;
  for (const Json& e : trace["traceEvents"]) {
    if (e["ph"] != "X") continue;
    spans[e["name"]].push_back({e["ts"], e["ts"].get<double>() + e["dur"].get<double>()});
    threads[e["name"]].insert(e["tid"].get<int>());
  }
  EXPECT_EQ(spans["step"].size(), 6u);
  EXPECT_NE(threads["ema"], threads["micro-batch"]);
  if (spans["ema"].size() != 6 || spans["micro-batch"].size() != 6 * 4) {
    ADD_FAILURE() << spans["ema"].size() << " averages, " << spans["micro-batch"].size() << " micro-batches";
    return 0;
  }
  int beside = 0;
  for (size_t i = 0; i + 1 < 6; ++i) {
    const Span& ema = spans["ema"][i];
    EXPECT_GT(ema.begin, spans["micro-batch"][4 * i + 3].end) << "it reads the weights of the finished step";
    for (size_t m = 4 * (i + 1); m < 4 * (i + 2); ++m)
      beside += ema.begin < spans["micro-batch"][m].end && ema.end > spans["micro-batch"][m].begin;
  }
  return beside;
}

// On a machine that is busy with other work an average may be through before the next step is given a core, but hardly in
// every step of every run.
TEST(TrainCommand, TraceShowsTheAverageBesideTheNextStep) {
  int beside = 0;
  for (int run = 0; run < 5 && beside == 0; ++run) beside = micro_batches_beside_the_average();
  EXPECT_GT(beside, 0) << "no average was updated while the next step ran";
}

}  // namespace
}  // namespace rorqual
