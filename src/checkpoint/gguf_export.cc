#include "checkpoint/gguf_export.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/export.h"
#include "checkpoint/gguf_tokenizer.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

// llama.cpp's file types of general.file_type.
int64_t file_type_of(const GgmlType& type) {
  return type == kGgmlF32 ? 0 : type == kGgmlQ8 ? 7 : 32;
}

bool has_groups(const ModelConfig& c) {
  return c.n_routed_experts > 0 && c.n_group > 1 && c.topk_method != "greedy";
}

void add_shape(const ModelConfig& c, GgufMetadata& metadata) {
  const auto add = [&](const std::string& key, GgufValue value) {
    metadata.emplace_back("deepseek2." + key, std::move(value));
  };
  const auto count = [&](const std::string& key, int64_t value) { add(key, GgufValue::of_u32(value)); };
  const bool moe = c.n_routed_experts > 0;
  count("block_count", c.num_hidden_layers);
  count("context_length", c.max_position_embeddings);
  count("embedding_length", c.hidden_size);
  count("feed_forward_length", c.intermediate_size);
  count("vocab_size", c.vocab_size);
  count("leading_dense_block_count", moe ? c.first_k_dense_replace : c.num_hidden_layers);
  count("attention.head_count", c.num_attention_heads);
  count("attention.head_count_kv", 1);  // absorbed: all heads share the latent
  add("attention.layer_norm_rms_epsilon", GgufValue::of_f32(c.rms_norm_eps));
  count("attention.q_lora_rank", c.q_lora_rank);  // required; 0: none
  count("attention.kv_lora_rank", c.kv_lora_rank);
  count("attention.key_length", c.kv_lora_rank + c.qk_rope_head_dim);
  count("attention.value_length", c.kv_lora_rank);
  count("attention.key_length_mla", c.qk_head_dim());
  count("attention.value_length_mla", c.v_head_dim);
  count("rope.dimension_count", c.qk_rope_head_dim);
  add("rope.freq_base", GgufValue::of_f32(c.rope_theta));
  if (c.has_yarn()) {
    const RopeScaling& s = c.rope_scaling;
    add("rope.scaling.type", GgufValue::of_string("yarn"));
    add("rope.scaling.factor", GgufValue::of_f32(s.factor));
    count("rope.scaling.original_context_length", s.original_max_position_embeddings);
    add("rope.scaling.yarn_log_multiplier", GgufValue::of_f32(0.1 * s.mscale_all_dim));
    add("rope.scaling.yarn_beta_fast", GgufValue::of_f32(s.beta_fast));
    add("rope.scaling.yarn_beta_slow", GgufValue::of_f32(s.beta_slow));
  }
  count("expert_feed_forward_length", moe ? c.moe_intermediate_size : 0);
  count("expert_shared_count", moe ? c.n_shared_experts : 0);
  if (!moe) return;
  count("expert_count", c.n_routed_experts);
  count("expert_used_count", c.num_experts_per_tok);
  add("expert_weights_scale", GgufValue::of_f32(c.routed_scaling_factor));
  add("expert_weights_norm", GgufValue::of_bool(c.norm_topk_prob));
  count("expert_gating_func", c.scoring_func == "sigmoid" ? 2 : 1);
  if (!has_groups(c)) return;
  count("expert_group_count", c.n_group);
  count("expert_group_used_count", c.topk_group);
}

// A tensor of the file to be.
struct Piece {
  enum class Kind {
    kStacked,  // the sources, one behind the other
    kKeys,     // of kv_b: per head the part that makes keys, transposed
    kValues,   // of kv_b: per head the part that makes values
  };
  GgufWriter::Declaration declaration;
  std::vector<std::string> sources;
  Kind kind = Kind::kStacked;
};

