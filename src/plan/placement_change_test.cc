#include "plan/placement_change.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"

namespace rorqual {
namespace {

std::vector<float> random_loads(int64_t experts, uint64_t seed, double skew) {
  std::vector<float> load;
  for (uint64_t e = 0; e < static_cast<uint64_t>(experts); ++e) {
    load.push_back(static_cast<float>(std::floor(1000 * std::exp(skew * random_normal({seed, RandomPurpose::kTest, 1}, e)))));
  }
  return load;
}

double largest(std::span<const float> load, const Placement& p, int64_t gpus) {
  const std::vector<double> loads = gpu_loads(load, p, gpus);
  return *std::max_element(loads.begin(), loads.end());
}

int64_t total_moves(const Placement& from, const Placement& to, int64_t gpus) {
  const std::vector<int64_t> moved = moved_slots(from, to, gpus);
  return std::accumulate(moved.begin(), moved.end(), int64_t{0});
}

TEST(PlacementChange, CountsWhatAGpuMustFetch) {
  const Placement from = replicated_placement({0, 1, 2, 3, 0, 0}, 4, 1), to = replicated_placement({1, 0, 3, 0, 2, 0}, 4, 1);
  EXPECT_EQ(moved_slots(from, to, 3), (std::vector<int64_t>{0, 1, 1}));  // inside a GPU slots change places for nothing
  EXPECT_EQ(moved_slots(from, from, 2), (std::vector<int64_t>{0, 0}));
}

TEST(PlacementChange, RenumberingUndoesARenumbering) {
  const PlacementShape shape{64, 80, 8, 4, 16};
  const Placement p = place_experts(random_loads(64, 1, 1), shape);
  // Nodes backward, GPUs of a node backward, slots of a GPU backward: all slots backward.
  const Placement turned = replicated_placement({p.expert_of_slot.rbegin(), p.expert_of_slot.rend()}, 64, 1);
  EXPECT_GT(total_moves(p, turned, 16), 40);
  EXPECT_EQ(keep_in_place(p, turned, 16, 4).expert_of_slot, p.expert_of_slot);
}

class Near : public testing::TestWithParam<PlacementShape> {};

TEST_P(Near, KeepsItsBudgetAndNeverLoses) {
  const PlacementShape shape = GetParam();
  for (uint64_t seed = 0; seed < 6; ++seed) {
    SCOPED_TRACE(seed);
    const Placement last = place_experts(random_loads(shape.experts, seed, 1), shape);
    const std::vector<float> load = random_loads(shape.experts, seed + 1000, 1);
    const double fresh = largest(load, place_experts(load, shape), shape.gpus), before = largest(load, last, shape.gpus);
    double less_budget = before;
    for (const int64_t budget : {int64_t{0}, int64_t{1}, int64_t{4}, shape.replicas / 4, shape.replicas}) {
      const Placement near = place_experts_near(load, shape, last, budget);
      EXPECT_LE(total_moves(last, near, shape.gpus), budget);
      const double now = largest(load, near, shape.gpus);
      EXPECT_LE(now, before);
      EXPECT_TRUE(budget > 0 || near.expert_of_slot == last.expert_of_slot);
      EXPECT_TRUE(budget < shape.replicas || now <= fresh);
      less_budget = std::min(less_budget, now);
      for (int64_t e = 0; e < shape.experts; ++e) EXPECT_FALSE(near.copies(e).empty());
      if (!shape.hierarchical()) continue;
      const int64_t size = shape.experts / shape.groups, node_slots = shape.replicas / shape.nodes;
      for (int64_t e = 0; e < shape.experts; ++e) {
        for (const int32_t s : near.copies(e)) EXPECT_EQ(s / node_slots, near.copies(e - e % size)[0] / node_slots);
      }
    }
    EXPECT_LT(less_budget, before);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Near,
                         testing::Values(PlacementShape{16, 24, 4, 2, 4}, PlacementShape{32, 40, 1, 1, 8},
                                         PlacementShape{64, 72, 8, 4, 8}),
                         [](const auto& test) { return "Experts" + std::to_string(test.param.experts); });

// All placements with at most `budget` moved slots, tried one by one. The greedy search is held to 1% over the sum of all cases
// and 15% in each.
void compare_with_all_placements(const PlacementShape& shape, uint64_t seeds) {
  const auto slots = static_cast<size_t>(shape.replicas);
  int64_t codes = 1;
  for (size_t s = 0; s < slots; ++s) codes *= shape.experts;
  double found = 0, least = 0;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    const Placement last = place_experts(random_loads(shape.experts, seed, 1), shape);
    const std::vector<float> load = random_loads(shape.experts, seed + 500, 1);
    std::vector<double> best(slots + 1, 1e300);
    for (int64_t code = 0; code < codes; ++code) {
      std::vector<int32_t> expert;
      uint32_t held = 0;
      for (int64_t rest = code; expert.size() < slots; rest /= shape.experts) {
        expert.push_back(static_cast<int32_t>(rest % shape.experts));
        held |= uint32_t{1} << expert.back();
      }
      if (held + 1 != uint32_t{1} << shape.experts) continue;
      const Placement p = replicated_placement(expert, shape.experts, 1);
      const double now = largest(load, p, shape.gpus);
      for (auto b = static_cast<size_t>(total_moves(last, p, shape.gpus)); b <= slots; ++b) best[b] = std::min(best[b], now);
    }
    for (size_t budget = 0; budget <= slots; ++budget) {
      const double now = largest(load, place_experts_near(load, shape, last, static_cast<int64_t>(budget)), shape.gpus);
      EXPECT_GE(now, best[budget] * (1 - 1e-12));
      EXPECT_LE(now, best[budget] * 1.15) << "seed " << seed << " budget " << budget;
      found += now;
      least += best[budget];
    }
  }
  testing::Test::RecordProperty("over_best_of_" + std::to_string(slots), std::to_string(found / least));
  EXPECT_LE(found, 1.01 * least);
}

TEST(PlacementChange, IsNearTheBestOfAllSmallPlacements) {
  compare_with_all_placements({5, 6, 1, 1, 3}, 12);
  compare_with_all_placements({4, 8, 1, 1, 4}, 4);
}

// Loads of a day: a fixed popularity times noise, which turns into another popularity after `turn` intervals.
std::vector<std::vector<float>> day(int64_t experts, int64_t intervals, int64_t turn, double skew, double noise) {
  std::vector<std::vector<float>> out;
  for (int64_t i = 0; i < intervals; ++i) {
    out.push_back(random_loads(experts, i < turn ? 7 : 8, skew));
    for (size_t e = 0; e < out.back().size(); ++e) {
      out.back()[e] *=
          static_cast<float>(std::exp(noise * random_normal({9, RandomPurpose::kTest, static_cast<uint64_t>(i)}, e)));
    }
  }
  return out;
}

constexpr PlacementShape kShape{32, 40, 4, 2, 8};

RebalanceModel cheap() {
  RebalanceModel model;
  model.seconds_per_row = 1e-3;
  model.bytes_per_expert = 1e6;
  model.bytes_per_second = 1e9;
  return model;
}

TEST(Rebalance, MovesOnceForASteadyLoadThenRests) {
  const auto history = day(32, 4, 100, 1, 0.02);
  const RebalanceDecision first =
      decide_rebalance(history, kShape, place_experts(std::vector<float>(32, 1.f), kShape), cheap());
  EXPECT_TRUE(first.rebalance);
  EXPECT_GT(first.trust, 0.8);
  EXPECT_GT(first.gain_seconds, first.cost_seconds);
  RebalanceModel dear = cheap();
  dear.bytes_per_expert = 3e9;  // 3 s for a slot; noise of 2% is not worth it
  EXPECT_FALSE(decide_rebalance(history, kShape, first.placement, dear).rebalance);
}

TEST(Rebalance, StaysWhenMovingCostsMoreThanItSaves) {
  RebalanceModel dear = cheap();
  dear.bytes_per_expert = 1e15;
  const RebalanceDecision d =
      decide_rebalance(day(32, 4, 100, 1, 0.02), kShape, place_experts(std::vector<float>(32, 1.f), kShape), dear);
  EXPECT_FALSE(d.rebalance);
  EXPECT_EQ(d.moves, 0);
}

TEST(Rebalance, DistrustsNoise) {
  // Every interval has a popularity of its own: yesterday says nothing of today.
  std::vector<std::vector<float>> noise, steady = day(32, 12, 100, 1, 0.02);
  for (uint64_t i = 0; i < 12; ++i) noise.push_back(random_loads(32, 100 + i, 1));
  const Placement current = place_experts(std::vector<float>(32, 1.f), kShape);
  const double trust = decide_rebalance(noise, kShape, current, cheap()).trust;
  EXPECT_LT(trust, 0.35);
  EXPECT_GT(decide_rebalance(steady, kShape, current, cheap()).trust, 0.9);
}

// A day with one turn of popularity: the policy costs less than never moving and than moving every time.
TEST(Rebalance, BeatsNeverAndAlwaysOverADay) {
  const auto loads = day(32, 30, 15, 1, 0.1);
  RebalanceModel model = cheap();
  model.bytes_per_expert = 1.5e9;
  const auto run = [&](auto&& decide) {
    Placement current = place_experts(std::vector<float>(32, 1.f), kShape);
    double seconds = 0;
    for (size_t i = 1; i < loads.size(); ++i) {
      const Placement next = decide(std::span(loads).first(i), current);
      const std::vector<int64_t> moved = moved_slots(current, next, kShape.gpus);
      seconds +=
          static_cast<double>(*std::max_element(moved.begin(), moved.end())) * model.bytes_per_expert / model.bytes_per_second;
      current = next;
      seconds += model.seconds_per_row * largest(loads[i], current, kShape.gpus);
    }
    return seconds;
  };
  const double never = run([](auto, const Placement& current) { return current; });
  const double always = run([](auto history, const Placement& current) {
    return keep_in_place(current, place_experts(history.back(), kShape), kShape.gpus, kShape.nodes);
  });
  const double policy = run([&](auto history, const Placement& current) {
    const auto recent = history.size() > 8 ? history.subspan(history.size() - 8) : history;
    return decide_rebalance(recent, kShape, current, model).placement;
  });
  RecordProperty("never_always_policy", std::to_string(never) + " " + std::to_string(always) + " " + std::to_string(policy));
  EXPECT_LT(policy, never);
  EXPECT_LT(policy, always);
}

}  // namespace
}  // namespace rorqual
