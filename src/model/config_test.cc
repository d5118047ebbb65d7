#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

ModelConfig whole() {
  ModelConfig c;
  c.vocab_size = 100, c.hidden_size = 32, c.intermediate_size = 48, c.moe_intermediate_size = 16;
  c.num_hidden_layers = 4, c.num_attention_heads = 4, c.q_lora_rank = 12, c.kv_lora_rank = 8;
  c.qk_nope_head_dim = 8, c.qk_rope_head_dim = 4, c.v_head_dim = 8;
  c.n_routed_experts = 8, c.n_shared_experts = 1, c.num_experts_per_tok = 3, c.n_group = 4, c.topk_group = 2;
  c.first_k_dense_replace = 1, c.routed_scaling_factor = 2.5, c.num_nextn_predict_layers = 1;
  c.max_position_embeddings = 128;
  return c;
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

std::string refusal(const std::function<void(ModelConfig&)>& change) {
  ModelConfig c = whole();
  change(c);
  return error_of([&] { validate(c); });
}

TEST(ModelConfig, ImpossibleShapesAreNamed) {
  validate(whole());
  EXPECT_THAT(refusal([](ModelConfig& c) { c.vocab_size = 0; }), HasSubstr("vocab_size"));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.hidden_size = -1; }), HasSubstr("hidden_size"));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.num_attention_heads = 0; }), HasSubstr("num_attention_heads"));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.num_key_value_heads = 2; }), HasSubstr("num_key_value_heads"));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.qk_rope_head_dim = 5; }), HasSubstr("even"));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.n_group = 3; }), AllOf(HasSubstr("n_group = 3"), HasSubstr("8")));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.topk_group = 5; }), HasSubstr("topk_group = 5"));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.num_experts_per_tok = 5; }),
              AllOf(HasSubstr("num_experts_per_tok"), HasSubstr("1 … 4")));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.scoring_func = "tanh"; }), HasSubstr("scoring_func"));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.topk_method = "best"; }), HasSubstr("topk_method"));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.rms_norm_eps = 0; }), HasSubstr("rms_norm_eps"));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.rope_scaling.factor = 0.5; }), HasSubstr("rope_scaling.factor"));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.rope_scaling.factor = 4; }), HasSubstr("max_position_embeddings"));
}

TEST(ModelConfig, HuggingFaceRoundTrip) {
  for (int kind = 0; kind < 5; ++kind) {
    ModelConfig c = whole();
    c.num_key_value_heads = c.num_attention_heads;
    if (kind == 1) c.rope_scaling = {4, 32, 31, 2, 0.7, 0.8};
    if (kind == 2) c.q_lora_rank = 0, c.tie_word_embeddings = true;
    if (kind == 3) c.scoring_func = "softmax", c.topk_method = "group_limited_greedy", c.norm_topk_prob = false;
    if (kind == 4) {
      ModelConfig llama;
      llama.architecture = "llama", llama.vocab_size = 100, llama.hidden_size = 32, llama.intermediate_size = 48;
      llama.num_hidden_layers = 2, llama.num_attention_heads = 4, llama.num_key_value_heads = 2, llama.head_dim = 10;
      llama.max_position_embeddings = 64;
      c = llama;
    }
    const auto j = config_to_hugging_face(c, "bfloat16", 0, 1);
    EXPECT_EQ(config_from_hugging_face(json::parse(j.dump()), "x"), c) << j.dump(1);
    EXPECT_EQ(j["torch_dtype"], "bfloat16");
    EXPECT_EQ(j["eos_token_id"], 1);
    EXPECT_EQ(j["model_type"], kind == 4 ? "llama" : kind == 3 ? "deepseek_v2" : "deepseek_v3");
    EXPECT_FALSE(config_to_hugging_face(c, "bfloat16", -1, -1).contains("bos_token_id"));
  }
}

TEST(ModelConfig, ReadsTransformers5RopeParameters) {
  json j = json::parse(config_to_hugging_face(whole(), "float32", 0, 1).dump());
  j.erase("rope_scaling");
  j.erase("rope_theta");
  j["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5000.0}};
  EXPECT_EQ(config_from_hugging_face(j, "x").rope_theta, 5000);
  EXPECT_FALSE(config_from_hugging_face(j, "x").has_yarn());
}

TEST(ModelConfig, ForeignMathematicsIsRefused) {
  const json good = json::parse(config_to_hugging_face(whole(), "float32", 0, 1).dump());
  const auto refused = [&](const char* key, const json& value) {
    json j = good;
    j[key] = value;
    return error_of([&] { config_from_hugging_face(j, "dir/config.json"); });
  };
  EXPECT_THAT(refused("model_type", "gpt2"), AllOf(HasSubstr("dir/config.json"), HasSubstr("gpt2")));
  EXPECT_THAT(refused("attention_bias", true), HasSubstr("attention_bias"));
  EXPECT_THAT(refused("hidden_act", "gelu"), HasSubstr("hidden_act"));
  EXPECT_THAT(refused("rope_scaling", {{"type", "linear"}, {"factor", 2}}), HasSubstr("linear"));
  EXPECT_THAT(refused("hidden_size", "large"), HasSubstr("hidden_size"));
  EXPECT_THAT(refused("hidden_size", 3.5), HasSubstr("hidden_size"));
  EXPECT_THAT(refused("n_group", 3), AllOf(HasSubstr("dir/config.json"), HasSubstr("n_group")));
  EXPECT_THAT(error_of([] { config_from_hugging_face(json::array(), "x"); }), HasSubstr("not a JSON object"));
}

}  // namespace
}  // namespace rorqual
