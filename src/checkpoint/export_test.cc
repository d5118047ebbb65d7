#include "checkpoint/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint_test_support.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

json read_json(const fs::path& path) {
  return json::parse(read_file(path));
}

void load(const ModelSource& source, Weights& weights, bool ema = false) {
  ThreadPool pool(2);
  source.load_weights(weights, Stream(pool), ema);
}

TEST(Export, F32KeepsEveryBit) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  const ModelSource run = open_model(make_run(folder / "run", model));
  EXPECT_EQ(run.tokens_seen, 100000);
  export_model(run, folder / "hf", {.dtype = DType::kF32});
  EXPECT_THAT(names_in(folder / "hf"), ElementsAre("config.json", "generation_config.json", "model.safetensors",
                                                   "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"));
  const ModelSource source = open_model(folder / "hf");
  EXPECT_EQ(source.parameters().total, run.parameters().total);
  EXPECT_EQ(source.config.num_nextn_predict_layers, 1);
  EXPECT_EQ(source.tokens_seen, run.tokens_seen);
  SmallModel loaded(2);
  load(source, loaded.weights);
  expect_equal(named_tensors(loaded.weights), named_tensors(model.weights));
}

TEST(Export, Bf16RoundsAllButTheRoutingBiases) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  export_model(open_model(make_run(folder / "run", model)), folder / "hf", {.dtype = DType::kBF16});
  const ModelSource source = open_model(folder / "hf");
  EXPECT_EQ(read_json(folder / "hf/config.json")["torch_dtype"], "bfloat16");
  SmallModel loaded(2);
  load(source, loaded.weights);
  int64_t biases = 0, rounded = 0;
  for (size_t i = 0; i < model.weights.list().size(); ++i) {
    const TensorSpec& spec = model.weights.list()[i];
    const bool bias = spec.role == Role::kRouterBias;
    biases += bias;
    EXPECT_EQ(source.tensors().at(spec.name).entry->dtype, bias ? "F32" : "BF16") << spec.name;
    const Tensor before = model.weights.master(i), after = loaded.weights.master(i);
    for (int64_t k = 0; k < before.count(); ++k) {
      const float x = before.ptr<float>()[k];
      const float expected = bias ? x : static_cast<float>(Bf16(x));
      rounded += expected != x;
      ASSERT_EQ(after.ptr<float>()[k], expected) << spec.name << " " << k;
    }
  }
  EXPECT_EQ(biases, 2);  // the expert layer's and the MTP module's
  EXPECT_GT(rounded, 1000);
}

TEST(Export, NamesOfTheSpecificationOneByOne) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  export_model(open_model(make_run(folder / "run", model)), folder / "hf", {});
  const SafetensorsFile file(folder / "hf/model.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const auto shape = [&](const std::string& name) {
    const SafetensorsEntry* e = file.find(name);
    return e ? e->shape : std::vector<int64_t>{};
  };
  EXPECT_THAT(shape("model.embed_tokens.weight"), ElementsAre(280, 16));
  EXPECT_THAT(shape("model.layers.0.mlp.gate_proj.weight"), ElementsAre(24, 16));
  EXPECT_THAT(shape("model.layers.1.mlp.experts.3.down_proj.weight"), ElementsAre(16, 8));
  EXPECT_THAT(shape("model.layers.1.mlp.gate.e_score_correction_bias"), ElementsAre(4));
  EXPECT_THAT(shape("model.layers.1.self_attn.kv_a_proj_with_mqa.weight"), ElementsAre(8, 16));
  EXPECT_THAT(shape("model.layers.2.eh_proj.weight"), ElementsAre(16, 32));
  // The MTP module's copies of what it shares.
  for (const auto& [copy, original] :
       std::map<std::string, std::string>{{"embed_tokens", "model.embed_tokens"}, {"shared_head.head", "lm_head"}}) {
    const SafetensorsEntry* a = file.find("model.layers.2." + copy + ".weight");
    ASSERT_NE(a, nullptr) << copy;
    const auto x = file.bytes(*a), y = file.bytes(*file.find(original + ".weight"));
    EXPECT_TRUE(std::equal(x.begin(), x.end(), y.begin(), y.end())) << copy;
  }
  const json config = read_json(folder / "hf/config.json"), generation = read_json(folder / "hf/generation_config.json");
  EXPECT_THAT(config["architectures"], ElementsAre("DeepseekV3ForCausalLM"));
  EXPECT_EQ(config["bos_token_id"], Tokenizer::load(folder / "hf").bos_id());
  EXPECT_EQ(generation["eos_token_id"], Tokenizer::load(folder / "hf").eos_id());
}

