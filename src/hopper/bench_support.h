// Timing of device code, and what to time it on. Calls are recorded into a graph, so that launching costs the CPU nothing, over
// several sets of inputs that together exceed the second-level cache many times; a figure is the median of many replays, taken
// by turns with those it is compared with.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "hopper/bench_support_job.h"
#include "hopper/runtime.h"

namespace rorqual::hopper {

// Fills the buffer, all but a rest of less than 16 bytes. The same seed gives the same bytes on every device.
void fill_random(const DeviceBuffer& buffer, Fill fill, uint64_t seed);

// One way to do the work: run(set, stream) queues one call on inputs number `set`.
struct Contender {
  std::string name;
  std::function<void(int set, DeviceStream stream)> run;
};

// Microseconds of one call: median over the replays, and the bounds of the middle 80%.
struct Times {
  double median = 0, low = 0, high = 0;
};

struct ContestOptions {
  int sets = 1;
  int rounds = 21;          // replays of each contender
  double replay_us = 4000;  // aimed at; a replay has at least one call per set
  int most_calls = 1024;    // in a replay
};
// In the order of the contenders. On the emulator each runs once.
std::vector<Times> contest(std::span<const Contender> contenders, const ContestOptions& options);

// How many sets of `bytes` each put three times the second-level cache between two uses of one: 1 to 64.
int sets_past_cache(int64_t bytes);

// Bytes read and written per second by a copy of 1 GiB on the device, measured once: what passes over memory are held against.
double copy_bandwidth();

// Microseconds from one kernel of a graph to the next where they do nothing: part of every figure, and not taken off.
double launch_gap_us();

}  // namespace rorqual::hopper
