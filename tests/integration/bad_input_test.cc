// What cannot work is refused: a message of its own, the right exit code, nothing on standard output, nothing left behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <set>

#include "base/file.h"
#include "tests/integration/program.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using Words = std::vector<std::string>;

class BadInput : public testing::Test {
 protected:
  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(bench_ / "")) found.insert(entry.path().filename());
    return found;
  }

  void expect_refused(const ProgramResult& result, const std::string& what, int code, const Words& words,
                      const std::set<std::string>& before) {
    EXPECT_EQ(result.code, code) << what << "\n" << result.err;
    EXPECT_THAT(result.out, IsEmpty()) << what;
    for (const std::string& word : words) EXPECT_THAT(result.err, HasSubstr(word)) << what;
    EXPECT_THAT(result.err, Not(HasSubstr("unexpected failure"))) << what;
    const size_t last = result.err.rfind("rorqual");
    ASSERT_NE(last, std::string::npos) << what;
    EXPECT_LT(result.err.size() - last, 1500u) << what << ": too long to read";
    EXPECT_EQ(names(), before) << what << ": something is left behind";
  }

  // Any command; it must leave no new entry in the bench.
  void refuse(const std::string& arguments, int code, const Words& words, const std::string& environment = "") {
    const auto before = names();
    expect_refused(run_rorqual(arguments, environment), arguments, code, words, before);
  }

  // `train mini.toml` into a new directory, with the corpus.
  void refuse_training(const std::string& arguments, int code, const Words& words, const std::string& environment = "") {
    const auto before = names();
    expect_refused(bench_.train("refused", "--json --steps 1 " + arguments, environment), arguments, code, words, before);
  }

  void refuse_data(const std::string& data, int code, const Words& words) {
    refuse("train " + at("mini.toml") + " --data " + at(data) + " --out " + at("refused") + " --json", code, words);
  }

  void succeed(const ProgramResult& result) { ASSERT_EQ(result.code, 0) << result.err; }
  std::string at(const std::string& name) const { return bench_.at(name); }

  const Workbench bench_;
};

TEST_F(BadInput, CommandLine) {
  refuse("", 2, {"which command?", "--help"});
  refuse("trian", 2, {"unknown command 'trian'", "did you mean train?"});
  refuse("train", 2, {"RECIPE is required"});
  refuse("train " + at("mini.toml"), 2, {"--data"});
  refuse("train tiny --dta x", 2, {"unknown option --dta", "did you mean --data?"});
  refuse("score " + at("text"), 2, {"--file is required"});
  refuse("generate x", 2, {"--prompt is required"});
  refuse("export x", 2, {"--to is required"});
  refuse("inspect", 2, {"PATH is required"});
  refuse("tokenizer", 2, {"which command?"});
  refuse("tokenizer encode", 2, {"--tokenizer is required"});
  refuse("export x --to y --dtype f16", 2, {"f16", "bf16"});
  for (const char* steps : {"0", "-3", "x", "1.5", "99999999999999999999"})
    refuse("train tiny --steps " + std::string(steps), 2, {"--steps", std::string("'") + steps + "' is no integer above 0"});
}

TEST_F(BadInput, Data) {
  refuse_data("nothing.txt", 1, {"nothing.txt", "No such file", "--data"});
  fs::create_directory(bench_ / "hollow");
  refuse_data("hollow", 1, {"hollow", "holds no file"});
  bench_.write("empty.txt", "");
  refuse_data("empty.txt", 1, {"no text", "more data"});
  bench_.write("short.txt", "a few words only\n");
  refuse_data("short.txt", 1, {"does not fit the data", "short.txt", "sequence of 24", "more data"});
  bench_.write("bad.jsonl", "{\"text\": \"fine\"}\n{\"txt\": 1}\n");
  refuse_data("bad.jsonl", 1, {"bad.jsonl", "2", "\"text\""});
  bench_.write("bad.txt.gz", "no gzip at all");
  refuse_data("bad.txt.gz", 1, {"bad.txt.gz"});
  bench_.write("bad.txt.zst", "no zstd at all");
  refuse_data("bad.txt.zst", 1, {"bad.txt.zst"});
  refuse("train " + at("mini.toml") + " --data " + at("text") + "=-1 --out " + at("refused"), 2, {"weight"});
  if (::geteuid() == 0) return;  // root reads everything
  bench_.write("secret.txt", "text");
  fs::permissions(bench_ / "secret.txt", fs::perms::none);
  refuse_data("secret.txt", 1, {"secret.txt", "Permission denied"});
}

