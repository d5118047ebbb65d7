// What AdamW's moments in BF16 cost against FP32 (report §3.3.3: no observable degradation).
#include "experiment/training.h"

namespace rorqual {

ExperimentResult run_moments_experiment(const ExperimentRequest& request, const Stream& stream) {
  Arm full = fp8_arm();
  full.name = "fp8-moments-fp32";
  full.overrides.emplace_back("moments=\"fp32\"");
  const LossStudy study = study_losses(request, {full, fp8_arm()}, stream);
  ExperimentResult result;
  add_losses(request, study, result);
  const LossGap gap = study.mean_gap(1);
  result.claims.push_back({"Relative loss difference, BF16 moments against FP32 moments", "no observable degradation",
                           fmt::format("{} (signed {})", percent(gap.mean_magnitude), percent(gap.mean))});
  const auto ours = study.mean_heldout(1), theirs = study.mean_heldout(0);
  if (ours && theirs)
    result.claims.push_back({"Held-out loss, BF16 against FP32 moments, mean over seeds", "no figure",
                             fmt::format("{:.4f} against {:.4f}", *ours, *theirs)});
  return result;
}

}  // namespace rorqual
