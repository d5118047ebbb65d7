#include "train/report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "base/html.h"
#include "model/tensor_list.h"
#include "train/recipe.h"
#include "train/report_page.h"
#include "train/report_quantisers.h"
#include "train/run.h"
#include "train/run_history.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

// What bounds the page, whatever the length of the run.
constexpr size_t kMostPoints = 1000;     // of a series
constexpr size_t kMostSkipped = 200;     // marks of skipped steps
constexpr size_t kMostLoadCells = 6000;  // of the heat map
constexpr size_t kMostLoadColumns = 160;
constexpr size_t kMostSampleSteps = 24;
constexpr size_t kMostSampleBytes = 2000;  // of one text
constexpr size_t kTableRows = 20;
// A smoothed line over fewer steps says nothing that the raw one does not.
constexpr size_t kFewestSmoothed = 20;
constexpr size_t kMostStepsEachSide = 100;

// At most `bytes` of it, cut between characters.
std::string_view shortened(std::string_view text, size_t bytes) {
  if (text.size() <= bytes) return text;
  size_t end = bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end);
}

std::string with_unit(double value) {
  static constexpr std::pair<double, const char*> kUnits[] = {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}};
  for (const auto& [unit, name] : kUnits)
    if (value >= unit) return fmt::format("{:.3g}{}", value / unit, name);
  return fmt::format("{:.4g}", value);
}

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{:.1f} s", seconds);
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  return fmt::format("{} h {} min", s / 3600, s / 60 % 60);
}

double last_value(const RunHistory& h, const char* key) {
  const Series* s = h.find(key);
  return s == nullptr || s->size() == 0 ? NAN : s->value.back();
}

std::string loss_text(double loss) {
  return std::isfinite(loss) ? fmt::format("{:.4f}", loss) : "not finite";
}

