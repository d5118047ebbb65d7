// What one rank does before every layer to choose copies, at the size of a decode unit (report §3.4.2): 256 experts in 320
// slots on 320 GPUs of 40 nodes, 64k tokens in all with 8 experts each, hence 205 tokens of its own. BM_ReplicaRank times all
// three parts on one core: counting its own cells, solving the split, handing out its own tokens. The sums of the cell counts
// over ranks are communication and not timed. BM_ReplicaCluster does the work of all ranks in one process.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "base/rng.h"
#include "plan/expert_placement.h"
#include "plan/replica_bound.h"
#include "plan/replica_dispatch.h"

namespace rorqual {
namespace {

constexpr int64_t kExperts = 256, kGroups = 8, kTop = 8, kTopGroups = 4, kGpus = 320, kPerNode = 8, kTokens = 65536;

// Tokens whose experts follow a skewed popularity, at most 4 of 8 groups each, as V3 routes.
struct Workload {
  std::vector<std::vector<int32_t>> expert;  // [gpus]
  std::vector<TokenChoices> choices;
  ReplicaMap map;
  std::vector<int64_t> total;                // [cells]
  std::vector<std::vector<int64_t>> before;  // [gpus][cells]

  Workload(double skew, int64_t slots, int64_t groups, int64_t gpus) {
    std::vector<double> weight;
    for (uint64_t e = 0; e < kExperts; ++e) weight.push_back(skew * random_normal({1, RandomPurpose::kTest, 1}, e));
    std::vector<float> load(kExperts);
    for (int64_t g = 0; g < gpus; ++g) {
      expert.emplace_back();
      for (int64_t t = g * kTokens / gpus; t < (g + 1) * kTokens / gpus; ++t) add_token(weight, static_cast<uint64_t>(t), load);
    }
    // Yesterday's loads, so that the batch is not what the placement was made for.
    for (uint64_t e = 0; e < kExperts; ++e)
      load[e] *= static_cast<float>(std::exp(0.1 * random_normal({1, RandomPurpose::kTest, 3}, e)));
    map = replica_map(place_experts(load, {kExperts, slots, groups, gpus / kPerNode, gpus}), gpus, kPerNode);
    total.assign(static_cast<size_t>(map.cells()), 0);
    for (int64_t g = 0; g < gpus; ++g) {
      choices.push_back({expert[static_cast<size_t>(g)], kTop, g});
      before.push_back(total);
      const std::vector<int64_t> own = count_cells(map, choices.back());
      for (size_t c = 0; c < total.size(); ++c) total[c] += own[c];
    }
  }

