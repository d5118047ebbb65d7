// Which of FP8's choices the gap in loss comes from: scales rounded to powers of two, or activations cached in E4M3 and E5M6.
#include "experiment/training.h"

namespace rorqual {

ExperimentResult run_fp8_parts_experiment(const ExperimentRequest& request, const Stream& stream) {
  Arm scales = fp8_arm(), caches = fp8_arm();
  scales.name = "fp8-scales-fp32";
  scales.overrides.emplace_back("scales=\"fp32\"");
  caches.name = "fp8-caches-bf16";
  caches.overrides.insert(caches.overrides.end(), {"fp8.attention_cache=\"bf16\"", "fp8.swiglu_cache=\"bf16\""});
  const LossStudy study = study_losses(request, {bf16_arm(), fp8_arm(), scales, caches}, stream);
  ExperimentResult result;
  add_losses(request, study, result);
  for (size_t arm = 1; arm < study.arms.size(); ++arm) {
    const LossGap gap = study.mean_gap(arm);
    result.claims.push_back({fmt::format("Relative loss difference, {} against BF16", study.arms[arm].name), "no figure",
                             fmt::format("{} (signed {})", percent(gap.mean_magnitude), percent(gap.mean))});
  }
  return result;
}

}  // namespace rorqual
