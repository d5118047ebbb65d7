#include "checkpoint/gguf_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint_test_support.h"
#include "checkpoint/export.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// One group's experts of small_config are kept of two, as llama.cpp wants it.
class GgufExport : public testing::Test {
 protected:
  GgufExport() : model_(1), run_(make_run(folder_ / "run", model_)) {}

  GgufFile exported(const GgmlType& type) const {
    const fs::path file = folder_ / (std::string(type.name) + ".gguf");
    export_gguf(open_model(run_), file, {.type = type});
    return GgufFile(file);
  }
  static const GgufTensor& tensor(const GgufFile& file, const std::string& name) {
    for (const GgufTensor& t : file.header().tensors)
      if (t.name == name) return t;
    ADD_FAILURE() << "no tensor " << name;
    return file.header().tensors.front();
  }
  static std::vector<float> values(const GgufFile& file, const std::string& name) {
    const GgufTensor& t = tensor(file, name);
    std::vector<float> v(static_cast<size_t>(t.count()));
    decode_ggml(t.type, file.bytes(t).data(), t.count(), v.data());
    return v;
  }
  std::vector<float> master(const std::string& name) const {
    const Tensor t = model_.weights.master(model_.weights.list().at(name));
    return {t.ptr<float>(), t.ptr<float>() + t.count()};
  }
  static uint64_t count(const GgufFile& file, const std::string& key) {
    const GgufValue* v = file.header().find(key);
    return v == nullptr ? 0 : std::get<uint64_t>(v->value);
  }
  static std::vector<std::string> strings(const GgufFile& file, const std::string& key) {
    std::vector<std::string> v;
    for (const GgufValue& e : std::get<std::vector<GgufValue>>(file.header().find(key)->value))
      v.push_back(std::get<std::string>(e.value));
    return v;
  }

  TemporaryFolder folder_;
  SmallModel model_;
  fs::path run_;
};

TEST_F(GgufExport, HoldsEveryTensorOfTheMainModel) {
  const GgufFile file = exported(kGgmlF32);
  EXPECT_EQ(values(file, "token_embd.weight"), master("model.embed_tokens.weight"));
  EXPECT_EQ(values(file, "output.weight"), master("lm_head.weight"));
  EXPECT_EQ(values(file, "blk.0.ffn_up.weight"), master("model.layers.0.mlp.up_proj.weight"));
  EXPECT_EQ(values(file, "blk.1.exp_probs_b.bias"), master("model.layers.1.mlp.gate.e_score_correction_bias"));
  EXPECT_EQ(values(file, "blk.1.ffn_down_shexp.weight"), master("model.layers.1.mlp.shared_experts.down_proj.weight"));
  EXPECT_EQ(values(file, "blk.1.attn_kv_a_mqa.weight"), master("model.layers.1.self_attn.kv_a_proj_with_mqa.weight"));
  int64_t total = 0;
  for (const GgufTensor& t : file.header().tensors) total += t.count();
  EXPECT_EQ(total, TensorList(model_.config).parameters().total);
}

TEST_F(GgufExport, ExpertsAreOneTensor) {
  const GgufFile file = exported(kGgmlF32);
  for (const std::string part : {"gate", "up", "down"}) {
    const std::string name = "blk.1.ffn_" + part + "_exps.weight";
    const int64_t rows = part == "down" ? 16 : 8;
    EXPECT_THAT(tensor(file, name).shape, ElementsAre(4, rows, 24 - rows));
    std::vector<float> experts;
    for (int e = 0; e < 4; ++e) {
      const std::vector<float> one = master(fmt::format("model.layers.1.mlp.experts.{}.{}_proj.weight", e, part));
      experts.insert(experts.end(), one.begin(), one.end());
    }
    EXPECT_EQ(values(file, name), experts);
  }
}

