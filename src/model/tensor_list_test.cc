#include "model/tensor_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"

namespace rorqual {
namespace {

// The three configurations of the specification, section 1.1.
ModelConfig v3() {
  ModelConfig c;
  c.vocab_size = 129280, c.hidden_size = 7168, c.intermediate_size = 18432, c.moe_intermediate_size = 2048;
  c.num_hidden_layers = 61, c.first_k_dense_replace = 3, c.num_attention_heads = 128;
  c.n_routed_experts = 256, c.n_shared_experts = 1, c.num_experts_per_tok = 8, c.n_group = 8, c.topk_group = 4;
  c.routed_scaling_factor = 2.5, c.q_lora_rank = 1536, c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128, c.qk_rope_head_dim = 64, c.v_head_dim = 128;
  c.num_nextn_predict_layers = 1, c.max_position_embeddings = 4096;
  return c;
}

ModelConfig v2() {
  ModelConfig c = v3();
  c.vocab_size = 102400, c.hidden_size = 5120, c.intermediate_size = 12288, c.moe_intermediate_size = 1536;
  c.num_hidden_layers = 60, c.first_k_dense_replace = 1, c.n_routed_experts = 160, c.n_shared_experts = 2;
  c.num_experts_per_tok = 6, c.topk_group = 3, c.routed_scaling_factor = 16;
  c.scoring_func = "softmax", c.topk_method = "group_limited_greedy", c.norm_topk_prob = false;
  c.num_nextn_predict_layers = 0;
  return c;
}

ModelConfig v2_lite() {
  ModelConfig c = v2();
  c.hidden_size = 2048, c.intermediate_size = 10944, c.moe_intermediate_size = 1408, c.num_hidden_layers = 27;
  c.num_attention_heads = 16, c.n_routed_experts = 64, c.n_group = 1, c.topk_group = 1, c.q_lora_rank = 0;
  c.topk_method = "greedy", c.routed_scaling_factor = 1;
  return c;
}

TEST(TensorList, CountsPublishedModelsExactly) {
  for (const ModelConfig& c : {v3(), v2(), v2_lite()}) validate(c);
  const TensorList list(v3());
  const ParameterCount p = list.parameters();
  EXPECT_EQ(p.total, 671'026'419'200);
  // Touched for one token: all but 248 of 256 experts in each of 58 layers; spec 1.1 says 37.55B.
  EXPECT_EQ(p.active, p.total - int64_t{58} * 248 * 3 * 7168 * 2048);
  EXPECT_NEAR(static_cast<double>(p.active), 37.55e9, 0.005e9);
  // Unique to the MTP module: a block as the last layer's, eh_proj and three norms (spec 1.6 rounds it to 11.5B).
  int64_t block = 0;
  for (const TensorSpec& s : list.specs()) block += s.layer == 60 ? s.count() : 0;
  EXPECT_EQ(p.mtp, block + int64_t{2} * 7168 * 7168 + 3 * 7168);
  EXPECT_NEAR(static_cast<double>(p.mtp), 11.5e9, 0.01 * 11.5e9);
  EXPECT_EQ(TensorList(v2()).parameters().total, 235'741'434'880);
  EXPECT_EQ(TensorList(v2()).parameters().mtp, 0);
  EXPECT_EQ(TensorList(v2_lite()).parameters().total, 15'706'484'224);
}

TEST(TensorList, RegionsHoldEveryTensorOnce) {
  const TensorList list(v2_lite());
  std::map<int64_t, int64_t> dense, expert;  // offset → end
  for (size_t i = 0; i < list.size(); ++i) {
    const TensorSpec& s = list[i];
    EXPECT_EQ(list.at(s.name), i);
    auto& region = s.in_expert_region() ? expert : dense;
    EXPECT_TRUE(region.emplace(s.offset, s.offset + s.count()).second) << s.name;
  }
  for (const auto& [region, size] : {std::pair(dense, list.dense_elements()), std::pair(expert, list.expert_elements())}) {
    int64_t end = 0;
    for (const auto& [first, last] : region) {
      EXPECT_GE(first, end);
      EXPECT_LT(first - end, 16) << "more than alignment between two tensors";
      end = last;
    }
    EXPECT_EQ(end, size);
  }
}

TEST(TensorList, TensorsMultipliedAsOneAdjoin) {
  const TensorList list(v3());
  const auto adjoin = [&](const std::string& a, const std::string& b) {
    const TensorSpec &x = list[list.at(a)], &y = list[list.at(b)];
    EXPECT_EQ(x.offset + x.count(), y.offset) << a;
    EXPECT_EQ(x.cols, y.cols) << a;
  };
  adjoin("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight");
  adjoin("model.layers.3.mlp.experts.255.gate_proj.weight", "model.layers.3.mlp.experts.255.up_proj.weight");
  adjoin("model.layers.5.self_attn.q_a_proj.weight", "model.layers.5.self_attn.kv_a_proj_with_mqa.weight");
}

TEST(TensorList, NamesFollowTheConfig) {
  const TensorList full(v3()), lite(v2_lite());
  EXPECT_TRUE(full.find("model.layers.61.eh_proj.weight"));
  EXPECT_TRUE(full.find("model.layers.60.mlp.gate.e_score_correction_bias"));
  EXPECT_FALSE(full.find("model.layers.2.mlp.gate.weight")) << "a dense layer";
  EXPECT_FALSE(full.find("model.layers.61.embed_tokens.weight")) << "shared";
  EXPECT_FALSE(full.find("model.layers.62.eh_proj.weight"));
  EXPECT_TRUE(lite.find("model.layers.0.self_attn.q_proj.weight"));
  EXPECT_FALSE(lite.find("model.layers.1.mlp.gate.e_score_correction_bias"));
  ModelConfig tied = v2_lite();
  tied.tie_word_embeddings = true;
  EXPECT_FALSE(TensorList(tied).find("lm_head.weight"));
}

}  // namespace
}  // namespace rorqual
