#include "model/config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace rorqual {
namespace {

using Json = nlohmann::json;

void require(bool condition, const std::string& message) {
  if (!condition) fail_usage("impossible model shape: {}", message);
}

template <class T>
void read(const Json& json, const char* key, T& value, const std::string& where) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return;
  try {
    value = it->get<T>();
  } catch (const Json::exception&) {
    fail("{}: key '{}' has the wrong type ({})", where, key, it->type_name());
  }
}

void read_integer(const Json& json, const char* key, int64_t& value, const std::string& where) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return;
  if (!it->is_number_integer()) fail("{}: key '{}' must be an integer, it is {}", where, key, it->dump());
  value = it->get<int64_t>();
}

// Mathematics that rorqual does not have must not be skipped silently.
void refuse_foreign(const Json& json, const std::string& where) {
  const auto flag = [&](const char* key, bool value) {
    read(json, key, value, where);
    return value;
  };
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (flag(key, false)) fail("{}: '{}' is true; rorqual's models have no such bias", where, key);
  if (!flag("rope_interleave", true))
    fail("{}: rope_interleave is false; rorqual's rotary pairs are adjacent, as DeepSeek's are", where);
  if (json.contains("hidden_act") && json["hidden_act"] != "silu")
    fail("{}: hidden_act is {}; only silu is supported", where, json["hidden_act"].dump());
  if (json.contains("sliding_window") && !json["sliding_window"].is_null() && flag("use_sliding_window", true))
    fail("{}: sliding_window is not supported", where);
}

void read_rope_scaling(const Json& json, ModelConfig& c, const std::string& where) {
  const Json* r = nullptr;
  for (const char* key : {"rope_scaling", "rope_parameters"})
    if (json.contains(key) && json[key].is_object()) r = &json[key];
  if (!r) return;
  read(*r, "rope_theta", c.rope_theta, where);
  std::string type = "default";
  read(*r, "type", type, where);
  read(*r, "rope_type", type, where);
  if (type == "default") return;
  if (type != "yarn") fail("{}: rope scaling of type '{}' is not supported; yarn is", where, type);
  RopeScaling& s = c.rope_scaling;
  // What transformers takes where they are absent: cosines and sines scaled by m(1), the softmax not.
  s.mscale = 1;
  s.mscale_all_dim = 0;
  read(*r, "factor", s.factor, where);
  read_integer(*r, "original_max_position_embeddings", s.original_max_position_embeddings, where);
  read(*r, "beta_fast", s.beta_fast, where);
  read(*r, "beta_slow", s.beta_slow, where);
  read(*r, "mscale", s.mscale, where);
  read(*r, "mscale_all_dim", s.mscale_all_dim, where);
}

void validate_attention(const ModelConfig& c) {
  require(c.num_attention_heads > 0, fmt::format("num_attention_heads = {} must be positive", c.num_attention_heads));
  if (c.is_mla()) {
    require(c.kv_lora_rank > 0, fmt::format("kv_lora_rank = {} must be positive", c.kv_lora_rank));
    require(c.q_lora_rank >= 0, fmt::format("q_lora_rank = {} must not be negative (0: none)", c.q_lora_rank));
    require(c.qk_nope_head_dim > 0 && c.v_head_dim > 0,
            fmt::format("qk_nope_head_dim = {} and v_head_dim = {} must be positive", c.qk_nope_head_dim, c.v_head_dim));
    require(c.kv_heads() == c.num_attention_heads,
            fmt::format("num_key_value_heads = {} must equal num_attention_heads = {} with MLA", c.kv_heads(),
                        c.num_attention_heads));
  } else {
    require(c.head_dim > 0 || c.hidden_size % c.num_attention_heads == 0,
            fmt::format("hidden_size = {} is no multiple of num_attention_heads = {}; set head_dim", c.hidden_size,
                        c.num_attention_heads));
    require(c.num_attention_heads % c.kv_heads() == 0,
            fmt::format("num_key_value_heads = {} must divide num_attention_heads = {}", c.kv_heads(), c.num_attention_heads));
  }
  require(c.rope_dim() > 0 && c.rope_dim() % 2 == 0,
          fmt::format("the rotary head size {} must be positive and even", c.rope_dim()));
}

