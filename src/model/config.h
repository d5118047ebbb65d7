// The shape of a model, in Hugging Face's own keys (spec 1.1, 1.7): DeepseekV3ForCausalLM, DeepseekV2ForCausalLM (softmax
// scores) and LlamaForCausalLM (grouped-query attention, no experts).
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace rorqual {

// YaRN (spec 1.4). factor = 1: plain RoPE.
struct RopeScaling {
  double factor = 1;
  int64_t original_max_position_embeddings = 4096;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1;
  double mscale_all_dim = 1;
  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  std::string architecture = "deepseek";  // deepseek: MLA; llama: grouped-query attention
  int64_t vocab_size = 0;                 // 0 in a recipe: the tokenizer's
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;      // dense MLP
  int64_t moe_intermediate_size = 0;  // one expert
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // 0: equal to heads
  int64_t head_dim = 0;             // llama; 0: hidden_size / heads
  int64_t q_lora_rank = 0;          // 0: none
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  int64_t n_routed_experts = 0;  // 0: a dense model
  int64_t n_shared_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  int64_t first_k_dense_replace = 0;  // leading dense layers
  int64_t moe_layer_freq = 1;
  double routed_scaling_factor = 1;
  bool norm_topk_prob = true;
  std::string scoring_func = "sigmoid";  // or softmax
  std::string topk_method = "noaux_tc";  // or greedy, group_limited_greedy
  int64_t num_nextn_predict_layers = 0;  // MTP depth
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  double initializer_range = 0.006;  // report §4.2

  bool operator==(const ModelConfig&) const = default;

  bool is_mla() const { return architecture == "deepseek"; }
  bool is_moe_layer(int64_t layer) const {
    return n_routed_experts > 0 && layer >= first_k_dense_replace && layer % moe_layer_freq == 0;
  }
  bool has_router_bias() const { return n_routed_experts > 0 && topk_method == "noaux_tc"; }
  int64_t kv_heads() const { return num_key_value_heads > 0 ? num_key_value_heads : num_attention_heads; }
  int64_t qk_head_dim() const { return is_mla() ? qk_nope_head_dim + qk_rope_head_dim : llama_head_dim(); }
  int64_t value_head_dim() const { return is_mla() ? v_head_dim : llama_head_dim(); }
  int64_t rope_dim() const { return is_mla() ? qk_rope_head_dim : llama_head_dim(); }
  int64_t llama_head_dim() const { return head_dim > 0 ? head_dim : hidden_size / std::max<int64_t>(num_attention_heads, 1); }
  bool has_yarn() const { return rope_scaling.factor != 1; }
  // Softmax scale: d^-1/2, times m² under YaRN (spec 1.3).
  double attention_scale() const;
};

// Refuses shapes that cannot be (Error, usage): names the keys, their values and the rule.
void validate(const ModelConfig& config);

// Reads a Hugging Face config.json (old rope_scaling and transformers 5's rope_parameters). Keys that do not concern the shape
// are ignored; keys that change the mathematics in ways rorqual lacks (biases, other activations, sliding windows) are refused.
ModelConfig config_from_hugging_face(const nlohmann::json& json, const std::string& where);
// config.json as Hugging Face writes it. bos, eos: -1 leaves them out.
nlohmann::ordered_json config_to_hugging_face(const ModelConfig& config, const std::string& torch_dtype, int64_t bos,
                                              int64_t eos);

// Calls visit(key, reference, meaning) for every key, nested ones with a dot. Recipes read, print and explain themselves by
// this list.
template <class Config, class Visit>
void visit_model_keys(Config& c, Visit&& visit) {
  visit("architecture", c.architecture, "deepseek (MLA, experts) or llama (grouped-query attention, dense)");
  visit("vocab_size", c.vocab_size, "entries of the embedding; 0: as many as the tokenizer has");
  visit("hidden_size", c.hidden_size, "width of the residual stream");
  visit("intermediate_size", c.intermediate_size, "width of a dense layer's MLP");
  visit("moe_intermediate_size", c.moe_intermediate_size, "width of one expert");
  visit("num_hidden_layers", c.num_hidden_layers, "transformer blocks, MTP modules not counted");
  visit("num_attention_heads", c.num_attention_heads, "query heads");
  visit("num_key_value_heads", c.num_key_value_heads, "key heads of llama; 0: as many as query heads");
  visit("head_dim", c.head_dim, "head size of llama; 0: hidden_size / num_attention_heads");
  visit("q_lora_rank", c.q_lora_rank, "rank of the query's latent; 0: one full matrix");
  visit("kv_lora_rank", c.kv_lora_rank, "rank of the latent that keys and values are made of");
  visit("qk_nope_head_dim", c.qk_nope_head_dim, "head size without position");
  visit("qk_rope_head_dim", c.qk_rope_head_dim, "head size that carries the rotary position; the key's is shared by all heads");
  visit("v_head_dim", c.v_head_dim, "head size of the values");
  visit("n_routed_experts", c.n_routed_experts, "experts of a layer; 0: a dense model");
  visit("n_shared_experts", c.n_shared_experts, "shared experts: one MLP of that many times moe_intermediate_size");
  visit("num_experts_per_tok", c.num_experts_per_tok, "experts that a token reaches");
  visit("n_group", c.n_group, "groups of experts");
  visit("topk_group", c.topk_group, "groups that a token may reach");
  visit("first_k_dense_replace", c.first_k_dense_replace, "leading layers with a dense MLP");
  visit("moe_layer_freq", c.moe_layer_freq, "every how many layers has experts");
  visit("routed_scaling_factor", c.routed_scaling_factor, "factor on the routing weights");
  visit("norm_topk_prob", c.norm_topk_prob, "divide the routing weights by their sum");
  visit("scoring_func", c.scoring_func, "sigmoid or softmax");
  visit("topk_method", c.topk_method, "noaux_tc (selection bias), greedy, or group_limited_greedy");
  visit("num_nextn_predict_layers", c.num_nextn_predict_layers, "depth of multi-token prediction");
  visit("rms_norm_eps", c.rms_norm_eps, "epsilon of every RMSNorm");
  visit("rope_theta", c.rope_theta, "base of the rotary frequencies");
  visit("rope_scaling.factor", c.rope_scaling.factor, "YaRN: context extension; 1: plain RoPE");
  visit("rope_scaling.original_max_position_embeddings", c.rope_scaling.original_max_position_embeddings,
        "YaRN: context before");
  visit("rope_scaling.beta_fast", c.rope_scaling.beta_fast, "YaRN: rotations above which a frequency stays");
  visit("rope_scaling.beta_slow", c.rope_scaling.beta_slow, "YaRN: rotations below which a frequency is divided by factor");
  visit("rope_scaling.mscale", c.rope_scaling.mscale, "YaRN: coefficient of the cosine and sine scale");
  visit("rope_scaling.mscale_all_dim", c.rope_scaling.mscale_all_dim, "YaRN: coefficient of the softmax scale");
  visit("max_position_embeddings", c.max_position_embeddings, "longest context; 0: the recipe's sequence length");
  visit("tie_word_embeddings", c.tie_word_embeddings, "the head is the embedding");
  visit("initializer_range", c.initializer_range, "standard deviation of the first weights");
}

}  // namespace rorqual