class Plan {
 public:
  Plan(const ModelConfig& config, const GgmlType& type) : config_(config), list_(config), type_(type) {
    const std::string head = config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    add("token_embd.weight", {"model.embed_tokens.weight"});
    for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) add_layer(layer);
    add("output_norm.weight", {"model.norm.weight"});
    add("output.weight", {head});
  }
  const std::vector<Piece>& pieces() const { return pieces_; }
  int64_t odd_rows() const { return odd_rows_; }  // tensors that Q8_0 cannot hold

 private:
  GgmlType type_of(const TensorSpec& s, int64_t row) {
    if (s.vector || s.role == Role::kRouter) return kGgmlF32;
    if (row % type_.block == 0) return type_;
    ++odd_rows_;
    return kGgmlBf16;
  }
  void add(const std::string& name, const std::vector<std::string>& sources) {
    const TensorSpec& s = list_[list_.at(sources.front())];
    std::vector<int64_t> shape = shape_of(s);
    if (s.role == Role::kExpert) shape.insert(shape.begin(), static_cast<int64_t>(sources.size()));
    pieces_.push_back({{name, type_of(s, s.cols), shape}, sources, Piece::Kind::kStacked});
  }
  void add_layer(int64_t layer) {
    const ModelConfig& c = config_;
    const std::string from = layer_prefix(layer), to = fmt::format("blk.{}.", layer), attention = from + "self_attn.";
    const auto map = [&](const std::string& name, const std::string& source) {
      add(to + name + ".weight", {source + ".weight"});
    };
    map("attn_norm", from + "input_layernorm");
    if (c.q_lora_rank > 0) {
      map("attn_q_a", attention + "q_a_proj");
      map("attn_q_a_norm", attention + "q_a_layernorm");
      map("attn_q_b", attention + "q_b_proj");
    } else {
      map("attn_q", attention + "q_proj");
    }
    map("attn_kv_a_mqa", attention + "kv_a_proj_with_mqa");
    map("attn_kv_a_norm", attention + "kv_a_layernorm");
    const std::string kv_b = attention + "kv_b_proj.weight";
    const TensorSpec& s = list_[list_.at(kv_b)];
    const int64_t heads = c.num_attention_heads;
    pieces_.push_back({{to + "attn_k_b.weight", type_of(s, c.qk_nope_head_dim), {heads, c.kv_lora_rank, c.qk_nope_head_dim}},
                       {kv_b},
                       Piece::Kind::kKeys});
    pieces_.push_back({{to + "attn_v_b.weight", type_of(s, c.kv_lora_rank), {heads, c.v_head_dim, c.kv_lora_rank}},
                       {kv_b},
                       Piece::Kind::kValues});
    map("attn_output", attention + "o_proj");
    map("ffn_norm", from + "post_attention_layernorm");
    const char* parts[] = {"gate", "up", "down"};
    if (!c.is_moe_layer(layer)) {
      for (const std::string part : parts) map("ffn_" + part, from + "mlp." + part + "_proj");
      return;
    }
    map("ffn_gate_inp", from + "mlp.gate");
    if (c.has_router_bias()) add(to + "exp_probs_b.bias", {from + "mlp.gate.e_score_correction_bias"});
    for (const std::string part : parts) {
      std::vector<std::string> experts;
      for (int64_t e = 0; e < c.n_routed_experts; ++e)
        experts.push_back(fmt::format("{}mlp.experts.{}.{}_proj.weight", from, e, part));
      add(to + "ffn_" + part + "_exps.weight", experts);
    }
    for (const std::string part : parts) map("ffn_" + part + "_shexp", from + "mlp.shared_experts." + part + "_proj");
  }

  const ModelConfig& config_;
  TensorList list_;
  GgmlType type_;
  std::vector<Piece> pieces_;
  int64_t odd_rows_ = 0;
};

// One half of kv_b [heads · (nope + v), kv_lora], head by head.
void write_half(const ModelConfig& c, const SourceTensor& t, bool keys, GgufWriter& writer) {
  const int64_t rows = keys ? c.qk_nope_head_dim : c.v_head_dim, cols = c.kv_lora_rank;
  std::vector<float> values(static_cast<size_t>(rows * cols)), transposed(keys ? values.size() : 0);
  for (int64_t head = 0; head < c.num_attention_heads; ++head) {
    const int64_t begin = head * (c.qk_nope_head_dim + c.v_head_dim) + (keys ? 0 : c.qk_nope_head_dim);
    read_rows(t, begin, Tensor(values.data(), DType::kF32, rows, cols));
    for (int64_t r = 0; keys && r < rows; ++r)
      for (int64_t k = 0; k < cols; ++k)
        transposed[static_cast<size_t>(k * rows + r)] = values[static_cast<size_t>(r * cols + k)];
    writer.write(keys ? transposed.data() : values.data(), rows * cols);
  }
  forget(t);
}

void write_piece(const ModelConfig& config, const Piece& piece, const SourceTensors& tensors, GgufWriter& writer) {
  if (piece.kind != Piece::Kind::kStacked)
    return write_half(config, tensors.at(piece.sources.front()), piece.kind == Piece::Kind::kKeys, writer);
  for (const std::string& source : piece.sources)
    for_each_band(tensors.at(source), DType::kF32,
                  [&](int64_t, const Tensor& band) { writer.write(band.ptr<float>(), band.count()); });
}

