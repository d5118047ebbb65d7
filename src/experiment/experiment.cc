#include "experiment/experiment.h"

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "train/recipe.h"

namespace rorqual {
namespace {

constexpr Experiment kExperiments[] = {
    {"accumulator", "What do a limited accumulator and its promotion cost in accuracy?", false, run_accumulator_experiment},
    {"outliers", "How far does one large value spoil the values that share its scale?", false, run_outliers_experiment},
    {"fp8-loss", "How far is the loss of FP8 training from BF16's, and how far do two BF16 runs drift apart?", true,
     run_fp8_loss_experiment},
    {"fp8-parts", "Which part of FP8 does the gap in loss come from: the scales' rounding, or the caches?", true,
     run_fp8_parts_experiment},
    {"gradient-format", "What do E5M2 gradients, or gradients in blocks of 128×128, cost?", true,
     run_gradient_format_experiment},
    {"moments", "What do optimizer moments in BF16 cost against FP32?", true, run_moments_experiment},
};

std::filesystem::path result_file(const Experiment& experiment, const ExperimentRequest& request, const char* extension) {
  return request.directory / (std::string(experiment.name) + extension);
}

void check_request(const Experiment& experiment, const ExperimentRequest& request) {
  if (!experiment.trains && request.steps) fail_usage("experiment {} trains nothing: leave out --steps", experiment.name);
  if (!experiment.trains && request.recipe != ExperimentRequest().recipe)
    fail_usage("experiment {} trains nothing: leave out --recipe", experiment.name);
  if (!experiment.trains && !request.data.empty()) fail_usage("experiment {} reads no text: leave out --data", experiment.name);
  if (experiment.trains && request.data.empty())
    fail_usage("experiment {} trains models: give it text with --data PATH, as `rorqual train` takes it", experiment.name);
  if (experiment.trains) find_recipe(request.recipe);
  std::error_code error;
  std::filesystem::create_directories(request.directory, error);
  if (error)
    fail_usage("cannot make the directory {}: {}; choose another with --out", request.directory.string(), error.message());
  const AtomicFile probe(
      result_file(experiment, request, ".json"));  // never committed: says now what would fail after the work
}

std::string command_line(const Experiment& experiment, const ExperimentRequest& request) {
  std::string command = fmt::format("rorqual experiment {}", experiment.name);
  // Where things lie on this machine is nobody's business.
  if (experiment.trains)
    command += fmt::format(" --recipe {} --data PATH", std::filesystem::path(request.recipe).stem().string());
  if (request.steps) command += fmt::format(" --steps {}", *request.steps);
  return command;
}

}  // namespace

std::span<const Experiment> experiments() {
  return kExperiments;
}

const Experiment& find_experiment(std::string_view name) {
  std::string names;
  for (const Experiment& experiment : experiments()) {
    if (experiment.name == name) return experiment;
    names += (names.empty() ? "" : ", ") + std::string(experiment.name);
  }
  fail_usage("there is no experiment '{}'; there are {}", name, names);
}

nlohmann::ordered_json run_experiment(const Experiment& experiment, const ExperimentRequest& request, const Stream& stream) {
  check_request(experiment, request);
  const ExperimentResult result = experiment.run(request, stream);
  const nlohmann::ordered_json json = result_json(experiment.name, experiment.question, result);
  const std::filesystem::path numbers = result_file(experiment, request, ".json");
  const std::filesystem::path page = result_file(experiment, request, ".html");
  write_file_atomically(numbers, json.dump(1) + "\n");
  write_file_atomically(page, result_page(experiment.name, experiment.question, command_line(experiment, request), result));
  info("");
  for (const Claim& c : result.claims) info("{}: {} (the report: {})", c.claim, c.ours, c.report);
  info("\nthe numbers lie in {}, the plots in {}", numbers.string(), page.string());
  return json;
}

}  // namespace rorqual
