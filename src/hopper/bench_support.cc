#include "hopper/bench_support.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/error.h"

namespace rorqual::hopper {

void fill_random(const DeviceBuffer& buffer, Fill fill, uint64_t seed) {
  launch_fill(buffer.data(), static_cast<int64_t>(buffer.bytes() / 16), fill, seed);
}

namespace {

// The q-quantile of sorted values, q in [0, 1].
double quantile(const std::vector<double>& sorted, double q) {
  return sorted[static_cast<size_t>(std::lround(q * static_cast<double>(sorted.size() - 1)))];
}

double replay(const Graph& graph, Timer& timer) {
  timer.start();
  graph.launch();
  timer.stop();
  return timer.elapsed_ms() * 1000;
}

struct Recording {
  std::unique_ptr<Graph> graph;
  int calls = 0;
  Recording(const Contender& contender, int n, int sets) : calls(n) {
    graph = std::make_unique<Graph>([&contender, n, sets](DeviceStream stream) {
      for (int i = 0; i < n; ++i) contender.run(i % sets, stream);
    });
  }
};

// As many calls as take about as long as asked for; whole turns over the sets.
Recording record(const Contender& contender, const ContestOptions& options, Timer& timer) {
  if (is_emulated()) return {contender, 1, 1};
  contender.run(0, nullptr);  // loads the code
  synchronise();
  Recording first(contender, options.sets, options.sets);
  replay(*first.graph, timer);
  const double turn_us = std::max(replay(*first.graph, timer), 0.1);
  const int most_turns = std::max(1, options.most_calls / options.sets);
  const int turns = std::clamp(static_cast<int>(options.replay_us / turn_us), 1, most_turns);
  return turns == 1 ? std::move(first) : Recording(contender, turns * options.sets, options.sets);
}

}  // namespace

std::vector<Times> contest(std::span<const Contender> contenders, const ContestOptions& options) {
  Timer timer;
  std::vector<Recording> recordings;
  for (const Contender& contender : contenders) recordings.push_back(record(contender, options, timer));
  std::vector<std::vector<double>> samples(contenders.size());
  const int rounds = is_emulated() ? 1 : options.rounds;
  for (int round = 0; round < rounds; ++round)
    for (size_t i = 0; i < recordings.size(); ++i)
      samples[i].push_back(replay(*recordings[i].graph, timer) / recordings[i].calls);
  std::vector<Times> times;
  for (std::vector<double>& of_one : samples) {
    std::sort(of_one.begin(), of_one.end());
    times.push_back({quantile(of_one, 0.5), quantile(of_one, 0.1), quantile(of_one, 0.9)});
  }
  return times;
}

int sets_past_cache(int64_t bytes) {
  if (is_emulated()) return 1;
  constexpr int64_t kMostSets = 64;
  const int64_t past = 3 * device_info().l2_bytes;
  return static_cast<int>(std::clamp((past + bytes - 1) / std::max<int64_t>(bytes, 1) + 1, int64_t{1}, kMostSets));
}

double copy_bandwidth() {
  static const double once = [] {
    const size_t bytes = is_emulated() ? 1 << 16 : 1 << 30;
    const DeviceBuffer from(bytes), to(bytes);
    fill_random(from, Fill::kBf16, 1);
    const Contender copy{"copy", [&](int, DeviceStream stream) { copy_on_device(to.data(), from.data(), bytes, stream); }};
    return 2 * static_cast<double>(bytes) / (contest({&copy, 1}, {})[0].median * 1e-6);
  }();
  return once;
}

double launch_gap_us() {
  static const double once = [] {
    const Contender nothing{"nothing", [](int, DeviceStream stream) { launch_nothing(stream); }};
    return contest({&nothing, 1}, {})[0].median;
  }();
  return once;
}

}  // namespace rorqual::hopper
