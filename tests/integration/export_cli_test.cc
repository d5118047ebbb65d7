// Exports in every form, as a user makes and checks them: directories in BF16 and FP8, GGUF files, verify, training from an
// export.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/integration/program.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Json = nlohmann::json;

class Exports : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    bench_ = std::make_unique<Workbench>();
    const ProgramResult trained = bench_->train("run", "--set train.learning_rate=1e-2");
    ASSERT_EQ(trained.code, 0) << trained.err;
    for (const char* dtype : {"f32", "bf16", "fp8"})
      succeed("export " + at("run") + " --dtype " + dtype + " --to " + at(dtype));
  }
  static void TearDownTestSuite() { bench_.reset(); }

  static Json json(const std::string& arguments) {
    const ProgramResult result = run_rorqual(arguments + " --json");
    EXPECT_EQ(result.code, 0) << arguments << "\n" << result.err;
    return Json::parse(result.out, nullptr, false);
  }
  static void succeed(const std::string& arguments) {
    const ProgramResult result = run_rorqual(arguments);
    ASSERT_EQ(result.code, 0) << arguments << "\n" << result.err;
  }
  static std::string at(const char* name) { return bench_->at(name); }

  static std::unique_ptr<Workbench> bench_;
};

std::unique_ptr<Workbench> Exports::bench_;

TEST_F(Exports, VerifyComparesAModelWithItsExports) {
  const Json same = json("verify " + at("run") + " " + at("f32"));
  EXPECT_EQ(same["largest_difference"], 0);
  EXPECT_EQ(same["mean_difference"], 0);
  EXPECT_EQ(same["agreement"], 1);
  EXPECT_GT(same["tokens"], 300);
  EXPECT_GT(same["largest_logit"], 0);
  double before = 0;
  for (const char* dtype : {"bf16", "fp8"}) {
    const Json rounded = json("verify " + at("run") + " " + at(dtype) + " --tokens 100");
    EXPECT_EQ(rounded["tokens"], 100);
    EXPECT_GT(rounded["mean_difference"], before) << "FP8 keeps less than BF16";
    EXPECT_GE(rounded["largest_difference"], rounded["mean_difference"]);
    // Weights that are rounded by at most 2^-4 of themselves move logits by less than logits are large.
    EXPECT_LT(rounded["mean_difference"], 0.25 * same["largest_logit"].get<double>());
    EXPECT_GT(rounded["agreement"], 0.5);
    before = rounded["mean_difference"];
  }
  const ProgramResult words = run_rorqual("verify " + at("run") + " " + at("bf16") + " --file " + at("text/1.txt"));
  EXPECT_THAT(words.out, HasSubstr("the most likely token is the same after"));
}

TEST_F(Exports, VerifyRefusesStrangers) {
  succeed("tokenizer train --data docs --vocab 300 --out " + at("strange"));
  fs::copy(*bench_ / "f32", *bench_ / "stranger");
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"})
    fs::copy_file(*bench_ / "strange" / file, *bench_ / "stranger" / file, fs::copy_options::overwrite_existing);
  const ProgramResult result = run_rorqual("verify " + at("run") + " " + at("stranger"));
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("encode the text differently"));
}

// Every command takes a directory in FP8: what it says of the model differs from the run by the rounding of the weights alone.
TEST_F(Exports, CommandsTakeFp8Directories) {
  const Json run = json("inspect " + at("run")), fp8 = json("inspect " + at("fp8"));
  EXPECT_EQ(fp8["parameters"], run["parameters"]);
  EXPECT_EQ(fp8["tokens"], run["tokens"]);
  EXPECT_EQ(fp8["heldout_loss"], run["heldout_loss"]);
  EXPECT_TRUE(run["heldout_loss"].is_number());
  const std::string tensors = fp8["tensors"].dump();
  EXPECT_THAT(tensors, HasSubstr("\"model.layers.1.mlp.experts.7.down_proj.weight_scale_inv\""));
  EXPECT_THAT(tensors, HasSubstr("F8_E4M3"));
  const std::string file = " --file " + at("run/heldout.txt");
  const double loss = json("score " + at("run") + file)["loss"];
  EXPECT_NEAR(json("score " + at("fp8") + file)["loss"].get<double>(), loss, 0.05 * loss);
  EXPECT_EQ(json("generate " + at("fp8") + " --prompt 'the page' --max-tokens 5")["prompt"], "the page");
  succeed("export " + at("fp8") + " --dtype f32 --to " + at("wide"));
  EXPECT_EQ(json("verify " + at("wide") + " " + at("fp8"))["largest_difference"], 0);
  const ProgramResult trained = bench_->train("again", "--init " + at("fp8") + " --set train.steps=2");
  EXPECT_EQ(trained.code, 0) << trained.err;
}

