// Whole runs at a size that takes seconds: what must not change numbers, bit for bit.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/rng.h"
#include "train/memory.h"
#include "train/schedule.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

// tests/mini.toml with more micro-batches in a step, and checkpoints that stay.
Recipe test_recipe(const std::vector<std::string>& set = {}) {
  std::vector<std::string> all = {"train.micro_batch_sequences=1", "train.checkpoint_steps=3", "train.checkpoints_kept=10"};
  all.insert(all.end(), set.begin(), set.end());
  return read_recipe("tests/mini.toml", all);
}

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "rorqual-trainer-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
    fs::create_directory(path_ / "text");
    // Words in an order that has something to learn.
    for (uint64_t doc = 0; doc < 60; ++doc) {
      std::ofstream out(path_ / "text" / fmt::format("{}.txt", doc));
      for (uint64_t i = 0; i < 80; ++i) {
        const uint64_t r = random_below({doc, RandomPurpose::kTest, 0, 0}, i, 6);
        out << std::array{"the page ", "of memory ", "is locked ", "by the scheduler, ", "and then ", "freed.\n"}[r];
      }
    }
  }
  ~Folder() { fs::remove_all(path_); }
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

struct RunSettings {
  std::vector<std::string> set = {};
  int threads = 2;
  bool resume = false;
  std::optional<int64_t> steps = {};
};

TrainSummary run(const Folder& folder, const std::string& name, const RunSettings& s) {
  ThreadPool pool(s.threads);
  const Stream stream(pool);
  RunRequest request;
  request.recipe = test_recipe(s.set);
  request.data = {{folder / "text", 1.0}};
  request.directory = folder / name;
  request.resume = s.resume;
  const PreparedRun prepared = prepare_run(request, stream);
  TrainOptions options;
  options.steps = s.steps;
  Trainer trainer(prepared, options, s.resume, stream);
  return trainer.train();
}

// The newest checkpoint's tensors as bytes, and the metrics without what depends on the clock.
std::map<std::string, std::string> outcome(const fs::path& directory) {
  std::map<std::string, std::string> out;
  const Checkpoint c = newest(directory);
  for (const SafetensorsFile* file : {&c.model(), &c.ema(), &c.moments()})
    for (const SafetensorsEntry& e : file->entries()) {
      const auto bytes = file->bytes(e);
      out[file->path().filename().string() + ":" + e.name].assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
  for (nlohmann::ordered_json line : read_json_lines(directory / "metrics.jsonl")) {
    line.erase("tokens_per_s");
    line.erase("step_ms");
    // The last step of an invocation measures the held-out loss too.
    if (line["step"].get<int64_t>() % 4 != 0) line.erase("heldout_loss");
    out["metrics"] += line.dump() + "\n";
  }
  return out;
}

void expect_equal(const std::map<std::string, std::string>& a, const std::map<std::string, std::string>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [key, value] : a) EXPECT_TRUE(b.at(key) == value) << key << " differs";
}

// FP8, delayed scaling (whose history is in the checkpoint), and BF16.
const std::vector<std::vector<std::string>> kPrecisions = {
    {"precision=fp8", "train.counter_steps=1"},
    {"precision=fp8", "fp8.activation_granularity=tensor", "fp8.gradient_granularity=tensor", "fp8.delayed_steps=4"},
    {"precision=bf16"}};

TEST(Trainer, ResumeEqualsStraightRun) {
  for (const auto& set : kPrecisions) {
    const Folder folder;
    run(folder, "straight", {.set = set});
    run(folder, "cut", {.set = set, .steps = 3});
    run(folder, "cut", {.set = set, .resume = true, .steps = 5});
    run(folder, "cut", {.set = set, .resume = true});
    expect_equal(outcome(folder / "straight"), outcome(folder / "cut"));
  }
}

