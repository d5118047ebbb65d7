#include "plan/replica_dispatch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"
#include "plan/expert_placement.h"
#include "plan/replica_bound.h"

namespace rorqual {
namespace {

size_t at(int64_t i) {
  return static_cast<size_t>(i);
}

// Tokens of every GPU whose experts are drawn without return, expert e with weight exp(skew * normal).
struct Batch {
  std::vector<std::vector<int32_t>> expert;  // [gpus]
  std::vector<TokenChoices> choices;
  std::vector<float> load;  // [experts]

  Batch(int64_t experts, int64_t gpus, int64_t tokens_per_gpu, int64_t top_k, double skew, uint64_t seed) : load(at(experts)) {
    std::vector<double> weight;
    for (int64_t e = 0; e < experts; ++e)
      weight.push_back(skew * random_normal({seed, RandomPurpose::kTest, 1}, static_cast<uint64_t>(e)));
    for (int64_t g = 0; g < gpus; ++g) {
      expert.emplace_back();
      for (int64_t t = 0; t < tokens_per_gpu; ++t) {
        std::vector<std::pair<double, int32_t>> key;  // the Gumbel trick
        for (int64_t e = 0; e < experts; ++e) {
          const double u = random_uniform({seed, RandomPurpose::kTest, static_cast<uint64_t>(2 + g)},
                                          static_cast<uint64_t>(t * experts + e));
          key.emplace_back(-weight[at(e)] + std::log(-std::log(u + 1e-300)), static_cast<int32_t>(e));
        }
        std::partial_sort(key.begin(), key.begin() + top_k, key.end());
        std::vector<int32_t> chosen;
        for (int64_t k = 0; k < top_k; ++k) chosen.push_back(key[at(k)].second);
        std::sort(chosen.begin(), chosen.end());
        for (const int32_t e : chosen) ++load[at(e)];
        expert.back().insert(expert.back().end(), chosen.begin(), chosen.end());
      }
    }
    for (int64_t g = 0; g < gpus; ++g) choices.push_back({expert[at(g)], top_k, g});
  }
};

struct Measured {
  int64_t largest = 0, network = 0;
};

// From the slots alone; every choice is on a copy of its expert.
Measured measure(const Placement& placement, const ReplicaMap& map, const Batch& batch, const ReplicaDispatch& d) {
  std::vector<int64_t> load(at(map.gpus));
  Measured out;
  for (size_t b = 0; b < batch.choices.size(); ++b) {
    EXPECT_EQ(d.slot[b].size(), batch.expert[b].size());
    for (size_t i = 0; i < d.slot[b].size(); ++i) {
      EXPECT_EQ(placement.expert_of_slot[at(d.slot[b][i])], batch.expert[b][i]);
      ++load[at(d.slot[b][i] / (placement.slots / map.gpus))];
    }
    out.network += count_network_rows(map, batch.choices[b], d.slot[b]);
  }
  out.largest = *std::max_element(load.begin(), load.end());
  return out;
}

// Every way to choose copies: the least largest load, and the fewest rows that cross nodes among those that reach it.
class BruteForce {
 public:
  BruteForce(const ReplicaMap& map, const Batch& batch) : map_(map), load_(at(map.gpus)), best_{INT64_MAX, INT64_MAX} {
    for (const TokenChoices& c : batch.choices) {
      for (size_t i = 0; i < c.expert.size(); ++i) {
        expert_.push_back(c.expert[i]);
        own_.push_back(c.gpu / map.gpus_per_node);
        first_.push_back(i % at(c.top_k) == 0);
      }
    }
    choose(0, 0, 0, 0);
  }
  Measured best() const { return best_; }

