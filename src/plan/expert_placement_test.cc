#include "plan/expert_placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"

namespace rorqual {
namespace {

using nlohmann::json;

class Eplb : public testing::TestWithParam<const char*> {};

TEST_P(Eplb, MatchesGolden) {
  const json golden = json::parse(read_file(std::string("tests/golden/eplb_") + GetParam() + ".json"));
  PlacementShape shape{0, golden["num_replicas"], golden["num_groups"], golden["num_nodes"], golden["num_gpus"]};
  for (size_t layer = 0; layer < golden["weight"].size(); ++layer) {
    SCOPED_TRACE(layer);
    const auto load = golden["weight"][layer].get<std::vector<float>>();
    shape.experts = static_cast<int64_t>(load.size());
    const Placement p = place_experts(load, shape);
    EXPECT_EQ(json(p.expert_of_slot), golden["phy2log"][layer]);
    for (size_t e = 0; e < load.size(); ++e) {
      const auto copies = p.copies(static_cast<int64_t>(e));
      std::vector<int32_t> row(copies.begin(), copies.end());
      EXPECT_EQ(json(row.size()), golden["logcnt"][layer][e]);
      row.resize(golden["log2phy"][layer][e].size(), -1);
      EXPECT_EQ(json(row), golden["log2phy"][layer][e]) << "expert " << e;
    }
    // The golden is rounded to six places and summed in FP32: 8 to 9 slots on a GPU, relative 9 * 2^-24.
    EXPECT_NEAR(max_over_mean(gpu_loads(load, p, shape.gpus)), golden["max_over_mean_gpu_load"][layer].get<double>(), 2e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, Eplb, testing::Values("readme", "seed1_prefill_ep32", "seed4_ties_small"),
                         [](const auto& test) { return std::string(test.param); });

// Loads as routing gives them: log-normal, with some experts idle and some equal.
std::vector<float> random_loads(int64_t experts, uint64_t seed) {
  std::vector<float> load;
  for (int64_t e = 0; e < experts; ++e) {
    const double kind = random_uniform({seed, RandomPurpose::kTest, 1}, static_cast<uint64_t>(e));
    const double heavy =
        std::floor(100 * std::exp(1.2 * random_normal({seed, RandomPurpose::kTest, 2}, static_cast<uint64_t>(e))));
    load.push_back(kind < 0.1 ? 0.f : kind < 0.2 ? 50.f : static_cast<float>(heavy));
  }
  return load;
}

constexpr PlacementShape kShapes[] = {{16, 16, 4, 2, 4},      {16, 24, 4, 2, 4},     {64, 80, 8, 4, 16}, {256, 288, 8, 4, 32},
                                      {256, 320, 8, 40, 320}, {256, 256, 8, 8, 256}, {12, 30, 3, 2, 6},  {8, 64, 1, 1, 16}};

TEST(ExpertPlacement, KeepsItsPromisesForRandomLoads) {
  for (const PlacementShape& shape : kShapes) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      SCOPED_TRACE(testing::Message() << shape.experts << " experts, " << shape.replicas << " replicas, " << shape.nodes
                                      << " nodes, seed " << seed);
      const std::vector<float> load = random_loads(shape.experts, seed);
      const Placement p = place_experts(load, shape);
      // Every slot is filled and no expert is lost: the two tables are each other's inverse.
      ASSERT_EQ(p.slots, shape.replicas);
      std::set<int32_t> slots;
      float heaviest_copy = 0;
      for (int64_t e = 0; e < shape.experts; ++e) {
        ASSERT_FALSE(p.copies(e).empty());
        for (const int32_t s : p.copies(e)) {
          EXPECT_EQ(p.expert_of_slot[static_cast<size_t>(s)], e);
          slots.insert(s);
        }
        heaviest_copy = std::max(heaviest_copy, load[static_cast<size_t>(e)] / static_cast<float>(p.copies(e).size()));
      }
      EXPECT_EQ(static_cast<int64_t>(slots.size()), shape.replicas);
      EXPECT_LE(heaviest_copy, *std::max_element(load.begin(), load.end()));
      // The load is conserved. Sums of at most 320 quotients in double.
      const std::vector<double> gpus = gpu_loads(load, p, shape.gpus);
      const double total = std::accumulate(load.begin(), load.end(), 0.0);
      EXPECT_NEAR(std::accumulate(gpus.begin(), gpus.end(), 0.0), total, 1e-12 * total);
      if (!shape.hierarchical()) continue;
      for (int64_t e = 0; e < shape.experts; ++e) {  // a group stays on one node
        const int64_t first = e - e % (shape.experts / shape.groups), node_slots = shape.replicas / shape.nodes;
        for (const int32_t s : p.copies(e)) EXPECT_EQ(s / node_slots, p.copies(first)[0] / node_slots);
      }
    }
  }
}

TEST(ExpertPlacement, ReplicatesWhatIsHeaviestPerCopy) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const std::vector<float> load = random_loads(24, seed);
    const detail::Replication r = detail::replicate(load, 40);
    // No expert with two copies or more would, with one copy fewer, stay below what another still carries per copy.
    float heaviest = 0;
    for (size_t e = 0; e < load.size(); ++e) heaviest = std::max(heaviest, load[e] / static_cast<float>(r.count[e]));
    for (size_t e = 0; e < load.size(); ++e) {
      if (r.count[e] == 1) continue;
      EXPECT_GE(load[e] / static_cast<float>(r.count[e] - 1), heaviest) << e;
    }
  }
}

