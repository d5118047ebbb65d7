// kill -9 at random moments never loses a checkpoint, and going on gives the bits of a run that was never stopped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <sstream>
#include <thread>

#include "base/rng.h"
#include "tests/integration/program.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

// A checkpoint every step, and tensors of about 2 MB, so that most of the time one is being written.
const std::string kSettings =
    "--set train.steps=100 --set model.hidden_size=128 --set model.moe_intermediate_size=64 --set train.heldout_steps=20";

std::vector<std::string> train_arguments(const Workbench& bench, const std::string& run, bool resume) {
  std::vector<std::string> arguments = {"train", bench.at("mini.toml"), "--out", bench.at(run)};
  std::istringstream words(kSettings);
  for (std::string word; words >> word;) arguments.push_back(word);
  if (resume) {
    arguments.push_back("--resume");
  } else {
    arguments.insert(arguments.end(), {"--data", bench.at("text")});
  }
  return arguments;
}

int last_checkpoint(const fs::path& run) {
  int last = -1;
  if (!fs::exists(run / "checkpoints")) return last;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints")) {
    const std::string name = entry.path().filename();
    if (name.size() == 13 && name.starts_with("step-")) last = std::max(last, std::stoi(name.substr(5)));
  }
  return last;
}

// One run, killed again and again until it ends or has been hit `kills` times, then let end and compared. A quarter of the
// kills hit at a random moment from the start on (preparation, resuming), the others within a few steps after a checkpoint has
// appeared: while steps run and checkpoints are written. Returns the number of kills.
int kill_and_finish(const Workbench& bench, const std::string& run, int kills, uint64_t seed) {
  constexpr double kStart_s = 0.6, kSteps_s = 0.05;
  int killed = 0, checkpoint = -1;
  for (uint64_t attempt = 0; killed < kills; ++attempt) {
    BackgroundProgram program(train_arguments(bench, run, checkpoint >= 0));
    const bool early = attempt % 4 == 0;
    for (int i = 0; !early && i < 5000 && last_checkpoint(bench / run) == checkpoint; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const double share = static_cast<double>(random_below({seed, RandomPurpose::kTest, 0, 0}, attempt, 1000)) / 1000;
    std::this_thread::sleep_for(std::chrono::duration<double>((early ? kStart_s : kSteps_s) * share));
    program.signal(SIGKILL);
    const int code = program.wait();
    EXPECT_TRUE(code == 128 + SIGKILL || code == 0) << code;
    if (code == 0) break;  // it ended before the signal
    ++killed;
    const int now = last_checkpoint(bench / run);
    EXPECT_GE(now, checkpoint) << "a checkpoint was lost by kill " << killed;
    checkpoint = now;
    if (checkpoint < 0) continue;
    // Every reader but --resume verifies the newest one whole.
    const ProgramResult inspected = run_rorqual("inspect " + bench.at(run) + " --json");
    EXPECT_EQ(inspected.code, 0) << "after kill " << killed << ": " << inspected.err;
    EXPECT_THAT(inspected.out, testing::HasSubstr("\"step\": " + std::to_string(checkpoint) + ","));
  }
  const ProgramResult last = bench.train(run, kSettings + (checkpoint >= 0 ? " --resume" : ""));
  EXPECT_EQ(last.code, 0) << last.err;
  EXPECT_EQ(outcome_difference(outcome(bench / "straight"), outcome(bench / run)), "");
  for (const auto& entry : fs::directory_iterator(bench / run / "checkpoints"))
    EXPECT_THAT(entry.path().filename().string(), testing::MatchesRegex("step-[0-9]+")) << "something half-written is left";
  return killed;
}

void kill_often(int kills, uint64_t seed) {
  const Workbench bench;
  const ProgramResult straight = bench.train("straight", kSettings);
  ASSERT_EQ(straight.code, 0) << straight.err;
  int killed = 0;
  for (uint64_t run = 0; killed < kills && !testing::Test::HasFailure(); ++run)
    killed += kill_and_finish(bench, "run" + std::to_string(run), kills - killed, seed + run);
  EXPECT_GE(killed, kills);
}

TEST(Kill, AtRandomMomentsLosesNothing) {
  kill_often(20, 1);
}

TEST(KillLongTest, AtManyRandomMomentsLosesNothing) {
  kill_often(300, 1000);
}

}  // namespace
}  // namespace rorqual
