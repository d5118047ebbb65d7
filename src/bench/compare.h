// How speeds are compared: contestants take turns in one process, and what counts is the median of the ratios inside a turn,
// because the speed of a shared machine drifts by more than contestants differ.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace rorqual {

// Does one unit of work; `i` counts calls, so that a contestant can go round through copies of its operands.
using Contestant = std::function<void(int64_t i)>;

struct CompareSettings {
  int rounds = 7;
  double batch_s = 30e-3;  // a turn: calls until about this long, at least one
  double settle_s = 0;     // idle before a turn: the threads of the contestant before may still spin
  // Time of the calling thread alone, for contestants that have no other: the same as elapsed time on an idle machine, and
  // what other processes take is left out on a busy one.
  bool thread_time = false;
};

struct Comparison {
  std::vector<double> seconds;             // of one call, median over rounds, by contestant
  std::vector<std::vector<double>> round;  // [contestant][round]
  // Median over rounds of seconds(a) / seconds(b): how many times as fast b is.
  double ratio(size_t a, size_t b) const;
};

Comparison compare(std::span<const Contestant> contestants, const CompareSettings& settings);

double median(std::vector<double> values);

}  // namespace rorqual
