// What the tests of pipeline schedules share.
#pragma once

#include <cstdint>

#include "base/rng.h"

namespace rorqual {

// A stream of numbers that a seed decides.
class TestRandom {
 public:
  explicit TestRandom(uint64_t seed) : key_{.seed = seed} {}
  double uniform(double low = 0, double high = 1) { return low + (high - low) * random_uniform(key_, position_++); }
  int below(int n) { return static_cast<int>(random_below(key_, position_++, static_cast<uint64_t>(n))); }

 private:
  RandomKey key_;
  uint64_t position_ = 0;
};

}  // namespace rorqual