void validate_experts(const ModelConfig& c) {
  require(c.is_mla(), "experts (n_routed_experts > 0) need architecture = \"deepseek\"");
  require(c.moe_intermediate_size > 0, fmt::format("moe_intermediate_size = {} must be positive", c.moe_intermediate_size));
  require(c.n_group > 0 && c.n_routed_experts % c.n_group == 0,
          fmt::format("n_group = {} must divide n_routed_experts = {}", c.n_group, c.n_routed_experts));
  require(c.topk_group > 0 && c.topk_group <= c.n_group,
          fmt::format("topk_group = {} must lie in 1 … n_group = {}", c.topk_group, c.n_group));
  const int64_t reachable = c.topk_group * (c.n_routed_experts / c.n_group);
  require(c.num_experts_per_tok > 0 && c.num_experts_per_tok <= reachable,
          fmt::format("num_experts_per_tok = {} must lie in 1 … {} (topk_group = {} groups of {} experts)",
                      c.num_experts_per_tok, reachable, c.topk_group, c.n_routed_experts / c.n_group));
  require(c.moe_layer_freq > 0, fmt::format("moe_layer_freq = {} must be positive", c.moe_layer_freq));
  require(c.first_k_dense_replace >= 0 && c.first_k_dense_replace <= c.num_hidden_layers,
          fmt::format("first_k_dense_replace = {} must lie in 0 … num_hidden_layers = {}", c.first_k_dense_replace,
                      c.num_hidden_layers));
  require(c.n_shared_experts >= 0, fmt::format("n_shared_experts = {} must not be negative", c.n_shared_experts));
  require(c.scoring_func == "sigmoid" || c.scoring_func == "softmax",
          fmt::format("scoring_func = '{}': sigmoid or softmax", c.scoring_func));
  require(c.topk_method == "noaux_tc" || c.topk_method == "greedy" || c.topk_method == "group_limited_greedy",
          fmt::format("topk_method = '{}': noaux_tc, greedy or group_limited_greedy", c.topk_method));
  require(c.topk_method != "noaux_tc" || c.n_group == 1 || c.n_routed_experts / c.n_group >= 2,
          "noaux_tc ranks groups by their two best experts: a group needs at least 2");
}

// Bounds far beyond any model, so that no later sum of sizes overflows and a slip of the keyboard is told at once.
void validate_sizes(const ModelConfig& c) {
  constexpr int64_t kLayers = 4096, kExperts = int64_t{1} << 16, kWidth = int64_t{1} << 24;
  constexpr double kParameters = 1e16;
  require(c.num_hidden_layers > 0 && c.num_hidden_layers <= kLayers,
          fmt::format("num_hidden_layers = {} must lie in 1 … {}", c.num_hidden_layers, kLayers));
  require(c.n_routed_experts >= 0 && c.n_routed_experts <= kExperts,
          fmt::format("n_routed_experts = {} must lie in 0 (a dense model) … {}", c.n_routed_experts, kExperts));
  double widest = 1;
  for (const auto& [name, value] : {std::pair{"hidden_size", c.hidden_size},
                                    {"intermediate_size", c.intermediate_size},
                                    {"moe_intermediate_size", c.moe_intermediate_size},
                                    {"num_attention_heads", c.num_attention_heads},
                                    {"head_dim", c.head_dim},
                                    {"q_lora_rank", c.q_lora_rank},
                                    {"kv_lora_rank", c.kv_lora_rank},
                                    {"qk_nope_head_dim", c.qk_nope_head_dim},
                                    {"qk_rope_head_dim", c.qk_rope_head_dim},
                                    {"v_head_dim", c.v_head_dim},
                                    {"n_shared_experts", c.n_shared_experts}}) {
    require(value >= 0 && value <= kWidth, fmt::format("{} = {} must lie in 0 … {}", name, value, kWidth));
    widest = std::max(widest, static_cast<double>(value));
  }
  const double heads = static_cast<double>(c.num_attention_heads) * static_cast<double>(c.qk_head_dim() + c.value_head_dim());
  const double bound = static_cast<double>(c.num_hidden_layers) * widest *
                       (heads + widest + static_cast<double>(c.n_routed_experts * c.moe_intermediate_size));
  require(bound < kParameters, fmt::format("it would have about {:.0e} parameters", bound));
}

}  // namespace

double ModelConfig::attention_scale() const {
  double scale = 1 / std::sqrt(static_cast<double>(qk_head_dim()));
  if (has_yarn() && rope_scaling.mscale_all_dim != 0) {
    const double m = 0.1 * rope_scaling.mscale_all_dim * std::log(rope_scaling.factor) + 1;
    scale *= m * m;
  }
  return scale;
}

