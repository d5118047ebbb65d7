#include "plan/mesh.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"

namespace rorqual {
namespace {

TEST(Mesh, RanksOfV3) {
  const Mesh mesh = parse_mesh("pp=16,dp=2,ep=64");
  EXPECT_EQ(mesh.ranks(), 2048);
  EXPECT_EQ(mesh.nodes(), 256);
  EXPECT_EQ(mesh.batches(), 128);
  EXPECT_EQ(to_string(mesh), "pp=16,dp=2,ep=64");
  EXPECT_EQ(rank_of(mesh, {3, 1, 5}), (3 * 2 + 1) * 64 + 5);
  for (int64_t r = 0; r < mesh.ranks(); ++r) EXPECT_EQ(rank_of(mesh, place_of(mesh, r)), r);
  EXPECT_EQ(node_of(mesh, 63), 7);
  // An expert-parallel group fills 8 nodes (report §3.2).
  const std::vector<int64_t> group = dispatch_group(mesh, 200);
  EXPECT_EQ(group.size(), 64u);
  EXPECT_EQ(node_of(mesh, group.back()) - node_of(mesh, group.front()), 7);
}

// Groups of the same kind divide all ranks among them.
TEST(Mesh, GroupsPartition) {
  const Mesh mesh = parse_mesh("pp=2,dp=3,ep=8,tp=4,sp=4");
  const std::map<std::string, std::pair<std::vector<int64_t> (*)(const Mesh&, int64_t), size_t>> kinds = {
      {"pipeline", {pipeline_group, 2}},
      {"dense", {dense_group, 24}},
      {"expert", {expert_group, 3}},
      {"dispatch", {dispatch_group, 8}},
      {"tensor", {tensor_group, 4}}};
  for (const auto& [name, kind] : kinds) {
    SCOPED_TRACE(name);
    for (int64_t r = 0; r < mesh.ranks(); ++r) {
      const std::vector<int64_t> group = kind.first(mesh, r);
      ASSERT_EQ(group.size(), kind.second);
      EXPECT_TRUE(std::is_sorted(group.begin(), group.end()));
      EXPECT_TRUE(std::binary_search(group.begin(), group.end(), r));
      for (const int64_t other : group) EXPECT_EQ(kind.first(mesh, other), group);
    }
  }
}

TEST(Mesh, EvenStages) {
  EXPECT_EQ(even_stages(61, 16).back(), 61);
  EXPECT_EQ(even_stages(7, 3), (std::vector<int64_t>{0, 3, 5, 7}));
  EXPECT_EQ(even_stages(2, 4), (std::vector<int64_t>{0, 1, 2, 2, 2}));
}

// Whatever the layout, over all ranks: every (batch, stage) is computed somewhere, each shard of each stage's optimizer state
// exists exactly once, and every expert slot of a stage is held by expert_shards ranks.
TEST(Mesh, EveryTensorHasItsOwners) {
  for (const StageLayout layout : {StageLayout::kSingle, StageLayout::kDualPipe, StageLayout::kDualPipeV}) {
    for (const char* text : {"pp=1", "pp=4,dp=2,ep=4,per_node=2", "pp=2,ep=8,tp=4"}) {
      const Mesh mesh = parse_mesh(text);
      if (layout == StageLayout::kDualPipe && mesh.pp % 2 != 0) continue;
      SCOPED_TRACE(text);
      const int64_t stages = stage_count(layout, mesh.pp), slots = 2 * mesh.ep;
      const std::vector<int64_t> begin = even_stages(13, stages);
      std::map<std::pair<int64_t, int64_t>, int64_t> dense, computed;
      std::map<std::array<int64_t, 3>, int64_t> experts;  // (stage, slot, shard)
      for (int64_t r = 0; r < mesh.ranks(); ++r) {
        const RankHoldings held = holdings_of(mesh, layout, begin, slots, r);
        EXPECT_EQ(held.node, r / mesh.ranks_per_node);
        EXPECT_EQ(held.slots.size(), 2);
        for (const HeldStage& s : held.stages) {
          EXPECT_EQ(s.embedding, s.stage == 0);
          EXPECT_EQ(s.head, s.stage == stages - 1);
          EXPECT_EQ(s.layers, (IndexRange{begin[static_cast<size_t>(s.stage)], begin[static_cast<size_t>(s.stage) + 1]}));
          ++dense[{s.stage, s.dense_shard}];
          ++computed[{s.stage, held.batch}];
          for (int64_t slot = held.slots.begin; slot < held.slots.end; ++slot) ++experts[{s.stage, slot, s.expert_shard}];
        }
      }
      const int64_t copies = layout == StageLayout::kDualPipe ? 2 : 1;
      EXPECT_EQ(static_cast<int64_t>(dense.size()), stages * copies * mesh.dp * mesh.ep);
      EXPECT_EQ(static_cast<int64_t>(computed.size()), stages * mesh.batches());
      EXPECT_EQ(static_cast<int64_t>(experts.size()), stages * slots * copies * mesh.dp);
      for (const auto& [key, n] : dense) EXPECT_EQ(n, 1);
      for (const auto& [key, n] : experts) EXPECT_EQ(n, 1);
      for (const auto& [key, n] : computed) EXPECT_EQ(n, copies * mesh.tensor);
    }
  }
}

TEST(Mesh, ShardsAndLanesCoverEverythingOnce) {
  for (const int64_t elements : {0, 1, 127, 128, 1000, 4096}) {
    for (const int64_t shards : {1, 3, 8}) {
      int64_t at = 0;
      for (int64_t s = 0; s < shards; ++s) {
        const IndexRange range = shard_range(elements, s, shards, 128);
        EXPECT_EQ(range.begin, at);
        EXPECT_TRUE(range.begin % 128 == 0 || range.begin == elements);
        at = range.end;
      }
      EXPECT_EQ(at, elements);
    }
  }
  const Mesh mesh = parse_mesh("dp=2,ep=2");
  EXPECT_EQ(lanes_of(mesh, 8, 0), (IndexRange{0, 2}));
  EXPECT_EQ(lanes_of(mesh, 8, 3), (IndexRange{6, 8}));
  EXPECT_THROW(lanes_of(mesh, 2, 0), Error);
}

TEST(Mesh, RefusesWhatCannotBe) {
  const auto message = [](const char* text) -> std::string {
    try {
      parse_mesh(text);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kUsage);
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(message("ep=32,tp=4,sp=4"), "");  // a prefill unit: TP4 by DP8, EP32
  EXPECT_EQ(parse_mesh("ep=32,tp=4").batches(), 8);
  EXPECT_NE(message("pp=2,xx=3").find("'xx' is no axis"), std::string::npos);
  EXPECT_NE(message("pp").find("needs a number"), std::string::npos);
  EXPECT_NE(message("pp=2,pp=3").find("twice"), std::string::npos);
  EXPECT_NE(message("pp=0").find("needs a number"), std::string::npos);
  EXPECT_NE(message("pp=8x").find("needs a number"), std::string::npos);
  EXPECT_NE(message("pp=1048576,dp=1048576,ep=1048576").find("more than"), std::string::npos);
  EXPECT_NE(message("ep=6,tp=4").find("divide ep"), std::string::npos);
  EXPECT_NE(message("ep=16,tp=16").find("tp must divide the 8 ranks"), std::string::npos);
  EXPECT_NE(message("ep=8,tp=4,sp=2").find("sp is 1 or tp"), std::string::npos);
  EXPECT_NE(message("ep=12").find("multiple of them"), std::string::npos);
  EXPECT_THROW(holdings_of(parse_mesh("ep=4"), StageLayout::kSingle, {0, 1}, 6, 0), Error);
}

}  // namespace
}  // namespace rorqual
