#include "sim/failures.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"

namespace rorqual {

RunEstimate simulate_run(double step_seconds, int64_t steps, int64_t devices, const FailureModel& f) {
  CHECK(step_seconds > 0 && steps > 0 && devices > 0);
  if (!std::isfinite(f.mtbf_hours) || f.mtbf_hours <= 0)
    fail_usage("a mean time between failures of {} hours: give more than 0", f.mtbf_hours);
  if (f.checkpoint_steps < 1) fail_usage("{} steps between checkpoints: give at least 1", f.checkpoint_steps);
  if (!(f.restart_seconds >= 0) || !(f.checkpoint_seconds >= 0)) fail_usage("restart and checkpoint take 0 seconds or more");
  constexpr int64_t kMostFailures = 10'000'000;
  const double mean = f.mtbf_hours * 3600 / static_cast<double>(devices);
  const RandomKey key{.seed = f.seed, .purpose = RandomPurpose::kSimulate, .layer = 2};
  RunEstimate run;
  const auto next_failure = [&] { return -std::log1p(-random_uniform(key, static_cast<uint64_t>(run.failures))) * mean; };
  double failure = next_failure();
  int64_t saved = 0;  // steps that are in a checkpoint
  while (saved < steps) {
    const int64_t part = std::min(f.checkpoint_steps, steps - saved);
    const double length = static_cast<double>(part) * step_seconds + f.checkpoint_seconds;
    if (run.seconds + length <= failure) {
      run.seconds += length;
      saved += part;
      continue;
    }
    if (++run.failures > kMostFailures)
      fail_usage("{} devices that fail every {} hours never finish {} steps between checkpoints", devices, f.mtbf_hours, part);
    run.seconds = failure + f.restart_seconds;
    failure = run.seconds + next_failure();
  }
  run.goodput = static_cast<double>(steps) * step_seconds / run.seconds;
  return run;
}

}  // namespace rorqual