TEST_F(BadInput, TextThatIsNotUtf8IsAllowedAndSaid) {
  std::string text;
  for (int i = 0; i < 400; ++i) text += "caf\xe9 de nuit, ";
  bench_.write("latin1.txt", text);
  const ProgramResult result = run_rorqual("train " + at("mini.toml") + " --steps 1 --set data.heldout_fraction=0 --data " +
                                           at("latin1.txt") + " --out " + at("run"));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("UTF-8"), HasSubstr("latin1.txt")));
}

TEST_F(BadInput, Recipe) {
  refuse("train nosuch --data " + at("text") + " --out " + at("refused"), 2, {"no recipe 'nosuch'", "tiny", "tiny-long"});
  refuse("train nosuch --help-keys", 2, {"no recipe 'nosuch'", "tiny", "tiny-long"});
  refuse("train nosuch.toml --data " + at("text"), 2, {"nosuch.toml"});
  bench_.write("bad.toml", "seed = 1\n[train\nsteps = 3\n");
  refuse("train " + at("bad.toml") + " --data " + at("text"), 2, {"bad.toml:2", "TOML"});
  bench_.write("typo.toml", "seed = 1\n[train]\nlearning_rat = 3\n");
  refuse("train " + at("typo.toml") + " --data " + at("text"), 2, {"typo.toml:3", "did you mean 'train.learning_rate'?"});
  const std::pair<const char*, Words> mistakes[] = {
      {"train.step=3", {"unknown key 'train.step'", "did you mean 'train.steps'?", "--help-keys"}},
      {"train.steps=abc", {"'train.steps' takes an integer"}},
      {"train.learning_rate=nan", {"'train.learning_rate' takes a number"}},
      {"recompute=1", {"'recompute' takes a boolean"}},
      {"'train.sample_prompts=[1]'", {"takes a list of strings"}},
      {"train.steps", {"key=value"}},
      {"train.steps=-1", {"train.steps = -1"}},
      {"train.sequence_length=3000000000", {"train.sequence_length = 3000000000"}},
      {"train.batch_sequences=7", {"train.batch_sequences = 7", "multiple"}},
      {"precision=fp9", {"precision = 'fp9'", "bf16", "fp32"}},
      {"grad_lanes=3", {"grad_lanes"}},
      {"expert_lane_group=4", {"expert_lane_group = 4", "grad_lanes = 1"}},
      {"logical_nodes=3", {"logical_nodes = 3", "n_routed_experts = 8"}},
      {"data.fim_rate=2", {"data.fim_rate = 2"}},
      {"data.heldout_fraction=1", {"data.heldout_fraction = 1"}},
      {"train.ema_decay=1", {"train.ema_decay = 1"}},
      {"tokenizer.vocab_size=10", {"10 is too small", "262"}},
  };
  for (const auto& [set, words] : mistakes) refuse_training(std::string("--set ") + set, 2, words);
}