// Sizes that 128 does not divide, as DeepSeek-V3's 576 × 7168.
ModelConfig ragged_config() {
  ModelConfig c = small_config();
  c.hidden_size = 160, c.intermediate_size = 200, c.moe_intermediate_size = 136;
  c.q_lora_rank = 130, c.kv_lora_rank = 140, c.qk_rope_head_dim = 4;
  return c;
}

// E4M3 keeps 3 bits behind the leading one: half a unit of the last one is 2^-4 of a normal value. Below, codes are multiples
// of 2^-9 · scale, and the largest code, 448, is at most twice the block's largest value over its scale.
TEST(Export, Fp8HasAScalePerBlock) {
  const TemporaryFolder folder;
  const SmallModel model(1, "bf16", ragged_config());
  const ModelSource run = open_model(make_run(folder / "run", model));
  export_model(run, folder / "hf", {.dtype = DType::kE4M3});
  const json config = read_json(folder / "hf/config.json");
  EXPECT_EQ(config["torch_dtype"], "bfloat16");
  EXPECT_EQ(config["quantization_config"], json::parse(R"({"activation_scheme": "dynamic", "fmt": "e4m3",
            "quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"})"));
  const ModelSource source = open_model(folder / "hf");
  const SourceTensor& kv = source.model_tensors.at("model.layers.0.self_attn.kv_a_proj_with_mqa.weight");
  EXPECT_EQ(kv.entry->dtype, "F8_E4M3");
  EXPECT_THAT(kv.entry->shape, ElementsAre(144, 160));
  EXPECT_EQ(kv.scale->dtype, "F32");
  EXPECT_THAT(kv.scale->shape, ElementsAre(2, 2));
  SmallModel loaded(2, "bf16", ragged_config());
  load(source, loaded.weights);
  int64_t fp8 = 0;
  for (size_t i = 0; i < model.weights.list().size(); ++i) {
    const TensorSpec& spec = model.weights.list()[i];
    const bool plain = spec.role != Role::kExpert && (spec.role != Role::kLinear || spec.name.ends_with("eh_proj.weight"));
    EXPECT_EQ(source.model_tensors.at(spec.name).is_fp8(), !plain) << spec.name;
    fp8 += !plain;
    const Tensor a = model.weights.master(i), b = loaded.weights.master(i);
    float largest = 0;
    for (int64_t j = 0; j < a.count(); ++j) largest = std::max(largest, std::abs(a.ptr<float>()[j]));
    for (int64_t j = 0; j < a.count(); ++j) {
      const float x = a.ptr<float>()[j];
      if (plain) {
        const bool bias = spec.role == Role::kRouterBias;
        ASSERT_EQ(b.ptr<float>()[j], bias ? x : static_cast<float>(Bf16(x))) << spec.name << " " << j;
      } else {
        ASSERT_NEAR(b.ptr<float>()[j], x, std::abs(x) / 16 + largest / 448 * 2 / 1024) << spec.name << " " << j;
      }
    }
  }
  EXPECT_GT(fp8, 30);
}