double median_of(const Series& series) {
  std::vector<double> values;
  for (const double v : series.value)
    if (std::isfinite(v)) values.push_back(v);
  if (values.empty()) return NAN;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The figures at the head of the page: a term, its value, and a note in small print.
std::string figures_html(const RunHistory& h, const Recipe& recipe, const ParameterCount& p) {
  std::string html;
  auto figure = [&](std::string_view term, const std::string& value, const std::string& note) {
    html += fmt::format("<div><dt>{}</dt><dd>{}{}</dd></div>\n", term, escape_html(value),
                        note.empty() ? "" : " <small>" + escape_html(note) + "</small>");
  };
  figure("Steps", fmt::format("{}", h.step), fmt::format("of {}", recipe.train.steps));
  figure("Tokens", with_unit(static_cast<double>(h.tokens)),
         h.seconds > 0 ? fmt::format("in {} of steps", duration(h.seconds)) : "");
  if (h.find("loss") != nullptr) figure("Training loss", loss_text(last_value(h, "loss")), "last step, nats per token");
  if (const Series* heldout = h.find("heldout_loss")) {
    const double loss = heldout->value.back();
    figure("Held-out loss", loss_text(loss), fmt::format("step {:.0f}, nats per token", heldout->step.back()));
    if (std::isfinite(loss))
      figure("Held-out bits", fmt::format("{:.4f}", loss / std::log(2.0)),
             fmt::format("per token; perplexity {:.4g}", std::exp(loss)));
  }
  figure("Parameters", with_unit(static_cast<double>(p.total)),
         fmt::format("{} active per token{}", with_unit(static_cast<double>(p.active)),
                     p.mtp > 0 ? fmt::format(", {} more in MTP", with_unit(static_cast<double>(p.mtp))) : ""));
  if (const Series* rate = h.find("tokens_per_s"); rate != nullptr && std::isfinite(median_of(*rate)))
    figure("Throughput", with_unit(median_of(*rate)), "tokens/s, median");
  figure("Precision", recipe.formats.precision, fmt::format("sequences of {} tokens", recipe.train.sequence_length));
  if (!h.skipped.empty()) figure("Skipped steps", fmt::format("{}", h.skipped.size()), "loss or gradient out of range");
  return html;
}

// The main figures over time, for readers without scripts.
std::string table_html(const RunHistory& h) {
  static constexpr std::pair<const char*, const char*> kColumns[] = {
      {"loss", "loss"},        {"heldout_loss", "held-out"},   {"mtp_loss", "MTP"},
      {"lr", "learning rate"}, {"grad_norm", "gradient norm"}, {"tokens_per_s", "tokens/s"}};
  const Series* loss = h.find("loss");
  if (loss == nullptr) return "<p>The run has no steps yet.</p>\n";
  std::set<double> steps;
  for (size_t i = 0; i < kTableRows; ++i) steps.insert(loss->step[i * (loss->size() - 1) / (kTableRows - 1)]);
  if (const Series* heldout = h.find("heldout_loss"))
    for (size_t i = 0; i < kTableRows; ++i) steps.insert(heldout->step[i * (heldout->size() - 1) / (kTableRows - 1)]);
  std::string html = "<table><caption>Figures over time</caption><thead><tr><th scope=\"col\">step</th>";
  for (const auto& [key, name] : kColumns)
    if (h.find(key) != nullptr) html += fmt::format("<th scope=\"col\">{}</th>", name);
  html += "</tr></thead><tbody>\n";
  for (const double step : steps) {
    html += fmt::format("<tr><th scope=\"row\">{:.0f}</th>", step);
    for (const auto& [key, name] : kColumns) {
      const Series* s = h.find(key);
      if (s == nullptr) continue;
      const auto at = std::lower_bound(s->step.begin(), s->step.end(), step);
      const double value = at != s->step.end() && *at == step ? s->value[static_cast<size_t>(at - s->step.begin())] : NAN;
      html += std::isfinite(value) ? fmt::format("<td>{:.5g}</td>", value) : "<td>–</td>";
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table>\n";
}

// Newest first; of many sampled steps an even choice, the first and the last among them.
std::string samples_html(const RunHistory& h) {
  std::vector<int64_t> steps;
  for (const SampleLine& s : h.samples)
    if (steps.empty() || steps.back() != s.step) steps.push_back(s.step);
  if (steps.empty()) return "<p>The run has written no samples.</p>\n";
  std::set<int64_t, std::greater<>> shown;
  const size_t most = std::min(steps.size(), kMostSampleSteps);
  for (size_t i = 0; i < most; ++i) shown.insert(steps[most == 1 ? 0 : i * (steps.size() - 1) / (most - 1)]);
  std::string html;
  if (shown.size() < steps.size())
    html += fmt::format("<p class=\"note\">{} of {} sampled steps are shown.</p>\n", shown.size(), steps.size());
  for (const int64_t step : shown) {
    html += fmt::format("<article class=\"sample\"><h3>Step {}</h3>\n", step);
    for (const SampleLine& s : h.samples) {
      if (s.step != step) continue;
      const std::string_view text = shortened(s.text, kMostSampleBytes);
      html += fmt::format("<blockquote dir=\"auto\"><b>{}</b>{}{}</blockquote>\n",
                          escape_html(shortened(s.prompt, kMostSampleBytes)), escape_html(text),
                          text.size() < s.text.size() ? "<i> (cut)</i>" : "");
    }
    html += "</article>\n";
  }
  return html;
}

// Six digits are more than a screen shows.
Json rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  return std::stod(fmt::format("{:.6g}", value));
}

Json rounded(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double v : values) list.push_back(rounded(v));
  return list;
}

Json series_json(const Series& series) {
  const Series small = downsample(series, kMostPoints);
  Json j;
  j["step"] = Json::array();
  for (const double s : small.step) j["step"].push_back(static_cast<int64_t>(s));
  j["value"] = rounded(small.value);
  return j;
}

Json load_json(const RunHistory& h, const ModelConfig& model, const TensorList& tensors) {
  if (h.load.empty()) return nullptr;
  std::vector<std::string> names;  // of the MoE blocks, in the order of load_max_over_mean
  for (const TensorSpec& spec : tensors.specs()) {
    if (spec.role != Role::kRouter) continue;
    const int64_t layer = spec.layer;
    names.push_back(layer < model.num_hidden_layers ? fmt::format("layer {}", layer)
                                                    : fmt::format("MTP {}", layer - model.num_hidden_layers + 1));
  }
  const size_t blocks = h.load.front().size();
  if (names.size() != blocks) fail("metrics.jsonl holds the load of {} MoE blocks, the recipe has {}", blocks, names.size());
  if (blocks == 0) return nullptr;
  const LoadMap map = h.load_map(std::clamp(kMostLoadCells / blocks, size_t{20}, kMostLoadColumns));
  Json j;
  j["blocks"] = names;
  j["first"] = rounded(map.first_step);
  j["last"] = rounded(map.last_step);
  j["mean"] = Json::array();
  j["most"] = Json::array();
  for (const auto& row : map.mean) j["mean"].push_back(rounded(row));
  for (const auto& row : map.most) j["most"].push_back(rounded(row));
  return j;
}

Json data_json(const RunHistory& h, const Recipe& recipe, const TensorList& tensors) {
  Json j;
  j["steps"] = h.step;
  Json series = Json::object(), skipped_steps = Json::array();
  for (const auto& [key, values] : h.series) {
    if (key == "mtp_loss" && recipe.model.num_nextn_predict_layers == 0) continue;  // it is 0 at every step
    series[key] = series_json(values);
    if ((key != "loss" && key != "mtp_loss") || values.size() < kFewestSmoothed) continue;
    const size_t side = std::clamp(values.size() / 100, size_t{2}, kMostStepsEachSide);
    series[key + "_smooth"] = series_json(smooth(values, side));
    j["smoothed_steps"] = 2 * side + 1;
  }
  j["series"] = std::move(series);
  Series skipped;
  for (const double step : h.skipped) skipped.add(step, 0);
  for (const double step : downsample(skipped, kMostSkipped).step) skipped_steps.push_back(static_cast<int64_t>(step));
  j["skipped"] = std::move(skipped_steps);
  j["load"] = load_json(h, recipe.model, tensors);
  return j;
}

// The last component of a directory, also of "runs/first/" and ".".
std::string directory_name(const std::filesystem::path& directory) {
  std::filesystem::path path = std::filesystem::absolute(directory).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  return path.filename().string();
}

}  // namespace

void write_report(const std::filesystem::path& run, const std::filesystem::path& out) {
  if (!std::filesystem::exists(run / "recipe.toml"))
    fail("{} is no run directory: it has no recipe.toml. Name the directory that `rorqual train --out` wrote", run.string());
  Recipe recipe = run_recipe(run);
  // The page may be shown to anyone: where things lie on this machine is nobody's business.
  if (const std::filesystem::path tokenizer = recipe.tokenizer.path; tokenizer.is_absolute())
    recipe.tokenizer.path = directory_name(tokenizer);
  const RunHistory history = read_history(run);
  const TensorList tensors(recipe.model);
  write_file_atomically(
      out, fill_template(
               kReportPage,
               {{"title", escape_html(directory_name(run))},
                {"figures", figures_html(history, recipe, tensors.parameters())},
                {"table", table_html(history)},
                {"quantisers", quantisers_html(history.quantised, history.quantised_step, recipe.model)},
                {"samples", samples_html(history)},
                {"recipe", escape_html(print_recipe(recipe))},
                {"data",
                 json_for_script(data_json(history, recipe, tensors).dump(-1, ' ', false, Json::error_handler_t::replace))}}));
}

}  // namespace rorqual