TEST_F(BadInput, ImpossibleShapes) {
  const std::pair<const char*, Words> shapes[] = {
      {"model.num_attention_heads=0", {"num_attention_heads = 0"}},
      {"model.hidden_size=0", {"hidden_size = 0"}},
      {"model.kv_lora_rank=0", {"kv_lora_rank = 0"}},
      {"model.qk_rope_head_dim=7", {"rotary head size 7", "even"}},
      {"model.n_group=3", {"n_group = 3 must divide n_routed_experts = 8"}},
      {"model.topk_group=5", {"topk_group = 5", "n_group = 4"}},
      {"model.num_experts_per_tok=5", {"num_experts_per_tok = 5", "1 … 4"}},
      {"model.num_experts_per_tok=0", {"num_experts_per_tok = 0"}},
      {"model.n_routed_experts=-4", {"n_routed_experts = -4"}},
      {"model.num_hidden_layers=1000000", {"num_hidden_layers = 1000000"}},
      {"model.hidden_size=9000000000000000000", {"hidden_size = 9000000000000000000"}},
      {"model.scoring_func=tanh", {"scoring_func = 'tanh'", "sigmoid"}},
      {"model.num_nextn_predict_layers=-1", {"num_nextn_predict_layers = -1"}},
      {"model.max_position_embeddings=8", {"train.sequence_length = 24", "max_position_embeddings = 8"}},
  };
  for (const auto& [set, words] : shapes) refuse_training(std::string("--set ") + set, 2, words);
}

TEST_F(BadInput, MemoryTooSmallIsSaidBeforeTheFirstStep) {
  refuse_training("--set model.hidden_size=4000000", 1,
                  {"GiB of memory", "are available", "lower train.micro_batch_sequences", "master weights"});
}

TEST_F(BadInput, Vocabulary) {
  refuse_training("--set model.vocab_size=280", 2, {"model.vocab_size = 280", "300 entries"});
  succeed(bench_.train("base", "--steps 1"));
  succeed(run_rorqual("tokenizer train --data " + at("text") + " --vocab 290 --out " + at("tok")));
  const std::string init = "--init " + at("base") + " --set tokenizer.path=" + at("tok");
  refuse_training(init, 2, {"tokenizer.path", "is not the tokenizer of", "base"});
  refuse_training("--init " + at("base") + " --set model.vocab_size=400", 2, {"vocab_size = 300", "400"});
  refuse_training("--init " + at("nothing"), 1, {"nothing", "no such model"});
  refuse_training("--set tokenizer.path=" + at("text"), 1, {"text/tokenizer.json"});
}

TEST_F(BadInput, Numbers) {
  succeed(bench_.train("run", "--steps 1"));
  const std::string generate = "generate " + at("run") + " --prompt a --json ";
  refuse(generate + "--temperature -1", 2, {"temperature = -1"});
  refuse(generate + "--temperature nan", 2, {"temperature = nan"});
  refuse(generate + "--top-p 2", 2, {"top-p = 2", "(0, 1]"});
  refuse(generate + "--top-p 0", 2, {"top-p = 0"});
  refuse(generate + "--top-k -1", 2, {"--top-k: '-1' is no integer of 0 or more"});
  refuse(generate + "--max-tokens 0", 2, {"--max-tokens: '0' is no integer above 0"});
  for (const char* seed : {"x", "-1", "", "1.5", "1e3", "010", "0x10", "99999999999999999999"})
    refuse(generate + "--seed '" + seed + "'", 2, {"--seed", std::string("'") + seed + "' is no integer of 0 or more"});
  const std::string train = "tokenizer train --data " + at("text") + " --out " + at("refused");
  refuse(train + " --vocab -5", 2, {"--vocab: '-5' is no integer from 1 to 2147483647"});
  refuse(train + " --vocab 4294967596", 2, {"--vocab: '4294967596'"});
  refuse(train + " --sample-mib -1", 2, {"--sample-mib: '-1'"});
  refuse(train + " --heldout nan", 2, {"--heldout nan must lie in [0, 1)"});
  refuse("generate " + at("run") + " --json --prompt '" + std::string(500, 'x') + "'", 2, {"context is 24", "shorten"});
  const std::string score = "score " + at("run") + " --json --file ";
  refuse(score + at("nothing"), 1, {"nothing", "No such file"});
  bench_.write("empty", "");
  refuse(score + at("empty"), 2, {"empty"});
  refuse(score + at("mini.toml") + " --window 25", 2, {"--window 25", "24"});
  refuse(score + at("mini.toml"), 2, {"RORQUAL_ISA is 'foo'", "avx512"}, "RORQUAL_ISA=foo");
  for (const char* threads : {"zero", "0", "-2", "3x"})
    refuse(score + at("mini.toml"), 2, {std::string("OMP_NUM_THREADS is '") + threads + "'"},
           std::string("OMP_NUM_THREADS=") + threads);
}

