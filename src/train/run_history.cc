#include "train/run_history.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "train/metrics.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr const char* kSeriesKeys[] = {"loss",      "heldout_loss",    "mtp_loss",   "balance_loss", "lr",
                                       "grad_norm", "batch_sequences", "mtp_lambda", "tokens_per_s"};

// A line of a file, for messages.
struct Place {
  std::string path;
  size_t line;
};

double number(const Json& value, const char* key, const Place& place) {
  if (value.is_null()) return kNaN;
  if (!value.is_number()) fail("{}:{}: \"{}\" is no number", place.path, place.line, key);
  return value.get<double>();
}

int64_t count(const Json& line, const char* key, const Place& place) {
  const auto found = line.find(key);
  if (found == line.end() || !found->is_number_integer() || found->get<int64_t>() < 0)
    fail("{}:{}: \"{}\" is missing, or no count", place.path, place.line, key);
  return found->get<int64_t>();
}

std::vector<double> numbers(const Json& value, const char* key, const Place& place) {
  if (!value.is_array()) fail("{}:{}: \"{}\" is no list", place.path, place.line, key);
  std::vector<double> result;
  for (const Json& element : value) result.push_back(number(element, key, place));
  return result;
}

void add_line(RunHistory& history, const Json& line, const Place& place) {
  const int64_t step = count(line, "step", place);
  if (step <= history.step) fail("{}:{}: step {} does not follow step {}", place.path, place.line, step, history.step);
  history.step = step;
  history.tokens = count(line, "tokens", place);
  const auto x = static_cast<double>(step);
  for (const char* key : kSeriesKeys)
    if (line.contains(key)) history.series[key].add(x, number(line[key], key, place));
  if (line.contains("step_ms")) {
    const double ms = number(line["step_ms"], "step_ms", place);
    if (std::isfinite(ms)) history.seconds += ms / 1e3;
  }
  if (line.contains("skipped")) {
    if (!line["skipped"].is_boolean()) fail("{}:{}: \"skipped\" is neither true nor false", place.path, place.line);
    if (line["skipped"].get<bool>()) history.skipped.push_back(x);
  }
  if (line.contains("load_max_over_mean")) {
    std::vector<double> load = numbers(line["load_max_over_mean"], "load_max_over_mean", place);
    if (!history.load.empty() && load.size() != history.load.front().size())
      fail("{}:{}: \"load_max_over_mean\" has {} blocks, {} before", place.path, place.line, load.size(),
           history.load.front().size());
    history.load.push_back(std::move(load));
    history.load_step.push_back(x);
  }
  if (line.contains("quantised")) {
    if (!line["quantised"].is_object()) fail("{}:{}: \"quantised\" is no object", place.path, place.line);
    history.quantised = line["quantised"];
    history.quantised_step = step;
  }
  if (line.contains("bias_range")) {
    const std::vector<double> range = numbers(line["bias_range"], "bias_range", place);
    if (range.size() != 2) fail("{}:{}: \"bias_range\" does not hold two numbers", place.path, place.line);
    history.series["bias_low"].add(x, range[0]);
    history.series["bias_high"].add(x, range[1]);
  }
}

std::string text(const Json& line, const char* key, const Place& place) {
  const auto found = line.find(key);
  if (found == line.end() || !found->is_string()) fail("{}:{}: \"{}\" is missing, or no text", place.path, place.line, key);
  return found->get<std::string>();
}

std::vector<Json> lines_of(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return {};
  return read_json_lines(path);
}

}  // namespace

Series downsample(const Series& series, size_t most) {
  CHECK(most >= 2, "{} points", most);
  if (series.size() <= most) return series;
  Series result;
  const size_t runs = most / 2;
  for (size_t run = 0; run < runs; ++run) {
    const size_t begin = run * series.size() / runs, end = (run + 1) * series.size() / runs;
    size_t least = begin, largest = begin;
    for (size_t i = begin; i < end; ++i) {
      const double v = series.value[i];
      if (!(v >= series.value[least])) {  // also where that one is NaN
        if (std::isfinite(v)) least = i;
      }
      if (!(v <= series.value[largest])) {
        if (std::isfinite(v)) largest = i;
      }
    }
    const size_t first = std::min(least, largest), second = std::max(least, largest);
    result.add(series.step[first], series.value[first]);
    if (second != first) result.add(series.step[second], series.value[second]);
  }
  return result;
}

Series smooth(const Series& series, size_t steps_each_side) {
  const size_t n = series.size();
  Series result;
  for (size_t i = 0; i < n; ++i) {
    const size_t side = std::min({steps_each_side, i, n - 1 - i});
    double sum = 0;  // of this window alone: a single huge value must not spoil the rest by cancellation
    size_t values = 0;
    for (size_t j = i - side; j <= i + side; ++j) {
      if (!std::isfinite(series.value[j])) continue;
      sum += series.value[j];
      ++values;
    }
    result.add(series.step[i], values > 0 ? sum / static_cast<double>(values) : kNaN);
  }
  return result;
}

const Series* RunHistory::find(const std::string& key) const {
  const auto found = series.find(key);
  return found == series.end() ? nullptr : &found->second;
}

LoadMap RunHistory::load_map(size_t most_columns) const {
  LoadMap map;
  if (load.empty() || load.front().empty()) return map;
  const size_t columns = std::min(load.size(), most_columns), blocks = load.front().size();
  map.mean.assign(blocks, std::vector<double>(columns, kNaN));
  map.most = map.mean;
  for (size_t c = 0; c < columns; ++c) {
    const size_t begin = c * load.size() / columns, end = (c + 1) * load.size() / columns;
    map.first_step.push_back(load_step[begin]);
    map.last_step.push_back(load_step[end - 1]);
    for (size_t b = 0; b < blocks; ++b) {
      double sum = 0, most = -std::numeric_limits<double>::infinity();
      size_t values = 0;
      for (size_t i = begin; i < end; ++i) {
        if (!std::isfinite(load[i][b])) continue;
        sum += load[i][b];
        most = std::max(most, load[i][b]);
        ++values;
      }
      if (values == 0) continue;
      map.mean[b][c] = sum / static_cast<double>(values);
      map.most[b][c] = most;
    }
  }
  return map;
}

RunHistory read_history(const std::filesystem::path& run) {
  RunHistory history;
  const std::filesystem::path metrics = run / "metrics.jsonl", samples = run / "samples.jsonl";
  size_t number_of_line = 0;
  for (const Json& line : lines_of(metrics)) add_line(history, line, {metrics.string(), ++number_of_line});
  number_of_line = 0;
  for (const Json& line : lines_of(samples)) {
    const Place place{samples.string(), ++number_of_line};
    history.samples.push_back({count(line, "step", place), text(line, "prompt", place), text(line, "text", place)});
  }
  return history;
}

}  // namespace rorqual
