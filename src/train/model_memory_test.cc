#include "train/model_memory.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "train/memory.h"

namespace rorqual {
namespace {

RankMemory on_one_rank(const Recipe& recipe) {
  return plan_memory(model_needs(recipe), memory_plan_request(recipe, {}, PipelineKind::k1F1B)).ranks.at(0);
}

// Class by class what the trainer's own dry run allocates (train/memory.h), which a test of the trainer holds against a run.
void expect_what_a_run_allocates(const std::string& name, const std::vector<std::string>& overrides) {
  const Recipe recipe = read_whole_recipe(find_recipe(name), overrides);
  const MemoryBytes plan = on_one_rank(recipe).expected;
  const MemoryNeed run = training_memory(recipe);
  EXPECT_EQ(plan[PlanMemory::kFp8Weights] + plan[PlanMemory::kBf16Weights] + plan[PlanMemory::kFullWeights],
            run.of(MemoryClass::kPackedWeights))
      << name;
  for (const auto& [mine, theirs] : {std::pair{PlanMemory::kMasterWeights, MemoryClass::kMasterWeights},
                                     {PlanMemory::kGradients, MemoryClass::kGradients},
                                     {PlanMemory::kMoments, MemoryClass::kMoments},
                                     {PlanMemory::kEma, MemoryClass::kEma},
                                     {PlanMemory::kActivations, MemoryClass::kActivations},
                                     {PlanMemory::kLinearInputs, MemoryClass::kLinearInputs},
                                     {PlanMemory::kAttentionOutputs, MemoryClass::kAttentionOutputs},
                                     {PlanMemory::kSwiGluInputs, MemoryClass::kSwiGluInputs},
                                     {PlanMemory::kScratch, MemoryClass::kScratch},
                                     {PlanMemory::kLogits, MemoryClass::kLogits},
                                     {PlanMemory::kSnapshot, MemoryClass::kSnapshot}})
    EXPECT_EQ(plan[mine], run.of(theirs)) << name << ": " << plan_memory_name(mine);
  EXPECT_EQ(plan.device() + plan.host(), run.total()) << name;
}

TEST(ModelMemory, OnOneRankThePlanIsWhatARunAllocates) {
  expect_what_a_run_allocates("tiny", {});
  expect_what_a_run_allocates("small", {});
  expect_what_a_run_allocates("small", {"precision=bf16", "recompute=false", "train.ema_decay=0"});
  expect_what_a_run_allocates("small", {"grad_lanes=8", "expert_lane_group=2", "train.batch_sequences=32"});
  expect_what_a_run_allocates("small", {"model.num_nextn_predict_layers=2", "model.tie_word_embeddings=true"});
  expect_what_a_run_allocates("deepseek-llm-67b", {"grad_lanes=1", "model.num_hidden_layers=3"});
  expect_what_a_run_allocates("v3-671b", {"grad_lanes=1", "expert_lane_group=1", "model.num_hidden_layers=5"});
}

// V3 as it was trained. Rank 6 has stages 6 and 9, four MoE layers each.
TEST(ModelMemory, DeepSeekV3OnItsMesh) {
  const Recipe recipe = read_whole_recipe(find_recipe("v3-671b"), {});
  const ModelNeeds needs = model_needs(recipe);
  const MemoryPlanRequest request = memory_plan_request(recipe, parse_mesh("pp=16,dp=2,ep=64"), PipelineKind::kDualPipe);
  EXPECT_EQ(request.micro_batches, 120);
  const MemoryPlan plan = plan_memory(needs, request);
  const RankMemory& r = plan.ranks.at(6);
  ASSERT_EQ(r.layers, (std::vector<int64_t>{4, 4}));
  EXPECT_EQ(r.peak_activations, 17);
  // [out, in] of the FP8 layers; one scale for each 128 × 128; forward and transposed.
  int64_t fp8 = 0, elements = 0;
  const auto add = [&](int64_t n, int64_t k, int64_t times) {
    fp8 += times * 2 * (n * k + (4 * ((n + 127) / 128) * ((k + 127) / 128) + 63) / 64 * 64);  // to 64 bytes, as arenas give
    elements += times * n * k;
  };
  add(2112, 7168, 1);
  add(24576, 1536, 1);
  add(32768, 512, 1);
  add(7168, 16384, 1);
  const int64_t attention = elements;
  for (const int64_t experts : {1, 4}) {  // shared, routed
    add(4096, 7168, experts);
    add(7168, 2048, experts);
  }
  EXPECT_EQ(r.expected[PlanMemory::kFp8Weights], 8 * fp8);
  const int64_t expert = 3 * 2048 * 7168, other = 256 * 7168 + 256 + 2 * 7168 + 1536 + 512;
  const int64_t dense = attention + expert + other;
  EXPECT_EQ(r.expected[PlanMemory::kGradients], 8 * 4 * (dense + 4 * expert));
  EXPECT_EQ(r.expected[PlanMemory::kMasterWeights], 8 * 4 * expert + 2 * 4 * ((4 * dense / 16 + 255) / 256 * 16));
  // Kept of a layer: two residual streams, latents, routing, log-sum-exp; codes with scales of the dispatched rows and of
  // SwiGLU's inputs; the attention's output in E5M6.
  const int64_t rows = 4096, routed = 8 * rows;
  EXPECT_EQ(needs.kinds[1].saved[PlanMemory::kLinearInputs], routed * (7168 + 4 * 56));
  EXPECT_EQ(needs.kinds[1].saved[PlanMemory::kSwiGluInputs], (routed + rows) * (4096 + 4 * 32));
  EXPECT_EQ(needs.kinds[1].saved[PlanMemory::kAttentionOutputs], rows * (16384 * 3 / 2 + 4 * 128));
  EXPECT_EQ(needs.kinds[1].saved[PlanMemory::kActivations],
            rows * (2 * 2 * 7168 + 2 * 2112 + 4 * 128 + 4 * 256 + 8 * 8) + 4 * routed);
  EXPECT_EQ(r.expected[PlanMemory::kLinearInputs], 17 * 4 * routed * (7168 + 4 * 56));
  EXPECT_EQ(needs.kinds[1].saved_per_row[PlanMemory::kLinearInputs], 7168 + 4 * 56);
  EXPECT_EQ(needs.kinds[1].saved_per_row[PlanMemory::kSwiGluInputs], 4096 + 4 * 32);
  EXPECT_EQ(needs.kinds[1].saved_per_row[PlanMemory::kActivations], 4);
  EXPECT_EQ(needs.cache_bytes_per_token * 61, 70272);  // spec 1.3
  EXPECT_EQ(r.worst_rows, 4096 * 64 * 4);
}

TEST(ModelMemory, BatchesThatDoNotDivideAreRefused) {
  const Recipe recipe = read_whole_recipe(find_recipe("small"), {});
  try {
    memory_plan_request(recipe, {.dp = 4}, PipelineKind::k1F1B);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    EXPECT_NE(std::string(e.what()).find("train.batch_sequences = 8"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace rorqual