// kv_b is [heads · (nope + v), kv_lora] = [2 · (4 + 5), 6].
TEST_F(GgufExport, KeysAndValuesAreTakenApart) {
  const GgufFile file = exported(kGgmlF32);
  EXPECT_THAT(tensor(file, "blk.0.attn_k_b.weight").shape, ElementsAre(2, 6, 4));
  EXPECT_THAT(tensor(file, "blk.0.attn_v_b.weight").shape, ElementsAre(2, 5, 6));
  const std::vector<float> kv_b = master("model.layers.0.self_attn.kv_b_proj.weight");
  const std::vector<float> k_b = values(file, "blk.0.attn_k_b.weight"), v_b = values(file, "blk.0.attn_v_b.weight");
  for (size_t head = 0; head < 2; ++head)
    for (size_t latent = 0; latent < 6; ++latent) {
      for (size_t i = 0; i < 4; ++i) EXPECT_EQ(k_b[(head * 6 + latent) * 4 + i], kv_b[(head * 9 + i) * 6 + latent]);
      for (size_t i = 0; i < 5; ++i) EXPECT_EQ(v_b[(head * 5 + i) * 6 + latent], kv_b[(head * 9 + 4 + i) * 6 + latent]);
    }
}

TEST_F(GgufExport, SaysItsShape) {
  const GgufFile file = exported(kGgmlBf16);
  EXPECT_EQ(std::get<std::string>(file.header().find("general.architecture")->value), "deepseek2");
  const std::pair<const char*, uint64_t> keys[] = {{"block_count", 2},
                                                   {"context_length", 64},
                                                   {"embedding_length", 16},
                                                   {"vocab_size", 280},
                                                   {"leading_dense_block_count", 1},
                                                   {"attention.head_count", 2},
                                                   {"attention.head_count_kv", 1},
                                                   {"attention.q_lora_rank", 8},
                                                   {"attention.kv_lora_rank", 6},
                                                   {"attention.key_length", 8},
                                                   {"attention.value_length", 6},
                                                   {"attention.key_length_mla", 6},
                                                   {"attention.value_length_mla", 5},
                                                   {"rope.dimension_count", 2},
                                                   {"expert_count", 4},
                                                   {"expert_used_count", 2},
                                                   {"expert_shared_count", 1},
                                                   {"expert_feed_forward_length", 8},
                                                   {"expert_gating_func", 2},
                                                   {"expert_group_count", 2},
                                                   {"expert_group_used_count", 1}};
  for (const auto& [key, value] : keys) EXPECT_EQ(count(file, std::string("deepseek2.") + key), value) << key;
  EXPECT_EQ(std::get<double>(file.header().find("deepseek2.expert_weights_scale")->value), 2.5);
  EXPECT_EQ(count(file, "rorqual.tokens_seen"), 100000u);
  EXPECT_EQ(file.header().find("deepseek2.rope.scaling.type"), nullptr);
}

// llama.cpp requires the key of every model that it does not take for a "lite" one.
TEST_F(GgufExport, AbsentQueryLoraIsSpeltOut) {
  ModelConfig c = small_config();
  c.q_lora_rank = 0;
  const SmallModel model(1, "bf16", c);
  export_gguf(open_model(make_run(folder_ / "plain", model)), folder_ / "plain.gguf", {.type = kGgmlF32});
  const GgufFile file(folder_ / "plain.gguf");
  ASSERT_NE(file.header().find("deepseek2.attention.q_lora_rank"), nullptr);
  EXPECT_EQ(count(file, "deepseek2.attention.q_lora_rank"), 0u);
  EXPECT_THAT(tensor(file, "blk.0.attn_q.weight").shape, ElementsAre(12, 16));
}