void validate(const ModelConfig& c) {
  require(c.architecture == "deepseek" || c.architecture == "llama",
          fmt::format("architecture = '{}': deepseek or llama", c.architecture));
  require(c.vocab_size > 0 && c.vocab_size < (int64_t{1} << 31),
          fmt::format("vocab_size = {} must lie in 1 … 2^31", c.vocab_size));
  require(c.hidden_size > 0, fmt::format("hidden_size = {} must be positive", c.hidden_size));
  validate_sizes(c);
  validate_attention(c);
  if (c.n_routed_experts > 0) validate_experts(c);
  const bool has_dense = c.n_routed_experts == 0 || c.first_k_dense_replace > 0 || c.moe_layer_freq > 1;
  require(!has_dense || c.intermediate_size > 0,
          fmt::format("intermediate_size = {} must be positive: there are dense layers", c.intermediate_size));
  require(c.num_nextn_predict_layers >= 0 && c.num_nextn_predict_layers <= 16,
          fmt::format("num_nextn_predict_layers = {} must lie in 0 … 16", c.num_nextn_predict_layers));
  require(c.num_nextn_predict_layers == 0 || c.is_mla(), "MTP modules need architecture = \"deepseek\"");
  require(c.rms_norm_eps > 0 && c.rope_theta > 1,
          fmt::format("rms_norm_eps = {} must be positive and rope_theta = {} above 1", c.rms_norm_eps, c.rope_theta));
  require(c.rope_scaling.factor >= 1 && c.rope_scaling.original_max_position_embeddings > 0,
          fmt::format("rope_scaling.factor = {} must be at least 1", c.rope_scaling.factor));
  require(c.max_position_embeddings > 0,
          fmt::format("max_position_embeddings = {} must be positive", c.max_position_embeddings));
  require(
      !c.has_yarn() || c.max_position_embeddings > c.rope_scaling.original_max_position_embeddings,
      fmt::format(
          "YaRN extends a context: max_position_embeddings = {} must exceed rope_scaling.original_max_position_embeddings = {}",
          c.max_position_embeddings, c.rope_scaling.original_max_position_embeddings));
  require(c.initializer_range > 0, fmt::format("initializer_range = {} must be positive", c.initializer_range));
}

ModelConfig config_from_hugging_face(const Json& json, const std::string& where) {
  if (!json.is_object()) fail("{}: not a JSON object", where);
  ModelConfig c;
  std::string type;
  read(json, "model_type", type, where);
  if (type == "llama") {
    c.architecture = "llama";
  } else if (type != "deepseek_v3" && type != "deepseek_v2") {
    fail("{}: model_type '{}' is not supported; deepseek_v3, deepseek_v2 and llama are", where, type);
  }
  if (type == "deepseek_v2") c.topk_method = "greedy", c.scoring_func = "softmax", c.norm_topk_prob = false;
  refuse_foreign(json, where);
  visit_model_keys(c, [&](const std::string& key, auto& value, const char*) {
    using T = std::decay_t<decltype(value)>;
    if (key == "architecture" || key.find('.') != std::string::npos) return;
    if constexpr (std::is_same_v<T, int64_t>) {
      read_integer(json, key.c_str(), value, where);
    } else {
      read(json, key.c_str(), value, where);
    }
  });
  read_rope_scaling(json, c, where);
  try {
    validate(c);
  } catch (const Error& e) {
    fail("{}: {}", where, e.what());
  }
  return c;
}

nlohmann::ordered_json config_to_hugging_face(const ModelConfig& c, const std::string& torch_dtype, int64_t bos, int64_t eos) {
  nlohmann::ordered_json j;
  const bool v2 = c.is_mla() && c.n_routed_experts > 0 && c.scoring_func == "softmax";
  j["architectures"] = {!c.is_mla() ? "LlamaForCausalLM" : v2 ? "DeepseekV2ForCausalLM" : "DeepseekV3ForCausalLM"};
  j["model_type"] = !c.is_mla() ? "llama" : v2 ? "deepseek_v2" : "deepseek_v3";
  visit_model_keys(c, [&](const std::string& key, const auto& value, const char*) {
    if (key == "architecture" || key.find('.') != std::string::npos) return;
    j[key] = value;
  });
  j["num_key_value_heads"] = c.kv_heads();
  if (c.is_mla()) {
    j.erase("head_dim");
    if (c.q_lora_rank == 0) j["q_lora_rank"] = nullptr;
    if (c.n_routed_experts == 0) {
      // Dense layers throughout: transformers has no switch for it but a first expert layer that never comes.
      j["first_k_dense_replace"] = c.num_hidden_layers;
      j.erase("n_routed_experts");  // null is no integer to it
    }
  } else {
    j["head_dim"] = c.llama_head_dim();
    for (const char* key : {"moe_intermediate_size", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
                            "v_head_dim", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "n_group",
                            "topk_group", "first_k_dense_replace", "moe_layer_freq", "routed_scaling_factor", "norm_topk_prob",
                            "scoring_func", "topk_method", "num_nextn_predict_layers"})
      j.erase(key);
    j["mlp_bias"] = false;
  }
  j["hidden_act"] = "silu";
  j["attention_bias"] = false;
  j["attention_dropout"] = 0.0;
  if (c.has_yarn()) {
    const RopeScaling& s = c.rope_scaling;
    j["rope_scaling"] = {{"type", "yarn"},
                         {"factor", s.factor},
                         {"original_max_position_embeddings", s.original_max_position_embeddings},
                         {"beta_fast", s.beta_fast},
                         {"beta_slow", s.beta_slow},
                         {"mscale", s.mscale},
                         {"mscale_all_dim", s.mscale_all_dim}};
  } else {
    j["rope_scaling"] = nullptr;
  }
  if (bos >= 0) j["bos_token_id"] = bos;
  if (eos >= 0) j["eos_token_id"] = eos;
  j["torch_dtype"] = torch_dtype;
  j["use_cache"] = true;
  return j;
}

}  // namespace rorqual