 private:
  void choose(size_t i, int64_t largest, int64_t network, uint64_t nodes) {
    if (largest > best_.largest || (largest == best_.largest && network >= best_.network)) return;
    if (i == expert_.size()) {
      best_ = {largest, network};
      return;
    }
    if (first_[i]) nodes = uint64_t{1} << own_[i];
    const size_t e = at(expert_[i]);
    for (auto o = at(map_.option_begin[e]); o < at(map_.option_begin[e + 1]); ++o) {
      const uint64_t bit = uint64_t{1} << map_.node(o);
      int64_t& load = load_[at(map_.gpu[o])];
      ++load;
      choose(i + 1, std::max(largest, load), network + ((nodes & bit) == 0), nodes | bit);
      --load;
    }
  }

  const ReplicaMap& map_;
  std::vector<int32_t> expert_;
  std::vector<int64_t> own_;
  std::vector<char> first_;
  std::vector<int64_t> load_;
  Measured best_;
};

// Copies wherever chance puts them, each expert at least once.
Placement random_placement(int64_t experts, int64_t slots, uint64_t seed) {
  std::vector<int32_t> expert;
  for (int64_t s = 0; s < slots; ++s) {
    const auto drawn = random_below({seed, RandomPurpose::kTest, 9}, static_cast<uint64_t>(s), static_cast<uint64_t>(experts));
    expert.push_back(static_cast<int32_t>(s < experts ? s : static_cast<int64_t>(drawn)));
  }
  for (size_t i = expert.size(); i-- > 1;) {
    std::swap(expert[i], expert[random_below({seed, RandomPurpose::kTest, 10}, i, i + 1)]);
  }
  return replicated_placement(std::move(expert), experts, 1);
}

struct SmallCase {
  int64_t experts, slots, gpus, per_node, tokens, top_k;
};

TEST(ReplicaDispatch, AgreesWithBruteForceOnSmallCases) {
  constexpr SmallCase kCases[] = {
      {4, 8, 4, 2, 2, 2}, {6, 8, 4, 2, 3, 2}, {4, 6, 6, 2, 2, 2}, {6, 12, 4, 1, 2, 3}, {5, 8, 8, 2, 1, 2}};
  int64_t found = 0, found_each = 0, least = 0, bounds = 0;
  for (const SmallCase& c : kCases) {
    for (uint64_t seed = 0; seed < 60; ++seed) {
      SCOPED_TRACE(testing::Message() << c.experts << " experts, " << c.slots << " slots, " << c.gpus << " GPUs, seed "
                                      << seed);
      const Batch batch(c.experts, c.gpus, c.tokens, c.top_k, 1, seed);
      const Placement placement = random_placement(c.experts, c.slots, seed);
      const ReplicaMap map = replica_map(placement, c.gpus, c.per_node);
      const Measured best = BruteForce(map, batch).best();
      const ReplicaDispatch all = dispatch_to_replicas(map, batch.choices, SearchScope::kAll, {8, 6, 256});
      const ReplicaDispatch each = dispatch_to_replicas(map, batch.choices, SearchScope::kEachGpu);
      for (const ReplicaDispatch* d : {&all, &each}) {
        const Measured m = measure(placement, map, batch, *d);
        EXPECT_EQ(m.largest, best.largest);
        EXPECT_EQ(d->split.largest_load, best.largest);
        EXPECT_LE(d->split.load_lower_bound, best.largest);
        EXPECT_EQ(m.network, d->network_rows);
        EXPECT_LE(d->network_lower_bound, best.network);
        EXPECT_GE(m.network, best.network);
      }
      const int64_t bound = bound_network_rows(map, batch.choices, best.largest, all.network_rows, 30);
      EXPECT_LE(bound, best.network);
      bounds += bound;
      found += all.network_rows;
      found_each += each.network_rows;
      least += best.network;
    }
  }
  RecordProperty("network_rows_bound", std::to_string(bounds));
  RecordProperty("network_rows_least", std::to_string(least));
  RecordProperty("network_rows_all", std::to_string(found));
  RecordProperty("network_rows_each", std::to_string(found_each));
  EXPECT_GE(static_cast<double>(bounds), 0.9 * static_cast<double>(least));
  EXPECT_LE(static_cast<double>(found), 1.02 * static_cast<double>(least));
  EXPECT_LE(static_cast<double>(found_each), 1.02 * static_cast<double>(least));
}

// Exact also where brute force cannot look: no set of experts has more rows than its GPUs can take at one row less each.
TEST(ReplicaDispatch, LargestLoadIsTight) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const Batch batch(10, 8, 40, 3, 1.5, seed);
    const Placement placement = random_placement(10, 16, seed);
    const ReplicaMap map = replica_map(placement, 8, 4);
    const ReplicaDispatch d = dispatch_to_replicas(map, batch.choices, SearchScope::kEachGpu);
    EXPECT_EQ(measure(placement, map, batch, d).largest, d.split.largest_load);
    // Hall's condition by enumerating the sets of GPUs: experts whose copies are all inside must fit there.
    int64_t bound = 0;
    for (uint32_t set = 1; set < 256; ++set) {
      int64_t rows = 0, gpus = 0;
      for (int g = 0; g < 8; ++g) gpus += set >> g & 1;
      for (int64_t e = 0; e < 10; ++e) {
        bool inside = true;
        for (auto o = at(map.option_begin[at(e)]); o < at(map.option_begin[at(e) + 1]); ++o)
          inside &= (set >> map.gpu[o] & 1) != 0;
        if (inside) rows += static_cast<int64_t>(batch.load[at(e)]);
      }
      bound = std::max(bound, (rows + gpus - 1) / gpus);
    }
    EXPECT_EQ(d.split.largest_load, bound) << "seed " << seed;
  }
}