std::string expert_objection(const ModelConfig& c) {
  constexpr int64_t kMostExperts = 512;
  if (c.n_routed_experts > kMostExperts)
    return fmt::format("n_routed_experts = {}: it takes at most {}", c.n_routed_experts, kMostExperts);
  if (c.n_shared_experts == 0) return "n_shared_experts = 0: it requires a shared expert";
  if (c.moe_layer_freq != 1)
    return fmt::format("moe_layer_freq = {}: it takes every layer behind the leading dense ones for one with experts",
                       c.moe_layer_freq);
  if (!has_groups(c)) return "";
  if (c.topk_method == "group_limited_greedy")
    return "topk_method = group_limited_greedy: it ranks groups by the sum of their two best experts, the model by the best "
           "one";
  if (c.topk_group >= c.n_group)
    return fmt::format("n_group = {} with topk_group = {}: it requires fewer groups to be kept than there are", c.n_group,
                       c.topk_group);
  if (c.n_group >= c.n_routed_experts)
    return fmt::format("n_group = {}: it requires fewer groups than experts ({})", c.n_group, c.n_routed_experts);
  return "";
}

}  // namespace

std::string gguf_objection(const ModelConfig& c) {
  if (!c.is_mla()) return "architecture = llama: the file's architecture is deepseek2, which has latent attention";
  const int64_t layers = c.num_hidden_layers;
  const bool lite = layers == 26 || layers == 27 || (layers == 48 && c.vocab_size == 128256);
  if (lite && c.q_lora_rank > 0)
    return fmt::format(
        "num_hidden_layers = {}{}: it takes such a model for a \"lite\" one without query LoRA and does not read q_lora_rank = "
        "{}",
        layers, layers == 48 ? " with vocab_size = 128256" : "", c.q_lora_rank);
  if (c.has_yarn() && c.rope_scaling.mscale != c.rope_scaling.mscale_all_dim)
    return fmt::format("rope_scaling.mscale = {} and mscale_all_dim = {}: it knows one value for both", c.rope_scaling.mscale,
                       c.rope_scaling.mscale_all_dim);
  return c.n_routed_experts > 0 ? expert_objection(c) : "";
}

void export_gguf(const ModelSource& source, const fs::path& file, const GgufOptions& options) {
  const ModelConfig& c = source.config;
  if (fs::exists(fs::symlink_status(file))) fail_usage("--to {}: it exists; name a new file", file.string());
  if (const std::string why = gguf_objection(c); !why.empty())
    fail("{}: llama.cpp would not compute this model: {}; export it as a Hugging Face directory instead", source.description,
         why);
  const Tokenizer tokenizer = Tokenizer::load(source.tokenizer_directory);
  check_exportable(source, tokenizer, options.ema);
  GgufMetadata metadata = {{"general.architecture", GgufValue::of_string("deepseek2")},
                           {"general.type", GgufValue::of_string("model")},
                           {"general.file_type", GgufValue::of_u32(file_type_of(options.type))},
                           {"general.quantization_version", GgufValue::of_u32(2)}};
  if (source.tokens_seen >= 0) metadata.emplace_back("rorqual.tokens_seen", GgufValue::of_u64(source.tokens_seen));
  if (source.heldout_loss && !options.ema)
    metadata.emplace_back("rorqual.heldout_loss", GgufValue::of_f64(*source.heldout_loss));
  add_shape(c, metadata);
  add_tokenizer(tokenizer, source.tokenizer_directory, c.vocab_size, metadata);
  const Plan plan(c, options.type);
  if (plan.odd_rows() > 0)
    info("{} tensors stay BF16: their rows are no multiple of {} long", plan.odd_rows(), options.type.block);
  if (c.num_nextn_predict_layers > 0) info("the MTP modules are left out: llama.cpp has no use for them");
  std::vector<GgufWriter::Declaration> declarations;
  for (const Piece& piece : plan.pieces()) declarations.push_back(piece.declaration);
  std::error_code error;
  if (file.has_parent_path()) fs::create_directories(file.parent_path(), error);  // the writer says what is wrong with it
  GgufWriter writer(file, metadata, declarations);
  for (const Piece& piece : plan.pieces()) write_piece(c, piece, source.tensors(options.ema), writer);
  writer.commit();
}

}  // namespace rorqual