TEST(Trainer, QuantisersAreCountedInMetrics) {
  const Folder folder;
  run(folder, "run", {.set = {"precision=fp8", "train.counter_steps=3"}, .steps = 6});
  for (const auto& line : read_json_lines(folder / "run/metrics.jsonl")) {
    ASSERT_EQ(line.contains("quantised"), line["step"].get<int64_t>() % 3 == 0);
    if (!line.contains("quantised")) continue;
    const auto& input = line["quantised"]["attention.input"];
    ASSERT_EQ(input["flushed"].size(), 3u);  // two layers and the MTP module
    for (size_t block = 0; block < 3; ++block) {
      EXPECT_LT(input["flushed"][block].get<double>(), 0.05);
      EXPECT_EQ(input["saturated"][block], 0.0);
      EXPECT_GT(input["scale"][block][0].get<double>(), 0);
    }
  }
}

TEST(Trainer, DamagedCheckpointIsSkippedByResumeAlone) {
  const Folder folder;
  run(folder, "straight", {});
  run(folder, "hurt", {.steps = 6});
  const fs::path victim = list_checkpoints(folder / "hurt").back().path / "moments.safetensors";
  {
    std::fstream file(victim, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(5000);
    file.put('\x5a');
  }
  EXPECT_THROW(newest(folder / "hurt"), Error);
  run(folder, "hurt", {.resume = true});
  expect_equal(outcome(folder / "straight"), outcome(folder / "hurt"));
}

TEST(Trainer, ThreadsAndRecomputeChangeNothing) {
  for (auto set : kPrecisions) {
    const Folder folder;
    run(folder, "a", {.set = set, .threads = 2});
    run(folder, "b", {.set = set, .threads = 1});
    set.emplace_back("recompute=false");
    run(folder, "c", {.set = set, .threads = 3});
    const auto a = outcome(folder / "a");
    expect_equal(a, outcome(folder / "b"));
    expect_equal(a, outcome(folder / "c"));
  }
}

TEST(Trainer, PerturbedStartDiffersByOneBit) {
  const Folder folder;
  const TrainSummary a = run(folder, "a", {.set = {"precision=bf16", "train.steps=1"}});
  const TrainSummary b = run(folder, "b", {.set = {"precision=bf16", "train.steps=1", "perturb_start=true"}});
  const Checkpoint start_a = open_checkpoint(list_checkpoints(folder / "a").front().path);
  const Checkpoint start_b = open_checkpoint(list_checkpoints(folder / "b").front().path);
  ASSERT_EQ(start_a.step, 0);
  std::vector<uint32_t> flipped;
  for (const SafetensorsEntry& e : start_a.model().entries()) {
    const auto x = start_a.model().bytes(e), y = start_b.model().bytes(*start_b.model().find(e.name));
    for (size_t i = 0; i < x.size(); i += 4) {
      uint32_t u = 0, v = 0;
      std::memcpy(&u, x.data() + i, 4);
      std::memcpy(&v, y.data() + i, 4);
      if (u != v) flipped.push_back(u ^ v);
    }
  }
  EXPECT_EQ(flipped, std::vector<uint32_t>{0x10000}) << "the last bit of a bf16, in FP32";
  EXPECT_NE(a.loss, b.loss);
  EXPECT_NEAR(a.loss, b.loss, 1e-3 * a.loss);
}

// Two lanes in one group or in two, and lanes at all, are other orders of the same sums: near, and each repeatable.
TEST(Trainer, LanesAreAnOrderOfTheSameSum) {
  const Folder folder;
  const double one = run(folder, "1", {.set = {"precision=fp32"}}).loss;
  for (const auto& [lanes, group] : {std::pair{2, 1}, {2, 2}, {4, 2}, {8, 8}}) {
    const std::vector<std::string> set = {"precision=fp32", fmt::format("grad_lanes={}", lanes),
                                          fmt::format("expert_lane_group={}", group)};
    const std::string name = fmt::format("{}-{}", lanes, group);
    EXPECT_NEAR(run(folder, name, {.set = set}).loss, one, 1e-3 * one) << name;
    run(folder, name + "-again", {.set = set, .threads = 1});
    expect_equal(outcome(folder / name), outcome(folder / (name + "-again")));
  }
}

TEST(Trainer, LossFalls) {
  const Folder folder;
  const TrainSummary s =
      run(folder, "run", {.set = {"train.steps=60", "train.learning_rate=1e-2", "train.checkpoint_steps=60"}});
  EXPECT_EQ(s.step, 60);
  EXPECT_EQ(s.tokens, 60 * 8 * 24);
  const auto lines = read_json_lines(folder / "run/metrics.jsonl");
  ASSERT_EQ(lines.size(), 60u);
  EXPECT_GT(lines.front()["loss"].get<double>(), 5.0);
  EXPECT_LT(s.loss, 2.5);
  EXPECT_LT(*s.heldout_loss, 2.5);
}

TEST(Trainer, DivergenceIsNamedAndStops) {
  const Folder folder;
  try {
    run(folder, "run", {.set = {"train.learning_rate=1e30", "train.skipped_steps_allowed=2", "train.steps=40"}});
    FAIL() << "the run went on";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("diverged"), std::string::npos) << e.what();
  }
  int skipped = 0;
  for (const auto& line : read_json_lines(folder / "run/metrics.jsonl")) skipped += line.contains("skipped");
  EXPECT_EQ(skipped, 3);
}

