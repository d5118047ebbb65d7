#include "sim/mesh_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "sim/sim_test_support.h"

namespace rorqual {
namespace {

// A small model with experts; its needs are made up, a memory that depends on the mesh is all that the search asks for.
MeshSearch small_search() {
  MeshSearch s;
  s.cluster = load_cluster("h800");
  s.cluster.ranks = 16;
  const Recipe& recipe = small_recipe();
  s.model = simulated_model(recipe);
  s.needs.hidden = recipe.model.hidden_size;
  s.needs.experts = recipe.model.n_routed_experts;
  s.needs.top_k = recipe.model.num_experts_per_tok;
  s.needs.rows = recipe.train.sequence_length;
  BlockNeeds block;
  block.kind = "experts";
  block.dense.elements = 1 << 20;
  block.expert.elements = 1 << 16;
  block.saved[PlanMemory::kActivations] = 1 << 20;
  s.needs.kinds = {block};
  s.needs.kind_of_layer.assign(static_cast<size_t>(recipe.model.num_hidden_layers), 0);
  s.batch_sequences = 64;
  s.device_bytes = s.cluster.device.memory_bytes;
  return s;
}

TEST(MeshSearch, TriesWhatBatchExpertsAndNodesAllow) {
  const std::vector<MeshCandidate> found = possible_meshes(small_search());
  std::set<std::string> names;
  for (const MeshCandidate& c : found) {
    EXPECT_EQ(c.mesh.ranks(), 16) << to_string(c.mesh);
    EXPECT_EQ(16 % c.mesh.ep, 0);
    EXPECT_LE(c.mesh.pp, 8);
    EXPECT_EQ(c.micro_batches, 64 / c.mesh.batches());
    EXPECT_TRUE(names.insert(to_string(c.mesh) + std::string(pipeline_kind_name(c.schedule))).second);
    if (c.schedule == PipelineKind::kDualPipe) {
      EXPECT_GE(c.micro_batches, 2 * c.mesh.pp);
    }
  }
  EXPECT_TRUE(names.contains("pp=1,dp=1,ep=161f1b"));
  EXPECT_TRUE(names.contains("pp=4,dp=1,ep=4dualpipe"));
  EXPECT_TRUE(names.contains("pp=2,dp=2,ep=4zb1p"));
  EXPECT_FALSE(names.contains("pp=1,dp=1,ep=16dualpipe"));  // one rank has nothing to overlap with
}

TEST(MeshSearch, FastestOfWhatFitsComesFirst) {
  MeshSearch search = small_search();
  const std::vector<MeshCandidate> all = search_meshes(search);
  EXPECT_EQ(all.size(), possible_meshes(search).size());
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_TRUE(all[i].fits);
    EXPECT_GT(all[i].step.step_seconds, 0);
    EXPECT_NE(all[i].limit, "");
    if (i > 0) {
      EXPECT_GE(all[i].step.step_seconds, all[i - 1].step.step_seconds);
    }
  }
  // A device that the median mesh just fills.
  std::vector<int64_t> bytes;
  for (const MeshCandidate& c : all) bytes.push_back(c.device_bytes);
  std::sort(bytes.begin(), bytes.end());
  search.device_bytes = bytes[bytes.size() / 2];
  const std::vector<MeshCandidate> some = search_meshes(search);
  const auto fits = std::count_if(some.begin(), some.end(), [](const MeshCandidate& c) { return c.fits; });
  EXPECT_EQ(fits, std::count_if(bytes.begin(), bytes.end(), [&](int64_t b) { return b <= search.device_bytes; }));
  for (size_t i = 0; i < some.size(); ++i) {
    EXPECT_EQ(some[i].fits, i < static_cast<size_t>(fits));
    EXPECT_EQ(some[i].limit == "memory", !some[i].fits);
    if (i > static_cast<size_t>(fits)) {
      EXPECT_GE(some[i].device_bytes, some[i - 1].device_bytes);
    }
  }
}

}  // namespace
}  // namespace rorqual
