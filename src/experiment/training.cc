#include "experiment/training.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "data/corpus.h"
#include "train/run_history.h"
#include "train/trainer.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kDefaultSteps = 600;
constexpr double kSmoothing = 0.9;
constexpr size_t kMostPoints = 300;  // of a curve on the page

// A stopped run of this recipe can be gone on with; one of another recipe is somebody's work.
bool has_run(const fs::path& directory, const Recipe& recipe) {
  if (!fs::exists(directory / "recipe.toml") || list_checkpoints(directory).empty()) return false;
  const Recipe saved = run_recipe(directory);
  Recipe wanted = recipe;
  complete(wanted, saved.model.vocab_size);
  const std::vector<std::string> differences = recipe_differences(saved, wanted);
  if (!differences.empty())
    fail_usage("{} holds a run of another recipe ({}): choose another --out, or remove it", directory.string(),
               fmt::join(differences, "; "));
  return true;
}

TrainedArm read_arm(const fs::path& directory, int64_t steps) {
  const RunHistory history = read_history(directory);
  TrainedArm arm;
  arm.loss.assign(static_cast<size_t>(steps), NAN);
  if (const Series* loss = history.find("loss"))
    for (size_t i = 0; i < loss->size(); ++i)
      if (const auto step = static_cast<int64_t>(loss->step[i]); step >= 1 && step <= steps)
        arm.loss[static_cast<size_t>(step - 1)] = loss->value[i];
  arm.smoothed = smooth_losses(arm.loss);
  if (const Series* heldout = history.find("heldout_loss")) arm.heldout_loss = heldout->value.back();
  arm.skipped = static_cast<int64_t>(history.skipped.size());
  return arm;
}

std::string loss_text(std::optional<double> loss) {
  return loss ? fmt::format("{:.4f}", *loss) : "–";
}

// Every n-th step, the last one among them.
ChartSeries curve(const std::string& name, const std::vector<double>& values) {
  ChartSeries s{.name = name, .x = {}, .y = {}};
  const size_t every = (values.size() + kMostPoints - 1) / kMostPoints;
  for (size_t i = (values.size() - 1) % every; i < values.size(); i += every) {
    s.x.push_back(static_cast<double>(i + 1));
    s.y.push_back(values[i]);
  }
  return s;
}

Chart loss_chart(const LossStudy& study) {
  Chart chart{.title = fmt::format("Loss, seed {}", study.seeds.front()),
              .note = "Nats per token of the training batches, smoothed with 0.9.",
              .x_name = "step",
              .series = {}};
  for (size_t a = 0; a < study.arms.size(); ++a)
    chart.series.push_back(curve(study.arms[a].name, study.runs[a].front().smoothed));
  return chart;
}

Chart gap_chart(const LossStudy& study) {
  Chart chart{.title = fmt::format("Relative difference to {}", study.arms.front().name),
              .note = "Of the smoothed losses: magnitude, mean over seeds.",
              .x_name = "step",
              .unit = Chart::Unit::kPercent,
              .series = {}};
  for (size_t a = 1; a < study.arms.size(); ++a) {
    std::vector<double> gap(static_cast<size_t>(study.steps));
    for (size_t s = 0; s < study.seeds.size(); ++s)
      for (size_t i = 0; i < gap.size(); ++i) {
        const double reference = study.runs[0][s].smoothed[i];
        gap[i] += std::fabs(study.runs[a][s].smoothed[i] - reference) / reference / static_cast<double>(study.seeds.size());
      }
    chart.series.push_back(curve(study.arms[a].name, gap));
  }
  return chart;
}

}  // namespace

Arm bf16_arm() {
  return {"bf16", {"precision=\"bf16\""}};
}

Arm fp8_arm() {
  return {"fp8", {"precision=\"fp8\""}};
}

fs::path arm_directory(const ExperimentRequest& request, const Arm& arm, int64_t seed) {
  return request.directory / "runs" / fmt::format("{}-seed{}", arm.name, seed);
}

Recipe arm_recipe(const ExperimentRequest& request, const Arm& arm, int64_t seed, int64_t steps) {
  std::vector<std::string> overrides = arm.overrides;
  overrides.push_back(fmt::format("seed={}", seed));
  Recipe recipe = read_recipe(find_recipe(request.recipe), overrides);
  TrainRecipe& t = recipe.train;
  const double share = static_cast<double>(steps) / static_cast<double>(t.steps);
  for (int64_t* tokens :
       {&t.constant_tokens, &t.cosine_tokens, &t.last_tokens, &t.batch_ramp_tokens, &t.mtp_lambda_tokens, &t.bias_speed_tokens})
    *tokens = std::llround(static_cast<double>(*tokens) * share);
  t.warmup_steps = std::min(t.warmup_steps, std::max<int64_t>(1, steps / 10));
  t.steps = steps;
  t.checkpoint_steps = std::max<int64_t>(1, steps / 4);
  t.checkpoints_kept = 1;
  t.heldout_steps = steps;
  t.sample_steps = 0;
  t.ema_decay = 0;
  return recipe;
}

