// Arms of an experiment that trains: the same model and data by recipes that differ in a few keys, several seeds each.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "experiment/experiment.h"
#include "train/recipe.h"
#include "train/run.h"

namespace rorqual {

struct Arm {
  std::string name;                    // part of the run's directory
  std::vector<std::string> overrides;  // "key=value", as `rorqual train --set` takes them
};

// DIR/runs/ARM-seedN. Experiments with the same --out share the runs of arms with the same name.
std::filesystem::path arm_directory(const ExperimentRequest& request, const Arm& arm, int64_t seed);

// The request's recipe with the arm's keys, `steps` steps, and the schedules' tokens in proportion. No samples and no averaged
// weights: they would cost time and change nothing here.
Recipe arm_recipe(const ExperimentRequest& request, const Arm& arm, int64_t seed, int64_t steps);

struct TrainedArm {
  std::vector<double> loss;      // of step i + 1; NaN where it was not finite
  std::vector<double> smoothed;  // smooth_losses(loss)
  std::optional<double> heldout_loss;
  int64_t skipped = 0;  // steps without an update
};

// Trains the arm, goes on where a stopped run left off, or reads a complete one. Error: the directory holds a run of another
// recipe; the run was interrupted.
TrainedArm train_arm(const ExperimentRequest& request, const Arm& arm, int64_t seed, int64_t steps, const Stream& stream);

// Exponential moving average with weight 0.9 on the past, as the report smooths (App. B); begins with the first value; values
// that are not finite leave it as it is.
std::vector<double> smooth_losses(const std::vector<double>& loss);

// Relative difference of two smoothed curves over their second half.
struct LossGap {
  double mean_magnitude = 0;  // mean of |a − b| / b
  double mean = 0;            // mean of (a − b) / b: above 0, a is worse
};
LossGap loss_gap(const TrainedArm& a, const TrainedArm& b);

// Several arms, several seeds; the first arm is what the others are held against.
struct LossStudy {
  std::vector<Arm> arms;
  std::vector<int64_t> seeds;
  int64_t steps = 0;
  std::vector<std::vector<TrainedArm>> runs;  // [arm][seed]

  // Mean over seeds of the gap between an arm and the first one.
  LossGap mean_gap(size_t arm) const;
  std::optional<double> mean_heldout(size_t arm) const;
};
LossStudy study_losses(const ExperimentRequest& request, std::vector<Arm> arms, const Stream& stream);

// Settings, rows, tables and charts that every such study has.
void add_losses(const ExperimentRequest& request, const LossStudy& study, ExperimentResult& result);

// The arms that several experiments share.
Arm bf16_arm();
Arm fp8_arm();

}  // namespace rorqual
