// What GET /metrics tells, in Prometheus' text format: latencies of requests by model, beside the engines' own figures.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "serve/engine.h"

namespace rorqual {

// Cumulative buckets of seconds.
class LatencyHistogram {
 public:
  static constexpr std::array<double, 16> kBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                     0.5,   1,      2.5,   5,    10,    30,   60,  300};
  void add(double seconds);
  int64_t count() const { return count_; }
  // The lines of the metric `name` with the label model="…".
  std::string text(const std::string& name, const std::string& model) const;

 private:
  std::array<int64_t, kBounds.size()> buckets_{};  // not cumulative
  int64_t count_ = 0;
  double sum_ = 0;
};

struct ModelLatencies {
  LatencyHistogram first_token, inter_token, request;
};

// The server's thread alone.
class ServeMetrics {
 public:
  ModelLatencies& of(const std::string& model) { return latencies_[model]; }
  void count_answer(int status) { ++answers_[status]; }

  struct Served {
    std::string model;
    EngineStats stats;
  };
  std::string text(const std::vector<Served>& models, int64_t connections) const;

 private:
  std::map<std::string, ModelLatencies> latencies_;
  std::map<int, int64_t> answers_;
};

// Memory that this process holds now.
int64_t resident_bytes();

}  // namespace rorqual