TrainedArm train_arm(const ExperimentRequest& request, const Arm& arm, int64_t seed, int64_t steps, const Stream& stream) {
  RunRequest run;
  run.recipe = arm_recipe(request, arm, seed, steps);
  for (const std::string& data : request.data) run.data.push_back(parse_data_spec(data));
  run.directory = arm_directory(request, arm, seed);
  run.resume = has_run(run.directory, run.recipe);
  const PreparedRun prepared = prepare_run(run, stream);
  if (run.resume && read_history(run.directory).step >= steps) {
    info("{}: complete already", run.directory.string());
  } else {
    info("\n{}: {} steps", run.directory.string(), steps);
    Trainer trainer(prepared, {}, run.resume, stream);
    if (trainer.train().interrupted) fail("interrupted: the same command goes on from here");
  }
  return read_arm(run.directory, steps);
}

std::vector<double> smooth_losses(const std::vector<double>& loss) {
  std::vector<double> smoothed;
  double mean = NAN;
  for (const double x : loss) {
    if (std::isnan(mean))
      mean = x;
    else if (std::isfinite(x))
      mean = kSmoothing * mean + (1 - kSmoothing) * x;
    smoothed.push_back(mean);
  }
  return smoothed;
}

LossGap loss_gap(const TrainedArm& a, const TrainedArm& b) {
  CHECK(a.smoothed.size() == b.smoothed.size() && !a.smoothed.empty());
  LossGap gap;
  const size_t begin = a.smoothed.size() / 2;
  const auto steps = static_cast<double>(a.smoothed.size() - begin);
  for (size_t i = begin; i < a.smoothed.size(); ++i) {
    const double relative = (a.smoothed[i] - b.smoothed[i]) / b.smoothed[i];
    gap.mean_magnitude += std::fabs(relative) / steps;
    gap.mean += relative / steps;
  }
  return gap;
}

LossGap LossStudy::mean_gap(size_t arm) const {
  LossGap mean;
  for (size_t s = 0; s < seeds.size(); ++s) {
    const LossGap gap = loss_gap(runs[arm][s], runs[0][s]);
    mean.mean_magnitude += gap.mean_magnitude / static_cast<double>(seeds.size());
    mean.mean += gap.mean / static_cast<double>(seeds.size());
  }
  return mean;
}

std::optional<double> LossStudy::mean_heldout(size_t arm) const {
  double mean = 0;
  for (const TrainedArm& run : runs[arm]) {
    if (!run.heldout_loss) return std::nullopt;
    mean += *run.heldout_loss / static_cast<double>(seeds.size());
  }
  return mean;
}

LossStudy study_losses(const ExperimentRequest& request, std::vector<Arm> arms, const Stream& stream) {
  LossStudy study{.arms = std::move(arms), .seeds = {1, 2, 3}, .steps = request.steps.value_or(kDefaultSteps), .runs = {}};
  if (request.quick) study.seeds = {1};
  study.runs.resize(study.arms.size());
  // Recipes first: a mistake in the last arm is told before the first one has trained.
  for (const Arm& arm : study.arms) arm_recipe(request, arm, study.seeds.front(), study.steps);
  for (const int64_t seed : study.seeds)
    for (size_t a = 0; a < study.arms.size(); ++a)
      study.runs[a].push_back(train_arm(request, study.arms[a], seed, study.steps, stream));
  return study;
}

void add_losses(const ExperimentRequest& request, const LossStudy& study, ExperimentResult& result) {
  const std::string& reference = study.arms.front().name;
  result.settings = {{"recipe", fs::path(request.recipe).stem().string()},
                     {"steps", study.steps},
                     {"seeds", study.seeds},
                     {"difference", "|loss − reference| / reference of losses smoothed with 0.9, mean over the second half"}};
  for (const Arm& arm : study.arms) result.settings["arms"][arm.name] = arm.overrides;
  TextTable table;
  table.title = fmt::format("Losses and their difference to {}", reference);
  table.note = "last smoothed loss, held-out loss, mean magnitude and mean of the relative difference over the second half";
  table.columns = {"arm", "seed", "loss", "held-out", "magnitude", "signed", "skipped steps"};
  result.rows = nlohmann::ordered_json::array();
  for (size_t a = 0; a < study.arms.size(); ++a)
    for (size_t s = 0; s < study.seeds.size(); ++s) {
      const TrainedArm& run = study.runs[a][s];
      const LossGap gap = loss_gap(run, study.runs[0][s]);
      const double last = run.smoothed.back();
      table.rows.push_back({study.arms[a].name, std::to_string(study.seeds[s]), loss_text(last), loss_text(run.heldout_loss),
                            a == 0 ? "–" : percent(gap.mean_magnitude), a == 0 ? "–" : percent(gap.mean),
                            std::to_string(run.skipped)});
      nlohmann::ordered_json row = {{"arm", study.arms[a].name}, {"seed", study.seeds[s]}, {"loss", last}};
      if (run.heldout_loss) row["heldout_loss"] = *run.heldout_loss;
      row["skipped"] = run.skipped;
      if (a > 0) {
        row["reference"] = reference;
        row["mean_magnitude"] = gap.mean_magnitude;
        row["mean"] = gap.mean;
      }
      result.rows.push_back(std::move(row));
    }
  result.tables.push_back(std::move(table));
  log_table(result.tables.back());
  result.charts.push_back(gap_chart(study));
  result.charts.push_back(loss_chart(study));
}

}  // namespace rorqual