TEST_F(GgufExport, YarnIsSpeltOut) {
  ModelConfig c = small_config();
  c.rope_scaling = {.factor = 4, .original_max_position_embeddings = 16, .beta_fast = 30, .mscale = 0.5, .mscale_all_dim = 0.5};
  const SmallModel model(1, "bf16", c);
  export_gguf(open_model(make_run(folder_ / "yarn", model)), folder_ / "yarn.gguf", {});
  const GgufFile file(folder_ / "yarn.gguf");
  const auto number = [&](const char* key) { return std::get<double>(file.header().find(key)->value); };
  EXPECT_EQ(number("deepseek2.rope.scaling.factor"), 4);
  EXPECT_EQ(number("deepseek2.rope.scaling.yarn_beta_fast"), 30);
  EXPECT_EQ(number("deepseek2.rope.scaling.yarn_log_multiplier"), static_cast<double>(0.05f));
  EXPECT_EQ(count(file, "deepseek2.rope.scaling.original_context_length"), 16u);
}

TEST_F(GgufExport, TokenizerIsInside) {
  json config = json::parse(read_file(run_ / "tokenizer/tokenizer_config.json"));
  config["chat_template"] = "{{ messages }}";
  overwrite(run_ / "tokenizer/tokenizer_config.json", config.dump());
  const Tokenizer tokenizer = Tokenizer::load(run_ / "tokenizer");
  const GgufFile file = exported(kGgmlBf16);
  const std::vector<std::string> tokens = strings(file, "tokenizer.ggml.tokens"),
                                 merges = strings(file, "tokenizer.ggml.merges");
  ASSERT_EQ(tokens.size(), 280u);
  const auto bos = static_cast<size_t>(count(file, "tokenizer.ggml.bos_token_id"));
  EXPECT_EQ(tokens.at(bos), kBeginOfSentence);
  EXPECT_EQ(tokens.back(), "[PAD279]");
  const auto& kinds = std::get<std::vector<GgufValue>>(file.header().find("tokenizer.ggml.token_type")->value);
  ASSERT_EQ(kinds.size(), 280u);
  EXPECT_EQ(std::get<int64_t>(kinds[bos].value), 3);
  EXPECT_EQ(std::get<int64_t>(kinds.back().value), 5);
  EXPECT_EQ(merges.size() + 256 + 6, static_cast<size_t>(tokenizer.vocab_size()));
  EXPECT_EQ(std::get<std::string>(file.header().find("tokenizer.ggml.pre")->value), "deepseek-v3");
  EXPECT_EQ(std::get<std::string>(file.header().find("tokenizer.chat_template")->value), "{{ messages }}");
  EXPECT_TRUE(std::get<bool>(file.header().find("tokenizer.ggml.add_bos_token")->value));
}

TEST_F(GgufExport, NamedChatTemplatesAreInsideAndOddOnesRefused) {
  const auto with = [&](const json& templates) {
    json config = json::parse(read_file(run_ / "tokenizer/tokenizer_config.json"));
    config["chat_template"] = templates;
    overwrite(run_ / "tokenizer/tokenizer_config.json", config.dump());
    return exported(kGgmlBf16);
  };
  EXPECT_THAT(error_of([&] { with(3); }), HasSubstr("tokenizer_config.json, chat_template: a string or a list"));
  const GgufFile file =
      with({{{"name", "default"}, {"template", "{{ messages }}"}}, {{"name", "tool_use"}, {"template", "{{ tools }}"}}});
  EXPECT_EQ(std::get<std::string>(file.header().find("tokenizer.chat_template")->value), "{{ messages }}");
  EXPECT_EQ(std::get<std::string>(file.header().find("tokenizer.chat_template.tool_use")->value), "{{ tools }}");
}

TEST_F(GgufExport, Q8LeavesVectorsRouterAndOddRows) {
  ModelConfig c = small_config();
  c.hidden_size = 32;
  const SmallModel model(1, "bf16", c);
  export_gguf(open_model(make_run(folder_ / "wide", model)), folder_ / "q8.gguf", {.type = kGgmlQ8});
  const GgufFile file(folder_ / "q8.gguf");
  for (const auto& [name, type] : {std::pair{"token_embd.weight", "Q8_0"},
                                   {"blk.1.ffn_gate_exps.weight", "Q8_0"},
                                   {"blk.1.ffn_down_exps.weight", "BF16"},
                                   {"blk.1.ffn_gate_inp.weight", "F32"},
                                   {"blk.1.attn_norm.weight", "F32"},
                                   {"blk.1.exp_probs_b.bias", "F32"}})
    EXPECT_EQ(tensor(file, name).type.name, type) << name;
}

