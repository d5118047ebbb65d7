#include "checkpoint/model_source.h"

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
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kIndex = "model.safetensors.index.json";

// A Hugging Face directory in several shards, to be damaged.
class HuggingFace : public testing::Test {
 protected:
  HuggingFace() : model_(1) {
    export_model(open_model(make_run(folder_ / "run", model_)), dir_, {.dtype = DType::kF32, .shard_bytes = 30000});
  }

  json index() const { return json::parse(read_file(dir_ / kIndex)); }
  void set_index(const json& j) const { overwrite(dir_ / kIndex, j.dump()); }
  void change_config(const std::function<void(json&)>& change) const {
    json config = json::parse(read_file(dir_ / "config.json"));
    change(config);
    overwrite(dir_ / "config.json", config.dump());
  }
  std::string shard_of(const std::string& tensor) const { return index()["weight_map"][tensor]; }

  // Writes the shard that holds `tensor` again, its declarations changed.
  using Declarations = std::vector<SafetensorsWriter::Declaration>;
  void rewrite(const std::string& tensor, const std::function<void(Declarations&)>& change) const {
    const fs::path path = dir_ / shard_of(tensor);
    Declarations declarations;
    {
      const SafetensorsFile file(path);
      for (const SafetensorsEntry& e : file.entries()) declarations.push_back({e.name, DType::kF32, e.shape});
    }
    change(declarations);
    SafetensorsWriter writer(path, declarations, {});
    for (const auto& d : declarations) {
      int64_t bytes = size_of(d.dtype);
      for (const int64_t n : d.shape) bytes *= n;
      std::vector<double> zeros(static_cast<size_t>(bytes / 8 + 1));
      writer.write(Tensor(zeros.data(), d.dtype, 1, bytes / size_of(d.dtype)));
    }
    writer.commit();
  }
  std::string open_error() const {
    return error_of([&] { open_model(dir_); });
  }

  const std::string norm_ = "model.layers.1.post_attention_layernorm.weight";
  TemporaryFolder folder_;
  const fs::path dir_ = folder_ / "hf";
  SmallModel model_;
};

TEST_F(HuggingFace, WholeOneOpens) {
  const ModelSource source = open_model(dir_);
  EXPECT_GT(source.files.size(), 2u);
  EXPECT_EQ(source.config.num_nextn_predict_layers, 1);
  EXPECT_EQ(source.tokenizer_directory, dir_);
  EXPECT_THAT(error_of([&] { source.tensors(true); }), HasSubstr("no averaged weights"));
}

TEST_F(HuggingFace, MissingShardIsNamed) {
  const std::string shard = shard_of(norm_);
  fs::remove(dir_ / shard);
  EXPECT_THAT(open_error(), AllOf(HasSubstr(shard + " is missing"), HasSubstr(kIndex)));
}

TEST_F(HuggingFace, TruncatedShardIsNamed) {
  const std::string shard = shard_of(norm_), bytes = read_file(dir_ / shard);
  for (const size_t kept : {size_t{0}, size_t{5}, size_t{100}, bytes.size() - 1}) {
    overwrite(dir_ / shard, bytes.substr(0, kept));
    EXPECT_THAT(open_error(), HasSubstr(shard)) << kept;
  }
}

TEST_F(HuggingFace, IndexMustMatchItsShards) {
  const json whole = index();
  json j = whole;
  j["weight_map"].erase(norm_);
  set_index(j);
  EXPECT_THAT(open_error(), AllOf(HasSubstr("does not name"), HasSubstr(norm_)));
  j = whole;
  j["weight_map"]["model.phantom.weight"] = whole["weight_map"][norm_];
  set_index(j);
  EXPECT_THAT(open_error(), AllOf(HasSubstr("no tensor 'model.phantom.weight'"), HasSubstr("places there")));
  j = whole;
  j["weight_map"][norm_] = whole["weight_map"]["model.layers.2.embed_tokens.weight"];
  ASSERT_NE(j, whole);
  set_index(j);
  EXPECT_THAT(open_error(), HasSubstr(norm_));
  j = whole;
  j["weight_map"][norm_] = "../run/checkpoints/step-00000100/model.safetensors";
  set_index(j);
  EXPECT_THAT(open_error(), HasSubstr("no file name beside the index"));
  for (const char* text : {"", "[]", "{}", "{\"weight_map\": {}}", "{\"weight_map\": {\"a\": 1}}", "{\"weight_map\": 3}"}) {
    overwrite(dir_ / kIndex, text);
    EXPECT_THAT(open_error(), HasSubstr(kIndex)) << text;
  }
}

