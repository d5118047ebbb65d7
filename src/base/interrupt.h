// Ctrl-C and SIGTERM as a flag: a run finishes its step, saves and leaves.
#pragma once

namespace rorqual {

// While one lives, SIGINT and SIGTERM set the flag; a second SIGINT ends the process at once.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  static bool interrupted();
};

}  // namespace rorqual
