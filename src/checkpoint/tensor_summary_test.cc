#include "checkpoint/tensor_summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/named_tensor.h"

namespace rorqual {
namespace {

using testing::ElementsAre;

std::vector<std::string> names(const std::vector<TensorLine>& lines) {
  std::vector<std::string> result;
  for (const TensorLine& l : lines) result.push_back(l.name);
  return result;
}

TEST(TensorSummary, FoldsLayersAndExpertsThatAreAlike) {
  std::vector<TensorLine> tensors = {{"model.embed.weight", "F32", {8, 4}}};
  for (const char* layer : {"0", "1", "10", "2"})
    for (const char* expert : {"0", "1", "10", "2"})
      tensors.push_back({fmt::format("model.layers.{}.mlp.experts.{}.up.weight", layer, expert), "F32", {4, 4}});
  tensors.push_back({"model.layers.2.norm.weight", "F32", {4}});
  tensors.push_back({"model.layers.3.norm.weight", "BF16", {4}});
  tensors.push_back({"model.layers.x.norm.weight", "F32", {4}});
  const std::vector<TensorLine> lines = summarise(tensors);
  EXPECT_THAT(names(lines),
              ElementsAre("model.embed.weight", "model.layers.{0..2,10}.mlp.experts.{0..2,10}.up.weight",
                          "model.layers.2.norm.weight", "model.layers.3.norm.weight", "model.layers.x.norm.weight"));
  EXPECT_EQ(lines[1].tensors, 16);
  EXPECT_EQ(lines[2].tensors, 1);
}

// A layer without expert 1 has a line of its own: a line stands for exactly the names it spells.
TEST(TensorSummary, FoldsNothingThatDiffers) {
  const std::vector<TensorLine> lines = summarise({{"layers.0.experts.0.w", "F32", {4}},
                                                   {"layers.0.experts.1.w", "F32", {4}},
                                                   {"layers.1.experts.0.w", "F32", {4}},
                                                   {"layers.2.experts.0.w", "F32", {5}}});
  EXPECT_THAT(names(lines), ElementsAre("layers.0.experts.{0..1}.w", "layers.1.experts.0.w", "layers.2.experts.0.w"));
}

TEST(TensorSummary, CountsEveryTensorOfV3) {
  ModelConfig c;
  c.vocab_size = 129280, c.hidden_size = 7168, c.intermediate_size = 18432, c.moe_intermediate_size = 2048;
  c.num_hidden_layers = 61, c.num_attention_heads = 128, c.q_lora_rank = 1536, c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128, c.qk_rope_head_dim = 64, c.v_head_dim = 128, c.n_routed_experts = 256, c.n_shared_experts = 1;
  c.num_experts_per_tok = 8, c.first_k_dense_replace = 3, c.num_nextn_predict_layers = 1, c.max_position_embeddings = 4096;
  const TensorList list(c);
  std::vector<TensorLine> tensors;
  for (const TensorSpec& s : list.specs()) tensors.push_back({s.name, "F32", shape_of(s)});
  const std::vector<TensorLine> lines = summarise(tensors);
  int64_t count = 0;
  for (const TensorLine& l : lines) count += l.tensors;
  EXPECT_EQ(count, static_cast<int64_t>(list.size()));
  EXPECT_LT(lines.size(), 40u);
  EXPECT_THAT(names(lines), testing::Contains("model.layers.{3..61}.mlp.experts.{0..255}.gate_proj.weight"));
}

}  // namespace
}  // namespace rorqual