TEST_F(HuggingFace, MissingAndSurplusTensorsAreNamed) {
  json j = index();
  rewrite(norm_, [&](Declarations& d) { std::erase_if(d, [&](const auto& t) { return t.name == norm_; }); });
  j["weight_map"].erase(norm_);
  set_index(j);
  EXPECT_THAT(open_error(), AllOf(HasSubstr("lacks " + norm_)));
  change_config([](json& c) { c["n_shared_experts"] = 0; });
  EXPECT_THAT(open_error(), HasSubstr("lacks " + norm_));
}

TEST_F(HuggingFace, SurplusTensorsAreNamed) {
  change_config([](json& c) { c["n_shared_experts"] = 0; });
  EXPECT_THAT(open_error(), AllOf(HasSubstr("no place for"), HasSubstr("mlp.shared_experts.up_proj.weight and 3 more")));
}

TEST_F(HuggingFace, WrongShapeIsNamed) {
  rewrite(norm_, [&](Declarations& d) {
    for (auto& t : d)
      if (t.name == norm_) t.shape = {17};
  });
  EXPECT_THAT(open_error(), AllOf(HasSubstr(norm_), HasSubstr("shape [17]"), HasSubstr("[16]")));
}

TEST_F(HuggingFace, WrongDtypeIsNamedWhenLoading) {
  rewrite(norm_, [&](Declarations& d) {
    for (auto& t : d)
      if (t.name == norm_) t.dtype = DType::kI32;
  });
  const ModelSource source = open_model(dir_);
  ThreadPool pool(1);
  SmallModel target(3);
  const SmallModel untouched(3);
  EXPECT_THAT(error_of([&] { source.load_weights(target.weights, Stream(pool)); }), AllOf(HasSubstr(norm_), HasSubstr("I32")));
  EXPECT_THAT(error_of([&] { export_model(source, folder_ / "again", {}); }), HasSubstr("I32"));
  expect_equal(named_tensors(target.weights), named_tensors(untouched.weights));
}

TEST_F(HuggingFace, OtherQuantisationsAreRefused) {
  for (const char* config : {R"({"quant_method": "gptq"})", R"({"quant_method": "fp8", "fmt": "e5m2"})", R"({"bits": 4})",
                             R"({"quant_method": "fp8", "weight_block_size": [128]})",
                             R"({"quant_method": "fp8", "weight_block_size": [0, 128]})", "3"}) {
    change_config([&](json& c) { c["quantization_config"] = json::parse(config); });
    EXPECT_THAT(open_error(), AllOf(HasSubstr("config.json"), HasSubstr("quantization_config"))) << config;
  }
}

// FP8 with one block of four rows and six columns per scale, so that the small model has ragged edges.
class Fp8HuggingFace : public testing::Test {
 protected:
  static constexpr int64_t kRows = 4, kCols = 6;