TEST_F(Exports, GgufFilesAreWrittenAndInspected) {
  for (const char* dtype : {"f32", "bf16", "q8_0"}) {
    const std::string file = at((std::string("model-") + dtype + ".gguf").c_str());
    succeed("export " + at("run") + " --dtype " + dtype + " --to " + file);
    const Json found = json("inspect " + file);
    EXPECT_EQ(found["kind"], "gguf");
    EXPECT_EQ(found["parameters"]["total"], json("inspect " + at("run"))["parameters"]["total"]);
    EXPECT_EQ(found["metadata"]["general.architecture"], "deepseek2");
    EXPECT_EQ(found["metadata"]["rorqual.tokens_seen"], 8 * 8 * 24);
    EXPECT_EQ(found["metadata"]["rorqual.heldout_loss"], json("inspect " + at("run"))["heldout_loss"]);
    EXPECT_EQ(found["metadata"]["tokenizer.ggml.tokens"]["elements"], 300);
    EXPECT_THAT(run_rorqual("inspect " + file).out, HasSubstr("blk.{0..1}.attn_k_b.weight"));
  }
  for (const char* wrong : {"--dtype fp8 --to x.gguf", "--dtype q8_0 --to x"})
    EXPECT_EQ(run_rorqual("export " + at("run") + " " + wrong).code, 2) << wrong;
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Converting needs memory for a few rows of tensors, not for the model: here 300 MB of weights (a sparse file of zeros), of
// which the converter and everything else that this test starts must never hold a third.
TEST_F(Exports, ConvertingNeedsLittleMemory) {
  const fs::path folder = *bench_ / "large";
  fs::create_directories(folder);
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) fs::copy_file(*bench_ / "f32" / file, folder / file);
  Json config = Json::parse(read_file(*bench_ / "f32/config.json"));
  config["hidden_size"] = 1024, config["moe_intermediate_size"] = 1024, config["num_hidden_layers"] = 7;
  config["num_nextn_predict_layers"] = 0;
  bench_->write("large/config.json", config.dump());
  // The tensors as `inspect` lists them of the recipe of that shape, all BF16.
  std::string recipe = "[model]\n";
  const Json shape = json("inspect " + at("f32"))["config"];
  for (const auto& [key, value] : shape.items())
    if (!value.is_null() && key != "architecture")
      recipe += key + " = " + (config.contains(key) && !config[key].is_null() ? config[key] : value).dump() + "\n";
  bench_->write("large.toml", recipe + "[train]\nsequence_length = 24\n");
  Json header;
  int64_t end = 0;
  const Json tensors = json("inspect " + at("large.toml"))["tensors"];
  for (const Json& t : tensors) {
    int64_t bytes = 2;
    for (const Json& n : t["shape"]) bytes *= n.get<int64_t>();
    header[t["name"].get<std::string>()] = {{"dtype", "BF16"}, {"shape", t["shape"]}, {"data_offsets", {end, end + bytes}}};
    end += bytes;
  }
  ASSERT_GT(end, 300'000'000);
  const std::string text = header.dump();
  const uint64_t length = text.size();
  bench_->write("large/model.safetensors", std::string(reinterpret_cast<const char*>(&length), 8) + text);
  fs::resize_file(folder / "model.safetensors", 8 + length + static_cast<uint64_t>(end));
  for (const char* to : {"large-fp8 --dtype fp8", "large.gguf --dtype q8_0"})
    succeed("export " + folder.string() + " --to " + at(to));
  rusage use{};
  ::getrusage(RUSAGE_CHILDREN, &use);
  EXPECT_LT(use.ru_maxrss * 1024, 100'000'000) << "of " << end << " bytes of weights";
  RecordProperty("peak_bytes", std::to_string(use.ru_maxrss * 1024));
  fs::remove_all(folder);
}
#endif

}  // namespace
}  // namespace rorqual