TEST_F(BadInput, Places) {
  succeed(bench_.train("run", "--steps 1"));
  fs::create_directory(bench_ / "full");
  bench_.write("full/precious", "mine");
  refuse("train " + at("mini.toml") + " --data " + at("text") + " --out " + at("full"), 2, {"full", "no empty folder"});
  refuse("train " + at("mini.toml") + " --data " + at("text") + " --out " + at("mini.toml"), 2, {"mini.toml"});
  refuse("train " + at("mini.toml") + " --data " + at("text") + " --out /proc/nowhere", 1, {"/proc/nowhere"});
  refuse("train " + at("mini.toml") + " --resume --out " + at("refused"), 2, {"--resume", "refused", "no run"});
  refuse("export " + at("run") + " --to " + at("full"), 2, {"full", "not empty"});
  EXPECT_EQ(read_file(bench_ / "full/precious"), "mine");
  refuse("export " + at("nothing") + " --to " + at("refused"), 1, {"nothing"});
  refuse("inspect " + at("nothing") + " --json", 1, {"nothing"});
  refuse("inspect " + at("text") + " --json", 1, {"config.json", "checkpoints"});
  std::string shard = read_file(bench_ / "run/data/0-train-00000.rqs");
  shard[shard.size() / 2] = static_cast<char>(shard[shard.size() / 2] ^ 1);
  bench_.write("flipped.rqs", shard);
  refuse("inspect " + at("flipped.rqs") + " --json", 1, {"flipped.rqs is damaged", "does not match its checksum"});
  refuse("inspect " + at("run/metrics.jsonl") + " --json", 1, {"metrics.jsonl", ".safetensors"});
  refuse("report " + at("text"), 1, {"text", "run directory"});
  refuse("report " + at("run") + " --out " + at("nowhere/page.html"), 1, {"nowhere/page.html"});
  succeed(run_rorqual("export " + at("run") + " --to " + at("hf")));
  refuse("export " + at("hf") + " --ema --to " + at("refused"), 1, {"no averaged weights"});
  EXPECT_THAT(run_rorqual("doctor", "into_full() { \"$@\" >/dev/full; }; into_full").err, HasSubstr("standard output"));
}

// A disk that fills up: files beyond 16 KiB cannot be written (shells count in blocks of 512 or 1024 bytes).
TEST_F(BadInput, DiskFull) {
  const std::string limit = "ulimit -f 16;";
  refuse_training("", 1, {"refused", "File too large"}, limit);
  succeed(bench_.train("run", "--steps 2"));
  refuse("export " + at("run") + " --to " + at("refused"), 1, {"refused", "File too large"}, limit);
  const auto before = outcome(bench_ / "run");
  const ProgramResult resumed = bench_.train("run", "--resume --steps 3", limit);
  EXPECT_EQ(resumed.code, 1) << resumed.err;
  EXPECT_THAT(resumed.err, AllOf(HasSubstr("File too large"), HasSubstr("step-00000003")));
  auto after = outcome(bench_ / "run");
  EXPECT_EQ(after["name"], "step-00000002") << "the older checkpoint stays, nothing half-written is there";
  EXPECT_EQ(after["model.safetensors"], before.at("model.safetensors"));
  succeed(bench_.train("run", "--resume --steps 3"));
}

class Damage : public BadInput {
 protected:
  void SetUp() override { succeed(bench_.train("run", "--steps 3")); }
  static void flip(const fs::path& file, int64_t at) {
    std::string bytes = read_file(file);
    bytes.at(static_cast<size_t>(at)) ^= 1;
    std::ofstream(file, std::ios::binary) << bytes;
  }
};