TEST(Trainer, RefusesWhatCannotBe) {
  const Folder folder;
  run(folder, "run", {.steps = 1});
  EXPECT_THROW(run(folder, "run", {}), Error);                                                  // exists
  EXPECT_THROW(run(folder, "run", {.set = {"train.learning_rate=1"}, .resume = true}), Error);  // changed recipe
  EXPECT_THROW(run(folder, "other", {.resume = true}), Error);                                  // no run
  EXPECT_THROW(run(folder, "long", {.set = {"train.sequence_length=1000000"}}), Error);         // data too small
  EXPECT_FALSE(fs::exists(folder / "long"));
  EXPECT_THROW(run(folder, "huge", {.set = {"model.hidden_size=4000000"}}), Error);  // memory
}

TEST(Trainer, MemoryTableIsWhatTheRunAllocates) {
  Recipe r = test_recipe();
  complete(r, 300);
  validate(r);
  const MemoryNeed need = training_memory(r);
  MemoryUse use;
  ThreadPool pool(2);
  const Stream stream(pool);
  Arena arena(&use);
  Weights weights(r.model, make_precision(r.formats), true, arena);
  const Model model(r.model, weights, 1, arena);
  GradientAccumulators gradients(weights, r.model, 1, 1, arena);
  const Optimizer optimizer(weights, {}, arena);
  weights.initialise(0.02, 1, stream);
  weights.pack(stream);
  Workspace work(&use);
  MicroBatch batch;
  batch.sequences = r.train.micro_batch_sequences;
  batch.length = r.train.sequence_length;
  for (int64_t i = 0; i < batch.sequences * (batch.length + 1); ++i) batch.tokens.push_back(static_cast<int32_t>(i % 300));
  gradients.begin_group(stream);
  model.train(batch, {}, gradients.buffer(0), r.recompute, work, stream);
  for (int c = 0; c < kMemoryClasses; ++c) {
    const auto kind = static_cast<MemoryClass>(c);
    if (kind == MemoryClass::kEma || kind == MemoryClass::kSnapshot) continue;  // not made here
    EXPECT_EQ(use.peak[static_cast<size_t>(c)], need.bytes[static_cast<size_t>(c)]) << memory_class_name(kind);
  }
}

