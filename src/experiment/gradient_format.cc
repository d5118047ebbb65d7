// E4M3 everywhere against the hybrid of earlier work (E5M2 for gradients; report §3.3.2), and gradients quantised in blocks of
// 128×128 instead of 1×128 (App. B.2: diverged on a 16B model). The gradient's error and the loss.
#include <set>

#include "experiment/gradient_error.h"

namespace rorqual {
namespace {

TextTable error_table(const std::string& title, const std::vector<GradientError>& errors) {
  TextTable table;
  table.title = title;
  table.note = "‖g − g of FP32‖ / ‖g of FP32‖ of one micro-batch";
  table.columns = {"tensors"};
  std::set<std::string> kinds;
  std::vector<std::string> all = {"all"};
  for (const GradientError& e : errors) {
    table.columns.push_back(e.arm);
    all.push_back(percent(e.all));
    for (const auto& [kind, error] : e.by_kind) kinds.insert(kind);
  }
  table.rows.push_back(std::move(all));
  for (const std::string& kind : kinds) {
    std::vector<std::string> row = {kind};
    for (const GradientError& e : errors) row.push_back(e.by_kind.contains(kind) ? percent(e.by_kind.at(kind)) : "–");
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace

ExperimentResult run_gradient_format_experiment(const ExperimentRequest& request, const Stream& stream) {
  Arm hybrid = fp8_arm(), block = fp8_arm();
  hybrid.name = "fp8-e5m2-gradients";
  hybrid.overrides.emplace_back("fp8.gradient_format=\"e5m2\"");
  block.name = "fp8-block-gradients";
  block.overrides.emplace_back("fp8.gradient_granularity=\"block\"");
  const LossStudy study = study_losses(request, {bf16_arm(), fp8_arm(), hybrid, block}, stream);
  ExperimentResult result;
  add_losses(request, study, result);
  const std::filesystem::path run = arm_directory(request, study.arms.front(), study.seeds.front());
  std::vector<GradientError> trained;
  for (const bool initialised : {true, false}) {
    const std::vector<GradientError> errors = gradient_errors(request, run, initialised, study.arms, stream);
    result.tables.push_back(error_table(initialised ? "Gradient error at the start" : "Gradient error after training", errors));
    log_table(result.tables.back());
    for (const GradientError& e : errors) {
      nlohmann::ordered_json row = {{"arm", e.arm}, {"weights", initialised ? "start" : "trained"}, {"gradient_error", e.all}};
      row["gradient_error_by_kind"] = e.by_kind;
      result.rows.push_back(std::move(row));
    }
    if (!initialised) trained = errors;
  }
  const auto add = [&](const std::string& claim, const std::string& report, size_t arm) {
    result.claims.push_back(
        {claim, report,
         fmt::format("loss {} from BF16's (signed {}), gradient error {}", percent(study.mean_gap(arm).mean_magnitude),
                     percent(study.mean_gap(arm).mean), percent(trained[arm].all))});
  };
  add("E4M3 gradients, 1×128", "used everywhere", 1);
  add("E5M2 gradients, 1×128 (hybrid)", "less precise, not needed", 2);
  add("E4M3 gradients, 128×128", "diverged on a 16B model", 3);
  return result;
}

}  // namespace rorqual
