#include "bench/compare.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "base/clock.h"
#include "base/error.h"

namespace rorqual {

namespace {
double thread_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
}  // namespace

double median(std::vector<double> values) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double Comparison::ratio(size_t a, size_t b) const {
  std::vector<double> ratios;
  for (size_t r = 0; r < round[a].size(); ++r) ratios.push_back(round[a][r] / round[b][r]);
  return median(std::move(ratios));
}

Comparison compare(std::span<const Contestant> contestants, const CompareSettings& settings) {
  std::vector<int64_t> calls, next(contestants.size());
  const auto turn = [&](size_t c, int64_t n) {
    const auto now = settings.thread_time ? thread_seconds : seconds_now;
    const double begin_s = now();
    for (int64_t i = 0; i < n; ++i) contestants[c](next[c]++);
    return (now() - begin_s) / static_cast<double>(n);
  };
  for (size_t c = 0; c < contestants.size(); ++c) {
    turn(c, 1);  // faults pages, fills scratch
    const double one_s = turn(c, 1);
    calls.push_back(std::max<int64_t>(1, std::llround(settings.batch_s / one_s)));
  }
  Comparison result;
  result.round.resize(contestants.size());
  for (int r = 0; r < settings.rounds; ++r) {
    for (size_t c = 0; c < contestants.size(); ++c) {
      if (settings.settle_s > 0) std::this_thread::sleep_for(std::chrono::duration<double>(settings.settle_s));
      if (calls[c] > 1) turn(c, std::max<int64_t>(1, calls[c] / 8));  // its own warm-up: clock, threads, caches
      result.round[c].push_back(turn(c, calls[c]));
    }
  }
  for (const auto& times : result.round) result.seconds.push_back(median(times));
  return result;
}

}  // namespace rorqual
