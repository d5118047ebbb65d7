#include "model/tensor_list.h"

#include "base/error.h"

namespace rorqual {
namespace {
constexpr int64_t kAlignElements = 16;  // 64 bytes of F32
}

std::string layer_prefix(int64_t layer) {
  return fmt::format("model.layers.{}.", layer);
}

void TensorList::add(TensorSpec spec, bool adjoins) {
  int64_t& end = spec.in_expert_region() ? expert_elements_ : dense_elements_;
  if (!adjoins) end = (end + kAlignElements - 1) / kAlignElements * kAlignElements;
  spec.offset = end;
  end += spec.count();
  const bool fresh = index_.emplace(spec.name, specs_.size()).second;
  CHECK(fresh, "tensor {} is listed twice", spec.name);
  specs_.push_back(std::move(spec));
}

void TensorList::add_attention(const ModelConfig& c, int64_t layer) {
  const std::string p = layer_prefix(layer) + "self_attn.";
  const int64_t d = c.hidden_size, heads = c.num_attention_heads;
  auto linear = [&](const std::string& name, int64_t rows, int64_t cols, Sharding s, bool adjoins = false) {
    add({.name = p + name + ".weight", .rows = rows, .cols = cols, .role = Role::kLinear, .sharding = s, .layer = layer},
        adjoins);
  };
  auto norm = [&](const std::string& name, int64_t n) {
    add({.name = p + name + ".weight", .rows = 1, .cols = n, .vector = true, .role = Role::kNorm, .layer = layer});
  };
  if (!c.is_mla()) {
    linear("q_proj", heads * c.qk_head_dim(), d, Sharding::kRows);
    linear("k_proj", c.kv_heads() * c.qk_head_dim(), d, Sharding::kRows, true);
    linear("v_proj", c.kv_heads() * c.qk_head_dim(), d, Sharding::kRows, true);
    linear("o_proj", d, heads * c.qk_head_dim(), Sharding::kCols);
    return;
  }
  const bool lora = c.q_lora_rank > 0;
  linear(lora ? "q_a_proj" : "q_proj", lora ? c.q_lora_rank : heads * c.qk_head_dim(), d,
         lora ? Sharding::kReplicated : Sharding::kRows);
  linear("kv_a_proj_with_mqa", c.kv_lora_rank + c.qk_rope_head_dim, d, Sharding::kReplicated, true);
  if (lora) {
    norm("q_a_layernorm", c.q_lora_rank);
    linear("q_b_proj", heads * c.qk_head_dim(), c.q_lora_rank, Sharding::kRows);
  }
  norm("kv_a_layernorm", c.kv_lora_rank);
  linear("kv_b_proj", heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank, Sharding::kRows);
  linear("o_proj", d, heads * c.v_head_dim, Sharding::kCols);
}

void TensorList::add_block(const ModelConfig& c, int64_t layer, bool moe) {
  const std::string p = layer_prefix(layer);
  const int64_t d = c.hidden_size;
  auto norm = [&](const std::string& name) {
    add({.name = p + name + ".weight", .rows = 1, .cols = d, .vector = true, .role = Role::kNorm, .layer = layer});
  };
  auto mlp = [&](const std::string& name, int64_t width, Role role, int64_t expert) {
    const bool routed = role == Role::kExpert;
    auto part = [&](const char* which, int64_t rows, int64_t cols, Sharding s, bool adjoins) {
      add({.name = p + name + which + ".weight",
           .rows = rows,
           .cols = cols,
           .role = role,
           .sharding = routed ? Sharding::kByExpert : s,
           .layer = layer,
           .expert = expert},
          adjoins);
    };
    part("gate_proj", width, d, Sharding::kRows, false);
    part("up_proj", width, d, Sharding::kRows, true);
    part("down_proj", d, width, Sharding::kCols, false);
  };
  norm("input_layernorm");
  add_attention(c, layer);
  norm("post_attention_layernorm");
  if (!moe) {
    mlp("mlp.", c.intermediate_size, Role::kLinear, -1);
    return;
  }
  add({.name = p + "mlp.gate.weight", .rows = c.n_routed_experts, .cols = d, .role = Role::kRouter, .layer = layer});
  if (c.has_router_bias())
    add({.name = p + "mlp.gate.e_score_correction_bias",
         .rows = 1,
         .cols = c.n_routed_experts,
         .vector = true,
         .role = Role::kRouterBias,
         .layer = layer});
  for (int64_t e = 0; e < c.n_routed_experts; ++e)
    mlp(fmt::format("mlp.experts.{}.", e), c.moe_intermediate_size, Role::kExpert, e);
  if (c.n_shared_experts > 0) mlp("mlp.shared_experts.", c.n_shared_experts * c.moe_intermediate_size, Role::kLinear, -1);
}

TensorList::TensorList(const ModelConfig& c) {
  const int64_t d = c.hidden_size;
  add({.name = "model.embed_tokens.weight",
       .rows = c.vocab_size,
       .cols = d,
       .role = Role::kEmbedding,
       .sharding = Sharding::kRows});
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) add_block(c, layer, c.is_moe_layer(layer));
  add({.name = "model.norm.weight", .rows = 1, .cols = d, .vector = true, .role = Role::kNorm});
  if (!c.tie_word_embeddings)
    add({.name = "lm_head.weight", .rows = c.vocab_size, .cols = d, .role = Role::kHead, .sharding = Sharding::kRows});
  for (int64_t k = 0; k < c.num_nextn_predict_layers; ++k) {
    const int64_t layer = c.num_hidden_layers + k;
    const std::string p = layer_prefix(layer);
    for (const char* name : {"enorm", "hnorm"})
      add({.name = p + name + ".weight", .rows = 1, .cols = d, .vector = true, .role = Role::kNorm, .layer = layer});
    add({.name = p + "eh_proj.weight", .rows = d, .cols = 2 * d, .role = Role::kLinear, .layer = layer});
    add_block(c, layer, c.n_routed_experts > 0);
    add({.name = p + "shared_head.norm.weight", .rows = 1, .cols = d, .vector = true, .role = Role::kNorm, .layer = layer});
  }
  count_parameters(c);
}

void TensorList::count_parameters(const ModelConfig& c) {
  for (const TensorSpec& s : specs_) {
    if (s.layer >= c.num_hidden_layers) {
      parameters_.mtp += s.count();
      continue;
    }
    parameters_.total += s.count();
    // Of a layer's experts a token reaches num_experts_per_tok: count the first so many.
    if (s.role != Role::kExpert || s.expert < c.num_experts_per_tok) parameters_.active += s.count();
  }
}

std::optional<size_t> TensorList::find(const std::string& name) const {
  const auto it = index_.find(name);
  if (it == index_.end()) return std::nullopt;
  return it->second;
}

size_t TensorList::at(const std::string& name) const {
  const auto i = find(name);
  CHECK(i.has_value(), "the model has no tensor {}", name);
  return *i;
}

}  // namespace rorqual
