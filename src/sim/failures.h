// A long run in which devices fail: what is left of its speed.
#pragma once

#include <cstdint>

namespace rorqual {

struct FailureModel {
  double mtbf_hours = 0;           // of one device, mean; failures are independent
  double restart_seconds = 600;    // until the run continues from its last checkpoint
  int64_t checkpoint_steps = 100;  // between checkpoints
  double checkpoint_seconds = 0;   // that one stops the run
  uint64_t seed = 1;
};

struct RunEstimate {
  double seconds = 0;
  int64_t failures = 0;
  double goodput = 0;  // steps · step_seconds / seconds
};

// Runs `steps` steps failure by failure: what was done since the last checkpoint is done again. Error (usage) where values
// cannot be, or where failures come so fast that the run does not end.
RunEstimate simulate_run(double step_seconds, int64_t steps, int64_t devices, const FailureModel& model);

}  // namespace rorqual
