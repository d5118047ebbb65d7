#include "plan/memory.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace rorqual {
namespace {

constexpr int64_t kKiB = 1024;

// Sizes that are multiples of 64, so that sums are exact.
ModelNeeds small_needs(int64_t layers) {
  ModelNeeds n;
  n.hidden = 128;
  n.experts = 8;
  n.top_k = 2;
  n.rows = 64;
  BlockNeeds block;
  block.kind = "experts";
  block.dense.elements = 4096;
  block.dense.packed[PlanMemory::kFp8Weights] = 8 * kKiB;
  block.dense.unpacked[PlanMemory::kFullWeights] = 512;
  block.expert.elements = 1024;
  block.expert.packed[PlanMemory::kFp8Weights] = 2 * kKiB;
  block.saved[PlanMemory::kActivations] = 10 * kKiB;
  block.saved[PlanMemory::kLinearInputs] = 20 * kKiB;
  block.phases = {{"attention", block.saved}};
  block.forward_scratch = 3 * kKiB;
  block.backward_scratch = 5 * kKiB;
  block.scratch_with_head = 9 * kKiB;
  block.deferred = 7 * kKiB;
  block.saved_per_row[PlanMemory::kLinearInputs] = 128;
  block.forward_scratch_per_row = 10;
  block.backward_scratch_per_row = 20;
  n.kinds = {block};
  n.kind_of_layer.assign(static_cast<size_t>(layers), 0);
  n.embedding.elements = 16384;
  n.embedding.unpacked[PlanMemory::kBf16Weights] = 32 * kKiB;
  n.head.elements = 16384;
  n.head.packed[PlanMemory::kBf16Weights] = 64 * kKiB;
  n.head_saved[PlanMemory::kActivations] = kKiB;
  n.logits = 4 * kKiB;
  n.residual_bytes = 16 * kKiB;
  n.residual_gradient_bytes = 32 * kKiB;
  n.positions_bytes = 64;
  n.cache_bytes_per_token = 100;
  n.fp8 = true;
  n.averages = true;
  return n;
}

TEST(MemoryPlan, OneRankHoldsTheWholeModel) {
  const MemoryPlan plan = plan_memory(small_needs(3), {.micro_batches = 5, .cache_tokens = 7});
  ASSERT_EQ(plan.ranks.size(), 1u);
  const RankMemory& r = plan.ranks[0];
  const int64_t dense = 3 * 4096 + 2 * 16384, expert = 3 * 8 * 1024;
  const MemoryBytes& b = r.expected;
  EXPECT_EQ(b[PlanMemory::kMasterWeights], 4 * (dense + expert));
  EXPECT_EQ(b[PlanMemory::kGradients], 4 * (dense + expert));
  EXPECT_EQ(b[PlanMemory::kMoments], 2 * 2 * (dense + expert));
  EXPECT_EQ(b[PlanMemory::kEma], 4 * (dense + expert));
  EXPECT_EQ(b[PlanMemory::kSnapshot], (4 + 4 + 4) * (dense + expert));
  EXPECT_EQ(b[PlanMemory::kFp8Weights], 3 * (8 + 8 * 2) * kKiB);
  EXPECT_EQ(b[PlanMemory::kBf16Weights], 64 * kKiB);  // the embedding is read from the master
  EXPECT_EQ(b[PlanMemory::kFullWeights], 0);
  EXPECT_EQ(b[PlanMemory::kActivations], (16 + 3 * 10 + 1) * kKiB);
  EXPECT_EQ(b[PlanMemory::kLinearInputs], 3 * 20 * kKiB);
  EXPECT_EQ(b[PlanMemory::kScratch], 9 * kKiB + 64);
  EXPECT_EQ(b[PlanMemory::kLogits], 4 * kKiB);
  EXPECT_EQ(b[PlanMemory::kDeferred] + b[PlanMemory::kRoutedRows] + b[PlanMemory::kCommunication], 0);
  EXPECT_EQ(b[PlanMemory::kCache], 7 * 3 * 100);
  EXPECT_EQ(r.peak_activations, 1);
  EXPECT_EQ(b.device() + b.host(), [&] {
    int64_t sum = 0;
    for (const int64_t bytes : b.bytes) sum += bytes;
    return sum;
  }());
}

TEST(MemoryPlan, SchedulesKeepWhatTheirTablesSay) {
  const ModelNeeds needs = small_needs(8);
  const auto plan = [&](PipelineKind kind) {
    return plan_memory(needs, {.mesh = {.pp = 4, .dp = 2, .ep = 4}, .schedule = kind, .micro_batches = 16, .grad_lanes = 16});
  };
  const MemoryPlan one = plan(PipelineKind::k1F1B), zero = plan(PipelineKind::kZB1P), dual = plan(PipelineKind::kDualPipe),
                   dual_v = plan(PipelineKind::kDualPipeV);
  for (int64_t r = 0; r < 4; ++r) {
    const auto i = static_cast<size_t>(r);
    EXPECT_EQ(one.ranks[i].peak_activations, 4 - r);
    EXPECT_EQ(dual.ranks[i].peak_activations, 5);
    EXPECT_EQ(dual_v.ranks[i].peak_activations, 9);
    EXPECT_EQ(one.ranks[i].expected[PlanMemory::kDeferred], 0);
    EXPECT_EQ(one.ranks[i].expected[PlanMemory::kLinearInputs], (4 - r) * 2 * 20 * kKiB);
    EXPECT_EQ(dual.ranks[i].expected[PlanMemory::kLinearInputs], 5 * 2 * 20 * kKiB);
    EXPECT_EQ(dual_v.ranks[i].expected[PlanMemory::kLinearInputs], 9 * 20 * kKiB);
    // Ranks r and 3 - r hold the same two stages.
    EXPECT_EQ(dual.ranks[i].expected.device(), dual.ranks[3 - i].expected.device());
  }
  // ZB1P: rank r puts off r weight gradients, and a further one while its input gradient is new.
  for (size_t r = 0; r < 4; ++r)
    EXPECT_EQ(zero.ranks[r].expected[PlanMemory::kDeferred], static_cast<int64_t>(r + 1) * 2 * 7 * kKiB);
  EXPECT_EQ(one.ranks[1].expected[PlanMemory::kScratch], (32 + 5) * kKiB + 64);
  EXPECT_EQ(dual.ranks[1].expected[PlanMemory::kScratch], (3 + 32 + 5) * kKiB + 64);  // both at once
}

TEST(MemoryPlan, OptimizerStateIsCutAmongThoseWhoHoldATensor) {
  const ModelNeeds needs = small_needs(4);
  const auto plan = [&](PipelineKind kind) {
    return plan_memory(needs, {.mesh = {.pp = 2, .dp = 2, .ep = 4}, .schedule = kind, .micro_batches = 8, .grad_lanes = 16});
  };
  const MemoryBytes one = plan(PipelineKind::k1F1B).ranks[0].expected;
  const int64_t dense = 2 * 4096 + 16384, expert = 2 * 2 * 1024;  // two layers, two experts of each, the embedding
  EXPECT_EQ(one[PlanMemory::kMasterWeights], 4 * (dense / 8 + expert / 2));
  // A lane more than one collects in one more accumulator of the dense tensors; groups of one lane reach the experts from 4
  // ranks at a time, and from each twice.
  EXPECT_EQ(one[PlanMemory::kGradients], 4 * 2 * (dense + 4 * expert));
  EXPECT_EQ(one[PlanMemory::kBf16Weights], 32 * kKiB);
  EXPECT_EQ(one[PlanMemory::kFullWeights], 2 * 512);
  const MemoryBytes dual = plan(PipelineKind::kDualPipe).ranks[0].expected;
  const int64_t both_ends = 2 * 4096 + 16384;  // each of its stages: two layers, embedding or head
  EXPECT_EQ(dual[PlanMemory::kMasterWeights], 2 * 4 * (both_ends / 16 + expert / 4));
  EXPECT_EQ(dual[PlanMemory::kGradients], 2 * 4 * (both_ends + 4 * expert));
}

TEST(MemoryPlan, RowsOfExpertsGrowWithTheirLoad) {
  ModelNeeds needs = small_needs(4);
  const MemoryPlan plan = plan_memory(needs, {.mesh = {.ep = 4}, .micro_batches = 2, .grad_lanes = 4, .expert_lane_group = 4});
  const RankMemory& r = plan.ranks[0];
  EXPECT_EQ(r.expected_rows, 64 * 2);
  EXPECT_EQ(r.worst_rows, 64 * 4 * 2);  // two of a rank's two experts, of every token of four ranks
  // FP8 codes, a scale, source, mask, two slots and weights, to 16 bytes; BF16 back.
  const int64_t travelling = 160 + 256, row = 4 * 128 + 20 + travelling;
  EXPECT_EQ(r.expected[PlanMemory::kRoutedRows], travelling * 128);
  EXPECT_EQ(r.row_bytes, row * 128);
  EXPECT_EQ(r.worst_bytes, row * (512 - 128));
  EXPECT_EQ(r.worst_layer_bytes, (128 + 20 + travelling) * (512 - 128));
  const int64_t total = r.expected.device();
  EXPECT_DOUBLE_EQ(r.load_that_fits(total), 1);
  EXPECT_DOUBLE_EQ(r.load_that_fits(total + r.row_bytes), 2);
  EXPECT_EQ(r.load_that_fits(total - r.row_bytes - 1), 0);
  needs.experts = 0;
  EXPECT_TRUE(std::isinf(plan_memory(needs, {}).ranks[0].load_that_fits(int64_t{1} << 40)));
  // Ten channels: inside a node a ring of 256 rows for each rank; across nodes (spec 5.2) two of 128 for each node and 288 for
  // each GPU of the own one.
  EXPECT_EQ(dispatch_ring_bytes({.ep = 4}, 100), 10 * 4 * 256 * 112);
  EXPECT_EQ(dispatch_ring_bytes({.ep = 64}, 112), 10 * (2 * 8 * 128 + 8 * 288) * 112);
  EXPECT_EQ(dispatch_ring_bytes({.ep = 1}, 112), 0);
}

TEST(MemoryPlan, ImpossibleMeshesNameTheRule) {
  const ModelNeeds needs = small_needs(4);
  const auto message = [&](const MemoryPlanRequest& request) {
    try {
      plan_memory(needs, request);
      return std::string("accepted");
    } catch (const Error& e) {
      EXPECT_EQ(e.exit_code(), 2);
      return std::string(e.what());
    }
  };
  EXPECT_EQ(message({}), "accepted");
  EXPECT_NE(message({.mesh = {.pp = 8}, .micro_batches = 8}).find("makes 8 stages, the model has 4 layers"), std::string::npos);
  EXPECT_NE(message({.mesh = {.ep = 16}, .grad_lanes = 16}).find("ep=16 does not divide the model's 8 experts"),
            std::string::npos);
  EXPECT_NE(message({.mesh = {.ep = 2, .tensor = 2}}).find("tp=2"), std::string::npos);
  EXPECT_NE(message({.mesh = {.dp = 4}, .grad_lanes = 2}).find("raise grad_lanes"), std::string::npos);
  EXPECT_NE(message({.mesh = {.pp = 2}, .schedule = PipelineKind::kDualPipe, .micro_batches = 4}).find("raise grad_lanes to 2"),
            std::string::npos);
}

}  // namespace
}  // namespace rorqual
