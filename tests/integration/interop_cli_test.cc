// What reads a model: generate, score, export, inspect, tokenizer, report. One run serves all of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "base/file.h"
#include "tests/integration/program.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

class ModelCommands : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    bench_ = std::make_unique<Workbench>();
    const ProgramResult trained = bench_->train("run", "--set train.learning_rate=1e-2");
    ASSERT_EQ(trained.code, 0) << trained.err;
  }
  static void TearDownTestSuite() { bench_.reset(); }

  // The one JSON object that a command prints.
  static Json json(const std::string& arguments, const std::string& environment = "") {
    const ProgramResult result = run_rorqual(arguments + " --json", environment);
    EXPECT_EQ(result.code, 0) << arguments << "\n" << result.err;
    Json object = Json::parse(result.out, nullptr, false);
    EXPECT_TRUE(object.is_object()) << arguments << " printed\n" << result.out;
    return object;
  }
  static void succeed(const std::string& arguments) {
    const ProgramResult result = run_rorqual(arguments);
    ASSERT_EQ(result.code, 0) << arguments << "\n" << result.err;
  }
  static std::string at(const char* name) { return bench_->at(name); }

  static std::unique_ptr<Workbench> bench_;
};

std::unique_ptr<Workbench> ModelCommands::bench_;

TEST_F(ModelCommands, GenerateGreedilyIsDeterministic) {
  const std::string command = "generate " + at("run") + " --prompt 'the page of' --max-tokens 9 --temperature 0";
  const Json a = json(command), b = json(command, "OMP_NUM_THREADS=1");
  EXPECT_EQ(a["prompt"], "the page of");
  EXPECT_EQ(a["token_ids"], b["token_ids"]);
  EXPECT_EQ(a["text"], b["text"]);
  EXPECT_GT(a["tokens_per_s"], 0);
  EXPECT_TRUE((a["token_ids"].size() == 9 && a["stop"] == "length") || a["stop"] == "end") << a;
  const ProgramResult plain = run_rorqual(command);
  EXPECT_EQ(plain.out, "the page of" + a["text"].get<std::string>() + "\n");
  EXPECT_THAT(plain.err, HasSubstr("tokens/s"));
}

TEST_F(ModelCommands, GenerateSamplesBySeed) {
  const std::string prompt = "generate " + at("run") + " --prompt the --max-tokens 12 ";
  const std::string command = prompt + "--temperature 1 --top-p 0.99 --top-k 200";
  const Json a = json(command + " --seed 5");
  EXPECT_EQ(a["token_ids"], json(command + " --seed 5")["token_ids"]);
  EXPECT_NE(a["token_ids"], json(command + " --seed 6")["token_ids"]);
  // The single likeliest token leaves nothing to the seed.
  EXPECT_EQ(json(prompt + "--seed 5 --top-k 1")["token_ids"], json(prompt + "--temperature 0")["token_ids"]);
}

TEST_F(ModelCommands, GenerateSaysThatTheContextIsFull) {
  // A context of 24: a BOS, the prompt's tokens, and what is left. Some seeds may end earlier.
  const std::string command = "generate " + at("run") + " --prompt 'the page of' --max-tokens 9223372036854775807 --seed ";
  for (int seed = 1; seed < 20; ++seed) {
    const ProgramResult result = run_rorqual(command + std::to_string(seed) + " --json");
    ASSERT_EQ(result.code, 0) << result.err;
    const Json found = Json::parse(result.out);
    if (found["stop"] == "end") continue;
    EXPECT_EQ(found["stop"], "context");
    EXPECT_LT(found["token_ids"].size(), 24u);
    EXPECT_THAT(result.err, HasSubstr("fill the model's context of 24 tokens"));
    return;
  }
  FAIL() << "no seed filled the context";
}

