// The report's claims, each a command: `rorqual experiment NAME`. One file per experiment; what it found goes into
// DIR/NAME.json and DIR/NAME.html.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/threads.h"
#include "experiment/result.h"

namespace rorqual {

struct ExperimentRequest {
  std::filesystem::path directory;
  std::optional<int64_t> steps;   // of each training run, in place of the experiment's own number
  std::string recipe = "tiny";    // of experiments that train
  std::vector<std::string> data;  // as `rorqual train --data` takes it; experiments that train need it
  bool quick = false;             // a small part of the measurements: for tests
};

struct Experiment {
  std::string_view name;
  std::string_view question;
  bool trains;
  ExperimentResult (*run)(const ExperimentRequest& request, const Stream& stream);
};

std::span<const Experiment> experiments();
// Error (usage) lists the names there are.
const Experiment& find_experiment(std::string_view name);

// Refuses what can be refused before any work (a directory that cannot be written, options that change nothing, no data), runs,
// and writes both files. Returns what NAME.json holds.
nlohmann::ordered_json run_experiment(const Experiment& experiment, const ExperimentRequest& request, const Stream& stream);

ExperimentResult run_accumulator_experiment(const ExperimentRequest& request, const Stream& stream);
ExperimentResult run_outliers_experiment(const ExperimentRequest& request, const Stream& stream);
ExperimentResult run_fp8_loss_experiment(const ExperimentRequest& request, const Stream& stream);
ExperimentResult run_fp8_parts_experiment(const ExperimentRequest& request, const Stream& stream);
ExperimentResult run_gradient_format_experiment(const ExperimentRequest& request, const Stream& stream);
ExperimentResult run_moments_experiment(const ExperimentRequest& request, const Stream& stream);

}  // namespace rorqual
