#include "experiment/training.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "experiment/gradient_error.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST(SmoothLosses, WeighsThePastWithNineTenths) {
  const std::vector<double> smooth = smooth_losses({4, 2, NAN, 2});
  ASSERT_EQ(smooth.size(), 4u);
  EXPECT_DOUBLE_EQ(smooth[0], 4);
  EXPECT_DOUBLE_EQ(smooth[1], 0.9 * 4 + 0.1 * 2);
  EXPECT_DOUBLE_EQ(smooth[2], smooth[1]) << "a skipped step changes nothing";
  EXPECT_DOUBLE_EQ(smooth[3], 0.9 * smooth[2] + 0.2);
}

TrainedArm arm_of(std::vector<double> smoothed) {
  return {.loss = smoothed, .smoothed = smoothed, .heldout_loss = std::nullopt, .skipped = 0};
}

TEST(LossGap, IsOfTheSecondHalf) {
  const LossGap gap = loss_gap(arm_of({9, 9, 1.1, 0.8}), arm_of({1, 1, 1, 1}));
  EXPECT_NEAR(gap.mean_magnitude, 0.15, 1e-12);
  EXPECT_NEAR(gap.mean, -0.05, 1e-12);
}

class TrainingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(directory_);
    fs::create_directories(directory_ / "texts");
    // Enough words for a handful of steps of the tiny recipe of the tests.
    uint32_t state = 7;
    for (int file = 0; file < 24; ++file) {
      std::string text;
      for (int word = 0; word < 400; ++word) {
        state = state * 1664525u + 1013904223u;
        text += std::string("the sea whale swims deep and far ").substr(state >> 28, 5) + (word % 9 == 8 ? ".\n" : " ");
      }
      write_file_atomically(directory_ / "texts" / (std::to_string(file) + ".txt"), text);
    }
    request_.directory = directory_ / "out";
    request_.recipe = "tests/mini.toml";
    request_.data = {(directory_ / "texts").string()};
    request_.steps = 6;
    request_.quick = true;
  }
  void TearDown() override { fs::remove_all(directory_); }

  nlohmann::ordered_json run(std::string_view name) { return run_experiment(find_experiment(name), request_, Stream(pool_)); }

  const fs::path directory_ =
      fs::path(::testing::TempDir()) /
      ("rorqual_training_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
  ExperimentRequest request_;
  ThreadPool pool_{2};
};

TEST_F(TrainingTest, SchedulesShrinkWithTheSteps) {
  request_.recipe = "tiny";
  const Recipe whole = read_recipe(find_recipe("tiny"), {}),
               recipe = arm_recipe(request_, bf16_arm(), 5, whole.train.steps / 3);
  EXPECT_EQ(recipe.seed, 5);
  EXPECT_EQ(recipe.formats.precision, "bf16");
  EXPECT_EQ(recipe.train.steps, whole.train.steps / 3);
  EXPECT_EQ(recipe.train.constant_tokens, whole.train.constant_tokens / 3);
  EXPECT_EQ(recipe.train.cosine_tokens, whole.train.cosine_tokens / 3);
  EXPECT_EQ(recipe.train.mtp_lambda_tokens, whole.train.mtp_lambda_tokens / 3);
  EXPECT_EQ(recipe.train.learning_rate, whole.train.learning_rate);
}

TEST_F(TrainingTest, CompleteArmsAreNotRunAgain) {
  const nlohmann::ordered_json first = run("moments");
  ASSERT_EQ(first.at("rows").size(), 2u);
  const fs::path metrics = request_.directory / "runs" / "fp8-seed1" / "metrics.jsonl";
  const auto written = fs::last_write_time(metrics);
  fs::remove_all(request_.directory / "runs" / "fp8-moments-fp32-seed1");
  EXPECT_EQ(run("moments"), first) << "the arm that was gone is trained again, to the same numbers";
  EXPECT_EQ(fs::last_write_time(metrics), written);
  request_.steps = 4;
  try {
    run("moments");
    FAIL() << "runs of another length were taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_THAT(error.what(), HasSubstr("train.steps"));
  }
}

TEST_F(TrainingTest, GradientErrorsFollowTheFormats) {
  const nlohmann::ordered_json result = run("gradient-format");
  std::map<std::string, double> at_start;
  for (const auto& row : result.at("rows"))
    if (row.value("weights", "") == "start") at_start[row.at("arm")] = row.at("gradient_error");
  ASSERT_EQ(at_start.size(), 4u);
  EXPECT_GT(at_start["bf16"], 1e-4);
  EXPECT_LT(at_start["bf16"], 0.05);
  EXPECT_GT(at_start["fp8"], 2 * at_start["bf16"]);
  EXPECT_GT(at_start["fp8-e5m2-gradients"], at_start["fp8"]) << "two mantissa bits instead of three";
  EXPECT_LT(at_start["fp8-e5m2-gradients"], 1);
}

TEST_F(TrainingTest, Fp8LossStandsBesideChaos) {
  const nlohmann::ordered_json result = run("fp8-loss");
  ASSERT_EQ(result.at("rows").size(), 3u);
  for (const auto& row : result.at("rows")) {
    if (row.at("arm") == "bf16") continue;
    EXPECT_GT(row.at("mean_magnitude"), 0) << row.at("arm") << " is not another run";
    EXPECT_LT(row.at("mean_magnitude"), 0.05) << row.at("arm");
  }
}

}  // namespace
}  // namespace rorqual