TEST_F(GgufExport, SameBytesFromRunAndDirectory) {
  exported(kGgmlF32);
  export_model(open_model(run_), folder_ / "hf", {.dtype = DType::kF32});
  export_gguf(open_model(folder_ / "hf"), folder_ / "again.gguf", {.type = kGgmlF32});
  EXPECT_TRUE(read_file(folder_ / "F32.gguf") == read_file(folder_ / "again.gguf"));
  EXPECT_THAT(error_of([&] { exported(kGgmlF32); }), HasSubstr("it exists"));
}

TEST_F(GgufExport, RefusesWhatLlamaCppMisreads) {
  const auto objection = [](const std::function<void(ModelConfig&)>& change) {
    ModelConfig c = small_config();
    change(c);
    return gguf_objection(c);
  };
  EXPECT_THAT(objection([](ModelConfig&) {}), IsEmpty());
  for (const int64_t layers : {26, 27}) {
    EXPECT_THAT(objection([&](ModelConfig& c) { c.num_hidden_layers = layers; }), HasSubstr("does not read q_lora_rank = 8"));
    EXPECT_THAT(objection([&](ModelConfig& c) { c.num_hidden_layers = layers, c.q_lora_rank = 0; }), IsEmpty());
  }
  EXPECT_THAT(objection([](ModelConfig& c) { c.num_hidden_layers = 48; }), IsEmpty());
  EXPECT_THAT(objection([](ModelConfig& c) { c.num_hidden_layers = 48, c.vocab_size = 128256; }), HasSubstr("128256"));
  EXPECT_THAT(objection([](ModelConfig& c) { c.topk_group = 2; }), HasSubstr("topk_group = 2"));
  EXPECT_THAT(objection([](ModelConfig& c) { c.n_group = 1; }), IsEmpty());
  EXPECT_THAT(objection([](ModelConfig& c) { c.n_routed_experts = 512; }), IsEmpty());
  EXPECT_THAT(objection([](ModelConfig& c) { c.n_routed_experts = 514; }), HasSubstr("at most 512"));
  EXPECT_THAT(objection([](ModelConfig& c) { c.n_group = 4; }), HasSubstr("fewer groups than experts"));
  EXPECT_THAT(objection([](ModelConfig& c) { c.n_shared_experts = 0; }), HasSubstr("shared expert"));
  EXPECT_THAT(objection([](ModelConfig& c) { c.moe_layer_freq = 2; }), HasSubstr("moe_layer_freq"));
  EXPECT_THAT(objection([](ModelConfig& c) { c.topk_method = "group_limited_greedy"; }), HasSubstr("group_limited_greedy"));
  EXPECT_THAT(objection([](ModelConfig& c) { c.rope_scaling.factor = 4, c.rope_scaling.mscale = 0.7; }), HasSubstr("mscale"));
  EXPECT_THAT(objection([](ModelConfig& c) { c.architecture = "llama"; }), HasSubstr("llama"));
}

TEST_F(GgufExport, RefusalLeavesNothing) {
  ModelConfig c = small_config();
  c.topk_group = 2;
  const SmallModel model(1, "bf16", c);
  const ModelSource source = open_model(make_run(folder_ / "refused", model));
  EXPECT_THAT(error_of([&] { export_gguf(source, folder_ / "x.gguf", {}); }), HasSubstr("llama.cpp would not compute"));
  EXPECT_THAT(names_in(folder_.path()), ElementsAre("refused", "run"));
}

}  // namespace
}  // namespace rorqual