// One byte a value and a scale per 128 where BF16 has two bytes: 1.03125 / 2; E5M6 (1.5 + 0.03125) / 2. The residual stream,
// latents and routing are the same in both.
TEST(TrainingMemory, OfSmallInFp8BesideBf16) {
  Recipe fp8 = read_recipe("recipes/small.toml", {});
  complete(fp8, 4096);
  validate(fp8);
  ASSERT_TRUE(make_precision(fp8.formats).is_fp8());
  Recipe bf16 = fp8;
  bf16.formats.precision = "bf16";
  const MemoryNeed mine = training_memory(fp8), theirs = training_memory(bf16);
  const auto ratio = [&](MemoryClass c) { return static_cast<double>(mine.of(c)) / static_cast<double>(theirs.of(c)); };
  EXPECT_LE(ratio(MemoryClass::kLinearInputs), 0.53);
  EXPECT_LE(ratio(MemoryClass::kSwiGluInputs), 0.53);
  EXPECT_LE(ratio(MemoryClass::kAttentionOutputs), 0.78);
  EXPECT_EQ(mine.of(MemoryClass::kActivations), theirs.of(MemoryClass::kActivations));
  EXPECT_LE(static_cast<double>(mine.activations()) / static_cast<double>(theirs.activations()), 0.65);
  const std::string table = activation_savings(fp8, mine);
  for (const char* name : {"linear inputs", "attention outputs", "SwiGLU inputs", "together"})
    EXPECT_NE(table.find(name), std::string::npos) << table;
  EXPECT_EQ(activation_savings(bf16, theirs), "");
}

TEST(Schedule, WarmUpConstantCosineConstant) {
  TrainRecipe t;
  t.learning_rate = 1;
  t.warmup_steps = 4;
  t.constant_tokens = 100;
  t.cosine_tokens = 100;
  t.learning_rate_end = 0.1;
  t.last_tokens = 300;
  t.learning_rate_last = 0.03;
  EXPECT_DOUBLE_EQ(learning_rate(t, 1, 0), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(t, 4, 30), 1);
  EXPECT_DOUBLE_EQ(learning_rate(t, 9, 99), 1);
  EXPECT_DOUBLE_EQ(learning_rate(t, 9, 150), 0.55);
  EXPECT_DOUBLE_EQ(learning_rate(t, 9, 200), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(t, 9, 299), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(t, 9, 300), 0.03);
}

TEST(Schedule, BatchRampAndSwitches) {
  TrainRecipe t;
  t.batch_sequences = 64;
  t.batch_sequences_start = 16;
  t.batch_ramp_tokens = 1000;
  t.micro_batch_sequences = 4;
  EXPECT_EQ(batch_sequences(t, 2, 0), 16);
  EXPECT_EQ(batch_sequences(t, 2, 500), 40);
  EXPECT_EQ(batch_sequences(t, 2, 999), 56);
  EXPECT_EQ(batch_sequences(t, 2, 1000), 64);
  t.bias_speed_tokens = 10;
  EXPECT_EQ(bias_speed(t, 9), t.bias_speed);
  EXPECT_EQ(bias_speed(t, 10), 0);
  t.mtp_lambda_tokens = 10;
  EXPECT_EQ(mtp_lambda(t, 10), t.mtp_lambda_end);
}

TEST(Recipe, PrintsAndReadsItselfBack) {
  Recipe r = test_recipe({"train.sample_prompts=[\"a \\\"b\\\"\\n\", \"ü\"]", "train.learning_rate=1.25e-3"});
  complete(r, 300);
  const Recipe again = parse_recipe(print_recipe(r), "printed", {});
  EXPECT_TRUE(recipe_differences(r, again).empty()) << fmt::format("{}", fmt::join(recipe_differences(r, again), "; "));
}

TEST(Recipe, MistakesAreNamed) {
  const auto message = [](const std::string& text, const std::vector<std::string>& set = {}) {
    try {
      parse_recipe(text, "r.toml", set);
      return std::string("accepted");
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kUsage);
      return std::string(e.what());
    }
  };
  EXPECT_NE(message("[train]\nstep = 3").find("train.steps"), std::string::npos);
  EXPECT_NE(message("seed = \"x\"").find("integer"), std::string::npos);
  EXPECT_NE(message("seed = ").find("r.toml:1"), std::string::npos);
  EXPECT_NE(message("", {"seed"}).find("key=value"), std::string::npos);
}

}  // namespace
}  // namespace rorqual