TEST(Export, Fp8KeepsTheCodesOfFp8) {
  const TemporaryFolder folder;
  const SmallModel model(1, "bf16", ragged_config());
  export_model(open_model(make_run(folder / "run", model)), folder / "a", {.dtype = DType::kE4M3});
  export_model(open_model(folder / "a"), folder / "b", {.dtype = DType::kE4M3, .shard_bytes = 50000});
  // A code times a power of two is a BF16 number; quantised again it is the same one, if by another scale where the block's
  // largest value was rounded down to a power of two.
  export_model(open_model(folder / "a"), folder / "bf16", {.dtype = DType::kBF16});
  export_model(open_model(folder / "bf16"), folder / "c", {.dtype = DType::kE4M3});
  SmallModel once(2, "bf16", ragged_config()), again(3, "bf16", ragged_config());
  load(open_model(folder / "a"), once.weights);
  load(open_model(folder / "c"), again.weights);
  expect_equal(named_tensors(once.weights), named_tensors(again.weights));
  const ModelSource a = open_model(folder / "a"), b = open_model(folder / "b");
  EXPECT_GT(b.files.size(), 3u);
  ASSERT_EQ(a.model_tensors.size(), b.model_tensors.size());
  for (const auto& [name, x] : a.model_tensors) {
    const SourceTensor& y = b.model_tensors.at(name);
    EXPECT_TRUE(std::ranges::equal(x.file->bytes(*x.entry), y.file->bytes(*y.entry))) << name;
    ASSERT_EQ(x.is_fp8(), y.is_fp8()) << name;
    if (x.is_fp8()) {
      EXPECT_TRUE(std::ranges::equal(x.scale_file->bytes(*x.scale), y.scale_file->bytes(*y.scale))) << name;
    }
  }
}

TEST(Export, Fp8BlocksOfWhatIsNoNumberHaveNoNumberForAScale) {
  const TemporaryFolder folder;
  SmallModel model(1);
  const Tensor w = model.weights.master(model.weights.list().at("model.layers.0.mlp.up_proj.weight"));
  w.ptr<float>()[3] = std::nanf("");
  export_model(open_model(make_run(folder / "run", model)), folder / "hf", {.dtype = DType::kE4M3});
  SmallModel loaded(2);
  load(open_model(folder / "hf"), loaded.weights);
  const Tensor read = loaded.weights.master(model.weights.list().at("model.layers.0.mlp.up_proj.weight"));
  for (int64_t i = 0; i < read.count(); ++i) EXPECT_TRUE(std::isnan(read.ptr<float>()[i])) << i;
}

TEST(Export, CarriesWhatIsKnownOfTheTraining) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  CheckpointContents contents = model.contents(100);
  contents.trainer["heldout_loss"] = 2.5;
  CheckpointWriter writer(folder / "run", 2);
  writer.save(contents);
  writer.wait();
  save_small_tokenizer(folder / "run/tokenizer");
  const ModelSource run = open_model(folder / "run");
  EXPECT_EQ(run.heldout_loss, 2.5);
  export_model(run, folder / "a", {});
  export_model(open_model(folder / "a"), folder / "b", {});
  export_model(run, folder / "ema", {.ema = true});
  for (const char* name : {"a", "b"}) {
    const ModelSource source = open_model(folder / name);
    EXPECT_EQ(source.tokens_seen, 100000);
    EXPECT_EQ(source.heldout_loss, 2.5);
  }
  const ModelSource ema = open_model(folder / "ema");
  EXPECT_EQ(ema.tokens_seen, 100000);
  EXPECT_FALSE(ema.heldout_loss) << "the loss was not measured with the average";
}

TEST(Export, SameBytesTwiceWithoutPaths) {
  const TemporaryFolder folder, elsewhere;
  const SmallModel model(1);
  export_model(open_model(make_run(folder / "run", model)), folder / "a", {});
  export_model(open_model(make_run(elsewhere / "other", model, 100)), elsewhere / "deep/b/", {});
  const auto names = names_in(folder / "a");
  EXPECT_EQ(names, names_in(elsewhere / "deep/b"));
  for (const std::string& name : names) {
    const std::string bytes = read_file(folder / "a" / name);
    EXPECT_EQ(bytes, read_file(elsewhere / "deep/b" / name)) << name;
    EXPECT_EQ(bytes.find(folder.path().filename().string()), std::string::npos) << name;
  }
}