TEST_F(ModelCommands, ScoreCountsEveryTokenAndByte) {
  const std::string text = read_file(*bench_ / "text/0.txt") + "\xff\xfe <｜fim▁hole｜> ü";
  bench_->write("score.txt", text);
  const Json s = json("score " + at("run") + " --file " + at("score.txt"));
  EXPECT_EQ(s["bytes"], text.size());
  const double loss = s["loss"], tokens = s["tokens"];
  EXPECT_GT(loss, 0.5);
  EXPECT_LT(loss, std::log(300) + 1) << "near a uniform guess at worst";
  EXPECT_NEAR(s["perplexity"].get<double>(), std::exp(loss), 1e-9 * std::exp(loss));
  EXPECT_NEAR(s["bits_per_byte"].get<double>(), loss * tokens / static_cast<double>(text.size()) / std::log(2), 1e-9);
  // Text without special strings has as many tokens as `tokenizer encode` gives.
  const Json plain = json("score " + at("run") + " --file " + at("text/1.txt"));
  const ProgramResult ids = run_rorqual("tokenizer encode --tokenizer " + at("run/tokenizer") + " < " + at("text/1.txt"));
  std::istringstream words(ids.out);
  int64_t count = 0;
  for (std::string word; words >> word;) ++count;
  EXPECT_EQ(plain["tokens"], count) << ids.err;
}

TEST_F(ModelCommands, ExportsAreRepeatableAndScoreAlike) {
  for (const char* name : {"a", "b"}) succeed("export " + at("run") + " --dtype f32 --to " + at(name));
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(*bench_ / "a")) {
    names.insert(entry.path().filename());
    EXPECT_EQ(read_file(entry.path()), read_file(*bench_ / "b" / entry.path().filename())) << entry.path();
    EXPECT_EQ(read_file(entry.path()).find(at("")), std::string::npos) << entry.path() << " holds a path";
  }
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json",
                           "tokenizer.json", "tokenizer_config.json"})
    EXPECT_TRUE(names.contains(name)) << name;
  const std::string file = " --file " + at("run/heldout.txt");
  const Json run = json("score " + at("run") + file);
  EXPECT_EQ(run, json("score " + at("a") + file + " --precision fp8"));
  // Rounding weights to bf16 moves each by 2^-9 of itself; a product of a few dozen random such errors moves a logit of size 1
  // by less than 1%.
  succeed("export " + at("run") + " --to " + at("bf16"));
  const Json rounded = json("score " + at("bf16") + file);
  EXPECT_NEAR(rounded["loss"], run["loss"].get<double>(), 0.01 * run["loss"].get<double>());
  EXPECT_EQ(rounded["tokens"], run["tokens"]);
  // The average of a run that has just begun is not its last state.
  succeed("export " + at("run") + " --ema --dtype f32 --to " + at("ema"));
  EXPECT_EQ(json("score " + at("ema") + file + " --precision fp8"), json("score " + at("run") + file + " --ema"));
  EXPECT_NE(json("score " + at("ema") + file)["loss"], run["loss"]);

  const Json config = Json::parse(read_file(*bench_ / "a/config.json"));
  EXPECT_EQ(config["architectures"][0], "DeepseekV3ForCausalLM");
  EXPECT_EQ(config["n_routed_experts"], 8);
  const std::string listed = json("inspect " + at("a"))["tensors"].dump();
  for (const char* name : {"model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight",
                           "model.layers.1.mlp.experts.7.down_proj.weight", "model.layers.1.mlp.gate.e_score_correction_bias",
                           "model.layers.1.self_attn.q_a_layernorm.weight", "model.layers.2.eh_proj.weight", "lm_head.weight"})
    EXPECT_THAT(listed, HasSubstr(std::string("\"") + name + "\"")) << name;
}