TEST_F(Damage, CheckpointsAreNamedAndSkippedByResumeAlone) {
  const fs::path newest = bench_ / "run/checkpoints/step-00000003";
  const auto expect_named = [&](const std::string& file) {
    refuse("score " + at("run") + " --json --file " + at("mini.toml"), 1, {file, "step-00000003"});
    refuse("generate " + at("run") + " --json --prompt a", 1, {file});
    refuse("inspect " + at("run") + " --json", 1, {file});
    refuse("export " + at("run") + " --to " + at("refused"), 1, {file});
    refuse_training("--init " + at("run"), 1, {file});
  };
  const std::string model = read_file(newest / "model.safetensors"), state = read_file(newest / "state.json");
  flip(newest / "model.safetensors", static_cast<int64_t>(model.size()) - 100);
  expect_named("model.safetensors");
  flip(newest / "model.safetensors", static_cast<int64_t>(model.size()) - 100);
  fs::resize_file(newest / "moments.safetensors", 1000);
  expect_named("moments.safetensors");
  flip(newest / "state.json", static_cast<int64_t>(state.find("\"tokens\": 576") + 11));
  expect_named("state.json");
  const ProgramResult resumed = bench_.train("run", "--resume --steps 4");
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_THAT(resumed.err, AllOf(HasSubstr("state.json"), HasSubstr("resumed at step 2")));
}

TEST_F(Damage, NothingWholeIsLeft) {
  for (const auto& entry : fs::directory_iterator(bench_ / "run/checkpoints")) fs::resize_file(entry.path() / "state.json", 20);
  const ProgramResult resumed = bench_.train("run", "--resume --steps 4 --json");
  EXPECT_EQ(resumed.code, 1) << resumed.err;
  EXPECT_THAT(resumed.out, IsEmpty());
  EXPECT_THAT(resumed.err, HasSubstr("state.json"));
}

TEST_F(Damage, ShardsAreNamed) {
  const fs::path shard = bench_ / "run/data/0-train-00000.rqs";
  const std::string whole = read_file(shard);
  flip(shard, 6000);
  const ProgramResult flipped = bench_.train("run", "--resume --steps 4");
  EXPECT_EQ(flipped.code, 1) << flipped.err;
  EXPECT_THAT(flipped.err, HasSubstr("0-train-00000.rqs"));
  flip(shard, 6000);
  ASSERT_EQ(read_file(shard), whole);
  for (const uintmax_t size : {uintmax_t{5000}, uintmax_t{10}, uintmax_t{0}}) {
    fs::resize_file(shard, size);
    refuse("inspect " + shard.string() + " --json", 1, {"0-train-00000.rqs"});
    const ProgramResult cut = bench_.train("run", "--resume --steps 4");
    EXPECT_EQ(cut.code, 1) << cut.err;
    EXPECT_THAT(cut.err, HasSubstr("0-train-00000.rqs"));
  }
}

TEST_F(Damage, ExportsAreNamed) {
  succeed(run_rorqual("export " + at("run") + " --to " + at("hf")));
  const std::string score = "score " + at("hf") + " --json --file " + at("mini.toml");
  const std::string model = read_file(bench_ / "hf/model.safetensors");
  fs::resize_file(bench_ / "hf/model.safetensors", 20000);
  refuse(score, 1, {"model.safetensors"});
  fs::remove(bench_ / "hf/model.safetensors");
  refuse(score, 1, {"model.safetensors"});
  bench_.write("hf/model.safetensors", model);
  const std::string config = read_file(bench_ / "hf/config.json");
  bench_.write("hf/config.json", config.substr(0, config.size() / 2));
  refuse(score, 1, {"config.json"});
  bench_.write("hf/config.json", config);
  fs::remove(bench_ / "hf/tokenizer.json");
  refuse(score, 1, {"tokenizer.json"});
}

}  // namespace
}  // namespace rorqual
