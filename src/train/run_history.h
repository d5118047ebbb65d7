// What RUN/metrics.jsonl and RUN/samples.jsonl tell, as series over steps, small enough to be drawn.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace rorqual {

// Values over steps, in the order of steps. NaN: the step has no finite value.
struct Series {
  std::vector<double> step, value;
  size_t size() const { return step.size(); }
  void add(double s, double v) {
    step.push_back(s);
    value.push_back(v);
  }
};

// At most `most` points (at least 2). Of each run of neighbours the least and the largest value stay, at their own steps.
Series downsample(const Series& series, size_t most);
// Mean of the finite values of the steps around each, as many before as after: no lag, and the ends stay themselves.
Series smooth(const Series& series, size_t steps_each_side);

// Expert load, largest over mean, of each MoE block over time. Columns hold several steps where there are many.
struct LoadMap {
  std::vector<double> first_step, last_step;  // of each column
  std::vector<std::vector<double>> mean;      // [block][column]; NaN: no value
  std::vector<std::vector<double>> most;      // the largest value of the column
};

struct SampleLine {
  int64_t step = 0;
  std::string prompt, text;
};

struct RunHistory {
  int64_t step = 0, tokens = 0;           // of the last line
  double seconds = 0;                     // sum over steps of their own time
  std::map<std::string, Series> series;   // by the key of metrics.jsonl; bias_low and bias_high for bias_range
  std::vector<double> skipped;            // steps without an update
  std::vector<std::vector<double>> load;  // [line][block], largest over mean; empty without experts
  std::vector<double> load_step;
  std::vector<SampleLine> samples;
  nlohmann::ordered_json quantised;  // what the FP8 quantisers saw, of the last line that says; else null
  int64_t quantised_step = 0;

  // nullptr where the run has no such values.
  const Series* find(const std::string& key) const;
  LoadMap load_map(size_t most_columns) const;
};

// Missing files are empty (a run before its first step). Error (runtime) names file and line of damage; a torn last line is
// left out.
RunHistory read_history(const std::filesystem::path& run);

}  // namespace rorqual
