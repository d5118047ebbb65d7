// What FP8 costs in loss (report App. B.1, Fig. 10), beside what chaos alone does to two runs.
#include "experiment/training.h"

namespace rorqual {

ExperimentResult run_fp8_loss_experiment(const ExperimentRequest& request, const Stream& stream) {
  Arm nudged = bf16_arm();
  nudged.name = "bf16-last-bit";
  nudged.overrides.emplace_back("perturb_start=true");
  const LossStudy study = study_losses(request, {bf16_arm(), fp8_arm(), nudged}, stream);
  ExperimentResult result;
  add_losses(request, study, result);
  const LossGap fp8 = study.mean_gap(1), chaos = study.mean_gap(2);
  result.claims.push_back({"Relative loss difference, FP8 against BF16", "below 0.25 % (16B and 230B parameters)",
                           fmt::format("{} (signed {})", percent(fp8.mean_magnitude), percent(fp8.mean))});
  result.claims.push_back({"The same between two BF16 runs whose starts differ in one last bit", "no figure",
                           fmt::format("{} (signed {})", percent(chaos.mean_magnitude), percent(chaos.mean))});
  return result;
}

}  // namespace rorqual