  Fp8HuggingFace() : model_(1) {
    const fs::path run = make_run(folder_ / "run", model_);
    const ModelSource source = open_model(run);
    fs::create_directories(dir_);
    json config = json(config_to_hugging_face(source.config, "bfloat16", 0, 1));
    config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {kRows, kCols}}};
    overwrite(dir_ / "config.json", config.dump());
    const TensorList list(source.config);
    for (const TensorSpec& s : list.specs()) add(s);
  }

  void add(const TensorSpec& s) {
    const bool fp8 = s.role == Role::kExpert || s.role == Role::kLinear;
    weights_[s.name] = {fp8 ? DType::kE4M3 : DType::kF32, shape_of(s)};
    if (fp8) scales_[s.name + "_scale_inv"] = {(s.rows + kRows - 1) / kRows, (s.cols + kCols - 1) / kCols};
  }

  // The weights in one file, the scales in another.
  void write() const {
    json map;
    std::vector<SafetensorsWriter::Declaration> a, b;
    for (const auto& [name, t] : weights_) a.push_back({name, t.first, t.second}), map[name] = "weights.safetensors";
    for (const auto& [name, shape] : scales_) b.push_back({name, DType::kF32, shape}), map[name] = "scales.safetensors";
    for (const auto& [file, tensors] : {std::pair{"weights.safetensors", a}, {"scales.safetensors", b}}) {
      SafetensorsWriter writer(dir_ / file, tensors, {});
      for (const auto& t : tensors) {
        std::vector<float> values;
        std::vector<E4M3> codes;
        int64_t count = 1;
        for (const int64_t n : t.shape) count *= n;
        for (int64_t i = 0; i < count; ++i) values.push_back(value(t.name, i)), codes.emplace_back(value(t.name, i));
        const bool fp8 = t.dtype == DType::kE4M3;
        writer.write(Tensor(fp8 ? static_cast<void*>(codes.data()) : values.data(), t.dtype, 1, count));
      }
      writer.commit();
    }
    overwrite(dir_ / kIndex, json{{"weight_map", map}}.dump());
  }
  // Scales that are no powers of two; codes that E4M3 holds exactly.
  static float value(const std::string& name, int64_t i) {
    const auto n = static_cast<float>((i * 7 + static_cast<int64_t>(name.size())) % 13 - 6);
    return name.ends_with("_scale_inv") ? 0.3f + 0.7f * std::abs(n) : n;
  }
  std::string open_error() const {
    write();
    return error_of([&] { open_model(dir_); });
  }

  const std::string weight_ = "model.layers.1.mlp.experts.2.up_proj.weight";
  std::map<std::string, std::pair<DType, std::vector<int64_t>>> weights_;
  std::map<std::string, std::vector<int64_t>> scales_;
  TemporaryFolder folder_;
  const fs::path dir_ = folder_ / "fp8";
  SmallModel model_;
};

TEST_F(Fp8HuggingFace, CodesAreMultipliedByScalesOfAnotherShard) {
  write();
  const ModelSource source = open_model(dir_);
  ThreadPool pool(2);
  source.load_weights(model_.weights, Stream(pool));
  for (size_t t = 0; t < model_.weights.list().size(); ++t) {
    const TensorSpec& s = model_.weights.list()[t];
    const int64_t groups = (s.cols + kCols - 1) / kCols;
    for (int64_t i = 0; i < s.count(); ++i) {
      float expected = value(s.name, i);
      if (s.role == Role::kExpert || s.role == Role::kLinear)
        expected *= value(s.name + "_scale_inv", i / s.cols / kRows * groups + i % s.cols / kCols);
      ASSERT_EQ(model_.weights.master(t).ptr<float>()[i], expected) << s.name << " " << i;
    }
  }
}

TEST_F(Fp8HuggingFace, WeightsWithoutScalesAreNamed) {
  scales_.erase(weight_ + "_scale_inv");
  EXPECT_THAT(open_error(), AllOf(HasSubstr("lacks " + weight_ + "_scale_inv")));
}

TEST_F(Fp8HuggingFace, ScalesWithoutWeightsAreNamed) {
  scales_["model.norm.weight_scale_inv"] = {1, 1};
  EXPECT_THAT(open_error(), HasSubstr("no FP8 weight for model.norm.weight_scale_inv"));
}

TEST_F(Fp8HuggingFace, ScalesOfAnotherShapeAreNamed) {
  scales_[weight_ + "_scale_inv"] = {2, 2};
  EXPECT_THAT(open_error(), AllOf(HasSubstr(weight_ + "_scale_inv"), HasSubstr("has shape [2, 2]"), HasSubstr("[2, 3]")));
}

TEST_F(HuggingFace, AbsentMtpModuleIsLeftOutWithAWarning) {
  change_config([](json& c) { c["num_nextn_predict_layers"] = 2; });
  testing::internal::CaptureStderr();
  const ModelSource source = open_model(dir_);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("1 of 2 MTP modules"));
  EXPECT_EQ(source.config.num_nextn_predict_layers, 1);
  ThreadPool pool(1);
  SmallModel loaded(9, "bf16", source.config);
  source.load_weights(loaded.weights, Stream(pool));
  expect_equal(named_tensors(loaded.weights), named_tensors(model_.weights));
}