TEST(ReplicaDispatch, ManyGpusConserveEveryChoiceAndBalance) {
  const Batch batch(64, 16, 32, 8, 1, 3);
  const Placement placement = place_experts(batch.load, {64, 96, 1, 1, 16});
  const ReplicaMap map = replica_map(placement, 16, 4);
  for (const SearchScope scope : {SearchScope::kEachGpu, SearchScope::kAll}) {
    const ReplicaDispatch d = dispatch_to_replicas(map, batch.choices, scope);
    const Measured m = measure(placement, map, batch, d);
    EXPECT_EQ(m.largest, d.split.largest_load);
    EXPECT_GE(m.network, d.network_lower_bound);
    // The search only ever lowers the rows that cross nodes.
    EXPECT_LE(m.network, dispatch_to_replicas(map, batch.choices, scope, {0, 0, 0}).network_rows);
    EXPECT_EQ(dispatch_to_replicas(map, batch.choices, scope).slot, d.slot);
  }
}

TEST(ReplicaDispatch, WithoutCopiesEveryExpertKeepsItsSlot) {
  const Batch batch(16, 4, 8, 4, 1, 5);
  const Placement placement = identity_placement(16, 1);
  const ReplicaDispatch d = dispatch_to_replicas(replica_map(placement, 4, 2), batch.choices, SearchScope::kEachGpu);
  for (size_t b = 0; b < batch.expert.size(); ++b) EXPECT_EQ(d.slot[b], batch.expert[b]);
  EXPECT_EQ(d.network_rows, d.network_lower_bound);
  EXPECT_EQ(d.split.largest_load, d.split.load_lower_bound);
}

TEST(ReplicaDispatch, PassesOverMissingChoices) {
  const std::vector<int32_t> expert = {0, -1, 1, -1, -1, -1};
  const ReplicaMap map = replica_map(replicated_placement({0, 1, 1, 0}, 2, 1), 4, 2);
  const std::vector<TokenChoices> batches = {{expert, 2, 0}};
  const ReplicaDispatch d = dispatch_to_replicas(map, batches, SearchScope::kEachGpu);
  EXPECT_EQ(d.slot[0], (std::vector<int32_t>{0, -1, 1, -1, -1, -1}));  // both have a copy on the own node
  EXPECT_EQ(d.network_rows, 0);
}

}  // namespace
}  // namespace rorqual