TEST(Export, ShardsWithAnIndexThatMatches) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  const ModelSource run = open_model(make_run(folder / "run", model));
  export_model(run, folder / "hf", {.dtype = DType::kF32, .ema = true, .shard_bytes = 20000});
  const json index = read_json(folder / "hf/model.safetensors.index.json");
  int64_t shards = 0, bytes = 0;
  for (const std::string& name : names_in(folder / "hf")) {
    if (!name.ends_with(".safetensors")) continue;
    ++shards;
    const SafetensorsFile file(folder / "hf" / name);
    int64_t here = 0;
    for (const SafetensorsEntry& e : file.entries()) {
      EXPECT_EQ(index["weight_map"][e.name], name);
      here += e.end - e.begin;
    }
    EXPECT_LE(here, 20000);
    bytes += here;
  }
  EXPECT_GT(shards, 3);
  EXPECT_TRUE(fs::exists(folder / "hf" / fmt::format("model-00001-of-{:05d}.safetensors", shards)));
  EXPECT_EQ(index["metadata"]["total_size"], bytes);
  SmallModel loaded(2);
  load(open_model(folder / "hf"), loaded.weights);
  expect_equal(named_tensors(loaded.weights), model.ema());
  load(run, loaded.weights, true);
  expect_equal(named_tensors(loaded.weights), model.ema());
}

TEST(Export, RefusesWhatItCannotDo) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  const fs::path run = make_run(folder / "run", model);
  const ModelSource source = open_model(run);
  fs::create_directories(folder / "full");
  write_file_atomically(folder / "full/precious", "x");
  EXPECT_THAT(error_of([&] { export_model(source, folder / "full", {}); }), HasSubstr("not empty"));
  EXPECT_THAT(error_of([&] { export_model(source, folder / "full/precious", {}); }), HasSubstr("no directory"));
  EXPECT_THAT(names_in(folder / "full"), ElementsAre("precious"));
  fs::create_directories(folder / "empty");
  export_model(source, folder / "empty", {});
  EXPECT_TRUE(fs::exists(folder / "empty/config.json"));
  const ModelSource exported = open_model(folder / "empty");
  EXPECT_THAT(error_of([&] { export_model(exported, folder / "x", {.ema = true}); }), HasSubstr("no averaged weights"));
  fs::remove_all(run / "tokenizer");
  EXPECT_THAT(error_of([&] { export_model(source, folder / "x", {}); }), HasSubstr("tokenizer.json"));
  EXPECT_FALSE(fs::exists(folder / "x"));
}

TEST(Export, FullDiskLeavesNothing) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  const ModelSource source = open_model(make_run(folder / "run", model));
  const auto usual = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit little = before;
  little.rlim_cur = 5000;
  std::string message;
  ::setrlimit(RLIMIT_FSIZE, &little);
  try {
    export_model(source, folder / "hf", {});
  } catch (const Error& error) {
    message = error.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, usual);
  EXPECT_THAT(message, HasSubstr("cannot write"));
  EXPECT_THAT(names_in(folder.path()), ElementsAre("run"));
}

TEST(Export, OtherKindsOfModels) {
  for (const char* kind : {"llama", "tied", "dense", "no query LoRA"}) {
    const TemporaryFolder folder;
    ModelConfig c = small_config();
    const std::string name = kind;
    if (name == "llama") {
      ModelConfig llama;
      llama.architecture = "llama";
      llama.vocab_size = c.vocab_size, llama.hidden_size = 16, llama.intermediate_size = 24;
      llama.num_hidden_layers = 2, llama.num_attention_heads = 4, llama.num_key_value_heads = 2;
      llama.max_position_embeddings = 64;
      c = llama;
    }
    if (name == "tied") c.tie_word_embeddings = true;
    if (name == "dense") c.n_routed_experts = c.n_shared_experts = 0;
    if (name == "no query LoRA") c.q_lora_rank = 0;
    const SmallModel model(1, "fp64", c);
    export_model(open_model(make_run(folder / "run", model)), folder / "hf", {.dtype = DType::kF32});
    SmallModel loaded(2, "fp32", open_model(folder / "hf").config), expected(3, "fp32", c);
    load(open_model(folder / "run"), expected.weights);
    load(open_model(folder / "hf"), loaded.weights);
    expect_equal(named_tensors(loaded.weights), named_tensors(expected.weights));
    EXPECT_EQ(expected.weights.master(0).ptr<float>()[5], static_cast<float>(model.weights.master(0).ptr<double>()[5]));
  }
}

}  // namespace
}  // namespace rorqual