  void add_token(const std::vector<double>& weight, uint64_t t, std::vector<float>& load) {
    std::vector<std::pair<double, int32_t>> key;
    std::vector<std::pair<double, int64_t>> group;
    for (uint64_t e = 0; e < kExperts; ++e) {
      const double u = random_uniform({1, RandomPurpose::kTest, 2}, t * kExperts + e);
      key.emplace_back(weight[e] - std::log(-std::log(u + 1e-300)), static_cast<int32_t>(e));
    }
    constexpr size_t kSize = kExperts / kGroups;
    for (size_t g = 0; g < kGroups; ++g) {
      const auto begin = key.begin() + static_cast<std::ptrdiff_t>(g * kSize);
      std::vector<std::pair<double, int32_t>> best(2);
      std::partial_sort_copy(begin, begin + kSize, best.begin(), best.end(), std::greater<>());
      group.emplace_back(-best[0].first - best[1].first, static_cast<int64_t>(g));
    }
    std::sort(group.begin(), group.end());
    std::vector<std::pair<double, int32_t>> allowed;
    for (size_t g = 0; g < kTopGroups; ++g) {
      const auto begin = key.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(group[g].second) * kSize);
      allowed.insert(allowed.end(), begin, begin + kSize);
    }
    std::partial_sort(allowed.begin(), allowed.begin() + kTop, allowed.end(), std::greater<>());
    std::vector<int32_t> chosen;
    for (size_t k = 0; k < kTop; ++k) chosen.push_back(allowed[k].second);
    std::sort(chosen.begin(), chosen.end());
    for (const int32_t e : chosen) ++load[static_cast<size_t>(e)];
    expert.back().insert(expert.back().end(), chosen.begin(), chosen.end());
  }
};

// Argument 0: the decode unit (320 slots on 320 GPUs, global placement). Argument 1: a prefill unit (288 slots on 32 GPUs of 4
// nodes, groups kept on nodes), where the 64k tokens are 2048 for each GPU.
const Workload& workload(int64_t kind) {
  static std::map<int64_t, Workload> made;
  const auto found = made.find(kind);
  if (found != made.end()) return found->second;
  return made.emplace(kind, kind == 0 ? Workload(1, 320, kGroups, kGpus) : Workload(1, 288, kGroups, 32)).first->second;
}

void report(benchmark::State& state, const Workload& w, const ReplicaDispatch& d) {
  std::vector<int64_t> first(d.split.gpu_load.size());  // all rows to their expert's first copy
  for (size_t b = 0; b < w.expert.size(); ++b) {
    for (const int32_t e : w.expert[b])
      ++first[static_cast<size_t>(w.map.gpu[static_cast<size_t>(w.map.option_begin[static_cast<size_t>(e)])])];
  }
  state.counters["largest_load"] = static_cast<double>(d.split.largest_load);
  state.counters["mean_load"] = static_cast<double>(kTokens * kTop) / static_cast<double>(w.map.gpus);
  state.counters["load_over_bound"] = static_cast<double>(d.split.largest_load) / static_cast<double>(d.split.load_lower_bound);
  state.counters["first_copies"] = static_cast<double>(*std::max_element(first.begin(), first.end()));
  state.counters["network_rows"] = static_cast<double>(d.network_rows);
  const int64_t bound = bound_network_rows(w.map, w.choices, d.split.largest_load, d.network_rows, 60);
  state.counters["network_over_bound"] = static_cast<double>(d.network_rows) / static_cast<double>(bound);
}

void BM_ReplicaCount(benchmark::State& state) {
  const Workload& w = workload(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(count_cells(w.map, w.choices[5]));
}
BENCHMARK(BM_ReplicaCount)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);

void BM_ReplicaSplit(benchmark::State& state) {
  const Workload& w = workload(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(split_cells(w.map, w.total));
  state.counters["cells"] = static_cast<double>(w.map.cells());
}
BENCHMARK(BM_ReplicaSplit)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);

void BM_ReplicaAssign(benchmark::State& state) {
  const Workload& w = workload(state.range(0));
  const ReplicaSplit split = split_cells(w.map, w.total);
  for (auto _ : state) benchmark::DoNotOptimize(assign_slots(w.map, split, w.choices[5], w.before[5]));
}
BENCHMARK(BM_ReplicaAssign)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);

void BM_ReplicaRank(benchmark::State& state) {
  const Workload& w = workload(state.range(0));
  size_t rank = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(count_cells(w.map, w.choices[rank]));
    benchmark::DoNotOptimize(assign_slots(w.map, split_cells(w.map, w.total), w.choices[rank], w.before[rank]));
    rank = (rank + 1) % w.choices.size();
  }
}
BENCHMARK(BM_ReplicaRank)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);

// Arguments: the unit, and 0 for a search by each GPU, 1 for one over all, 2 for none.
void BM_ReplicaCluster(benchmark::State& state) {
  const Workload& w = workload(state.range(0));
  const ReplicaSearch search = state.range(1) == 2 ? ReplicaSearch{0, 0, 0} : ReplicaSearch{};
  ReplicaDispatch d;
  for (auto _ : state) {
    d = dispatch_to_replicas(w.map, w.choices, state.range(1) == 1 ? SearchScope::kAll : SearchScope::kEachGpu, search);
  }
  report(state, w, d);
}
BENCHMARK(BM_ReplicaCluster)->ArgsProduct({{0, 1}, {0, 1, 2}})->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace rorqual