// A reader that needs no MTP module leaves it where it is; a model of another shape is refused.
TEST_F(HuggingFace, LoadsIntoAModelWithoutMtp) {
  const ModelSource source = open_model(dir_);
  ThreadPool pool(1);
  ModelConfig main = source.config;
  main.num_nextn_predict_layers = 0;
  SmallModel loaded(9, "bf16", main);
  source.load_weights(loaded.weights, Stream(pool));
  std::vector<NamedTensor> expected = named_tensors(model_.weights);
  std::erase_if(expected, [](const NamedTensor& t) { return t.name.starts_with("model.layers.2."); });
  expect_equal(named_tensors(loaded.weights), expected);
  main.num_hidden_layers = 1;
  SmallModel smaller(9, "bf16", main);
  EXPECT_THAT(error_of([&] { source.load_weights(smaller.weights, Stream(pool)); }),
              HasSubstr("no place for its model.layers.1"));
  main.num_hidden_layers = 3;  // the MTP module's block must not pass for a third layer
  SmallModel larger(9, "bf16", main);
  EXPECT_THAT(error_of([&] { source.load_weights(larger.weights, Stream(pool)); }), HasSubstr("it has 2 layers"));
  main = source.config;
  main.intermediate_size = 32;
  SmallModel wider(9, "bf16", main);
  EXPECT_THAT(error_of([&] { source.load_weights(wider.weights, Stream(pool)); }), HasSubstr("shape [24, 16], [32, 16]"));
}

TEST_F(HuggingFace, OtherTroubleIsSaid) {
  EXPECT_THAT(error_of([&] { open_model(folder_ / "nowhere"); }), HasSubstr("no such model"));
  EXPECT_THAT(error_of([&] { open_model(folder_.path()); }), HasSubstr("neither a Hugging Face directory"));
  fs::create_directories(folder_ / "young/checkpoints");
  EXPECT_THAT(error_of([&] { open_model(folder_ / "young"); }), HasSubstr("no checkpoint yet"));
  EXPECT_EQ(open_model(folder_ / "run/checkpoints/step-00000100").step, 100);
  for (const char* text : {"", "[]", "{", "{\"model_type\": \"gpt2\"}"}) {
    overwrite(dir_ / "config.json", text);
    EXPECT_THAT(open_error(), HasSubstr("config.json")) << text;
  }
  overwrite(folder_ / "young/config.json", json(config_to_hugging_face(small_config(), "float32", 0, 1)).dump());
  EXPECT_THAT(error_of([&] { open_model(folder_ / "young"); }), HasSubstr("no weights"));
}

TEST(ModelSource, NumberFormatsAreTheRecipesOfTheRun) {
  const SmallModel model(1);
  const auto formats = [&](const char* recipe) {
    const TemporaryFolder folder;
    CheckpointContents contents = model.contents(100);
    contents.recipe = recipe;
    CheckpointWriter writer(folder.path(), 2);
    writer.save(contents);
    writer.wait();
    save_small_tokenizer(folder / "tokenizer");
    return open_model(folder.path()).formats;
  };
  EXPECT_EQ(formats("seed = 3\n"), PrecisionRecipe());
  const PrecisionRecipe expected = {
      .precision = "fp8", .scales = "report", .residual = "fp32", .weight_granularity = "tensor", .delayed_steps = 8};
  EXPECT_EQ(formats("scales = \"report\"\nresidual = \"fp32\"\n"
                    "[fp8]\nweight_granularity = \"tensor\"\ndelayed_steps = 8\n"),
            expected);
  EXPECT_THAT(error_of([&] { formats("scales = 3\n"); }), HasSubstr("'scales' has the wrong type"));
  EXPECT_THAT(error_of([&] { formats("scales = \n"); }), HasSubstr("not valid TOML"));
}

TEST(ModelSource, DamagedRunIsRefused) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  make_run(folder.path(), model);
  const fs::path file = folder / "checkpoints/step-00000100/model.safetensors";
  std::string bytes = read_file(file);
  bytes[bytes.size() / 2] ^= 1;
  overwrite(file, bytes);
  EXPECT_THAT(error_of([&] { open_model(folder.path()); }), HasSubstr(file.string()));
}

}  // namespace
}  // namespace rorqual