TEST(ExpertPlacement, TiesGoToTheLowerIndex) {
  const std::vector<float> equal(8, 5.f);
  const detail::Packing packing = detail::pack_balanced(equal, 2);
  EXPECT_EQ(packing.pack, (std::vector<int32_t>{0, 1, 0, 1, 0, 1, 0, 1}));
  EXPECT_EQ(packing.rank, (std::vector<int32_t>{0, 0, 1, 1, 2, 2, 3, 3}));
  EXPECT_EQ(detail::replicate(equal, 11).expert, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2}));
  const std::vector<float> idle(4, 0.f);
  EXPECT_EQ(detail::replicate(idle, 6).expert, (std::vector<int32_t>{0, 1, 2, 3, 0, 0}));
}

TEST(ExpertPlacement, NamesTheRuleThatSizesBreak) {
  const auto message = [](const PlacementShape& shape) -> std::string {
    try {
      check_placement_shape(shape);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kUsage);
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(message({256, 288, 8, 4, 32}), "");
  EXPECT_EQ(message({256, 320, 8, 40, 320}), "");  // 8 groups do not divide over 40 nodes: global
  EXPECT_EQ(message({256, 320, 8, 3, 32}), "");
  EXPECT_NE(message({12, 16, 5, 1, 8}).find("12 experts do not divide over 5 groups"), std::string::npos);
  EXPECT_NE(message({12, 16, 4, 2, 5}).find("16 replicas do not divide over 5 GPUs"), std::string::npos);
  EXPECT_NE(message({12, 18, 4, 4, 6}).find("6 GPUs do not divide over 4 nodes"), std::string::npos);
  EXPECT_NE(message({12, 8, 4, 2, 8}).find("8 replicas cannot hold 12 experts"), std::string::npos);
  EXPECT_NE(message({12, 0, 4, 2, 8}).find("at least 1"), std::string::npos);
}

TEST(ExpertPlacement, MeasuresLoads) {
  const std::vector<float> load = {1, 2, 3, 4, 5, 6};
  EXPECT_EQ(contiguous_gpu_loads(load, 2), (std::vector<double>{6, 15}));
  EXPECT_EQ(contiguous_gpu_loads(load, 12), (std::vector<double>{1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0}));
  EXPECT_DOUBLE_EQ(max_over_mean(std::vector<double>{6, 15}), 15 / 10.5);
  EXPECT_EQ(max_over_mean(std::vector<double>{0, 0}), 1);
}

}  // namespace
}  // namespace rorqual