TEST_F(ModelCommands, InspectKnowsEveryKind) {
  succeed("export " + at("run") + " --to " + at("hf"));
  const std::pair<const char*, const char*> kinds[] = {{"run", "run"},
                                                       {"run/checkpoints/step-00000008", "checkpoint"},
                                                       {"run/checkpoints/step-00000008/ema.safetensors", "safetensors"},
                                                       {"run/data/0-train-00000.rqs", "shard"},
                                                       {"hf", "model"},
                                                       {"mini.toml", "recipe"},
                                                       {"run/recipe.toml", "recipe"}};
  const Json run = json("inspect " + at("run"));
  EXPECT_EQ(run["step"], 8);
  EXPECT_EQ(run["tokens"], 8 * 8 * 24);
  EXPECT_EQ(run["recipe"]["train.steps"], 8);
  int64_t sum = 0;
  for (const auto& [path, kind] : kinds) {
    const Json found = json("inspect " + at(path));
    EXPECT_EQ(found["kind"], kind) << path;
    EXPECT_THAT(run_rorqual("inspect " + at(path)).out, HasSubstr(kind));
    const std::string k = kind;
    if (k == "shard") {
      EXPECT_GT(found["tokens"], 1000);
      EXPECT_GT(found["documents"], 40);
      continue;
    }
    ASSERT_GT(found["tensors"].size(), 10u) << path;
    if (k == "safetensors") continue;
    EXPECT_EQ(found["parameters"], run["parameters"]) << path;
    EXPECT_LT(found["parameters"]["active"], found["parameters"]["total"]);
    sum = 0;
    for (const Json& t : found["tensors"]) {
      int64_t count = 1;
      for (const Json& n : t["shape"]) count *= n.get<int64_t>();
      const std::string name = t["name"];
      // Hugging Face repeats the shared embedding and head in each MTP module.
      const bool repeated = name.starts_with("model.layers.") &&
                            (name.ends_with(".embed_tokens.weight") || name.ends_with(".shared_head.head.weight"));
      if (!repeated && !name.ends_with("e_score_correction_bias")) sum += count;
    }
    const auto& p = found["parameters"];
    EXPECT_NEAR(static_cast<double>(sum), p["total"].get<double>() + p["mtp"].get<double>(), 0.001 * static_cast<double>(sum))
        << path << ": the tensors are the parameters (biases of the routers aside)";
  }
}

// Recipes far larger than this machine's memory are inspected all the same: DeepSeek-V3 itself.
TEST_F(ModelCommands, InspectsWhatNoMachineHolds) {
  const Json v3 = json("inspect v3-671b");
  // Report §4.2: 671B parameters in all, 37B active.
  EXPECT_NEAR(v3["parameters"]["total"].get<double>(), 671e9, 1e9);
  EXPECT_NEAR(v3["parameters"]["active"].get<double>(), 37e9, 1e9);
}

TEST_F(ModelCommands, TokenizerGoesThereAndBack) {
  succeed("tokenizer train --data " + at("text") + " --vocab 300 --out " + at("tok"));
  succeed("tokenizer train --data " + at("text") + " --vocab 300 --out " + at("tok2"));
  EXPECT_EQ(read_file(*bench_ / "tok/tokenizer.json"), read_file(*bench_ / "tok2/tokenizer.json"));
  EXPECT_EQ(read_file(*bench_ / "tok/tokenizer.json"), read_file(*bench_ / "run/tokenizer/tokenizer.json"))
      << "train and tokenizer train see the same documents";
  bench_->write("in.bin", std::string("a\0b\xff\r\n  the page ü <｜fim▁end｜>", 32));
  const std::string tok = " --tokenizer " + at("tok"), file = at("in.bin");
  const std::string pipe =
      "tokenizer encode" + tok + " < " + file + " | " RORQUAL_PROGRAM " tokenizer decode" + tok + " | cmp - " + file;
  EXPECT_EQ(run_rorqual(pipe).code, 0);
}

TEST_F(ModelCommands, ReportIsOnePage) {
  succeed("report " + at("run") + " --out " + at("page.html"));
  const std::string page = read_file(*bench_ / "page.html");
  EXPECT_THAT(page, testing::StartsWith("<!doctype html>"));
  for (const char* part : {"viewport", "prefers-color-scheme", "gradient norm"}) EXPECT_THAT(page, HasSubstr(part));
  for (const char* outside : {"src=\"http", "href=\"http", "@import", "url(http"})
    EXPECT_EQ(page.find(outside), std::string::npos) << outside;
}

}  // namespace
}  // namespace rorqual
