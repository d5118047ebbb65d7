#include "train/run.h"

#include <algorithm>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/machine.h"
#include "checkpoint/checkpoint.h"
#include "train/memory.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

// In a run directory while it is being prepared.
constexpr const char* kPreparing = ".preparing";

// From its first checkpoint on; before that there is nothing to go on with.
bool is_run(const fs::path& directory) {
  return fs::exists(directory / "recipe.toml") && !list_checkpoints(directory).empty();
}

// What a run leaves that was killed before its first checkpoint.
bool is_false_start(const fs::path& directory) {
  const bool prepared = fs::exists(directory / "recipe.toml") && fs::exists(directory / "data" / "manifest.json");
  return (prepared || fs::exists(directory / kPreparing)) && list_checkpoints(directory).empty();
}

// Removes what preparing has written, unless it ended well.
class Rollback {
 public:
  explicit Rollback(fs::path directory) : directory_(std::move(directory)), existed_(fs::exists(directory_)) {}
  ~Rollback() {
    if (kept_) return;
    std::error_code ignored;
    for (const char* name : {"tokenizer", "data", "recipe.toml", "heldout.txt", kPreparing})
      fs::remove_all(directory_ / name, ignored);
    if (!existed_) fs::remove(directory_, ignored);
  }
  void keep() { kept_ = true; }

 private:
  fs::path directory_;
  bool existed_, kept_ = false;
};

void make_directory(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) fail("cannot make the folder {}: {}", directory.string(), error.message());
}

Tokenizer train_run_tokenizer(const Recipe& recipe, const std::vector<CorpusSource>& sources, const Stream& stream) {
  info("training a tokenizer of {} entries", recipe.tokenizer.vocab_size);
  const std::vector<std::string> sample =
      sample_documents(sources, recipe.tokenizer.sample_bytes, recipe.data.heldout_fraction, stream);
  const std::vector<std::string_view> views(sample.begin(), sample.end());
  TokenizerTrainer trainer;
  trainer.vocab_size = static_cast<int32_t>(recipe.tokenizer.vocab_size);
  return train_tokenizer(trainer, views, stream);
}

Tokenizer choose_tokenizer(const RunRequest& request, const Recipe& recipe, const std::optional<ModelSource>& init,
                           const std::vector<CorpusSource>& sources, const Stream& stream) {
  if (!recipe.tokenizer.path.empty()) {
    Tokenizer tokenizer = Tokenizer::load(recipe.tokenizer.path);
    if (init && Tokenizer::load(init->tokenizer_directory).fingerprint() != tokenizer.fingerprint())
      fail_usage("tokenizer.path = {} is not the tokenizer of {}: leave it empty to use the model's own", recipe.tokenizer.path,
                 request.init->string());
    return tokenizer;
  }
  if (init) return Tokenizer::load(init->tokenizer_directory);
  return train_run_tokenizer(recipe, sources, stream);
}

// The same shape with nothing left to defaults: a Hugging Face config.json spells out what a recipe may leave 0, and leaves out
// what the architecture has no use for.
ModelConfig spelt_out(ModelConfig c) {
  const ModelConfig defaults;
  c.num_key_value_heads = c.kv_heads();
  c.head_dim = c.is_mla() ? 0 : c.llama_head_dim();
  if (!c.is_mla()) c.q_lora_rank = c.kv_lora_rank = c.qk_nope_head_dim = c.qk_rope_head_dim = c.v_head_dim = 0;
  if (c.n_routed_experts > 0) return c;
  c.moe_intermediate_size = c.n_shared_experts = c.num_experts_per_tok = c.first_k_dense_replace = 0;
  c.n_group = defaults.n_group;
  c.topk_group = defaults.topk_group;
  c.moe_layer_freq = defaults.moe_layer_freq;
  c.routed_scaling_factor = defaults.routed_scaling_factor;
  c.norm_topk_prob = defaults.norm_topk_prob;
  c.scoring_func = defaults.scoring_func;
  c.topk_method = defaults.topk_method;
  return c;
}

// What the recipe asks for and what the initial model is must be the same shape, but for what says how far it reaches.
void check_init(const Recipe& recipe, const ModelSource& source) {
  const ModelConfig theirs = spelt_out(source.config), ours = spelt_out(recipe.model);
  std::vector<std::string> expected;
  visit_model_keys(theirs,
                   [&](const std::string&, const auto& value, const char*) { expected.push_back(fmt::format("{}", value)); });
  size_t i = 0;
  visit_model_keys(ours, [&](const std::string& key, const auto& value, const char*) {
    const std::string have = fmt::format("{}", value), want = expected[i++];
    const bool reach = key.starts_with("rope_") || key == "max_position_embeddings" || key == "initializer_range" ||
                       key == "num_nextn_predict_layers";
    if (have != want && !reach) fail_usage("--init: the model has {} = {}, the recipe {}: they must agree", key, want, have);
  });
  if (recipe.model.num_nextn_predict_layers > source.config.num_nextn_predict_layers)
    fail_usage("--init: the model has {} MTP modules, the recipe asks for {}", source.config.num_nextn_predict_layers,
               recipe.model.num_nextn_predict_layers);
}

void check_vocabulary(const Recipe& recipe, const Tokenizer& tokenizer) {
  if (recipe.model.vocab_size < tokenizer.vocab_size())
    fail_usage("model.vocab_size = {} is smaller than the tokenizer's {} entries: raise it or leave it 0",
               recipe.model.vocab_size, tokenizer.vocab_size());
  const TokenIds ids = token_ids(tokenizer, recipe.model.vocab_size);
  if (ids.bos < 0 || ids.eos < 0)
    fail_usage("the tokenizer names no begin-of-sentence or end-of-sentence token: set them in tokenizer_config.json");
}

PreparedRun resume_run(const RunRequest& request) {
  if (is_false_start(request.directory))
    fail_usage("--resume: {} was stopped before its first checkpoint: start it again without --resume",
               request.directory.string());
  if (!is_run(request.directory))
    fail_usage("--resume: {} is no run (it has no recipe.toml with checkpoints)", request.directory.string());
  PreparedRun run;
  run.directory = request.directory;
  run.tokenizer = Tokenizer::load(request.directory / "tokenizer");
  const Recipe saved = run_recipe(request.directory);
  run.recipe = request.recipe;
  complete(run.recipe, saved.model.vocab_size);
  const std::vector<std::string> differences = recipe_differences(saved, run.recipe);
  if (!differences.empty()) {
    std::string list;
    for (const std::string& d : differences) list += "\n  " + d;
    fail_usage("--resume: the recipe is not the one that {} runs:{}\nuse its own {}", request.directory.string(), list,
               (request.directory / "recipe.toml").string());
  }
  validate(run.recipe);
  run.corpus = open_tokenized(request.directory / "data");
  std::vector<std::string> given, known;
  for (const DataSpec& d : request.data) given.push_back(fmt::format("{}={}", open_source(d).description, d.weight));
  for (const TokenizedSource& s : run.corpus.sources) known.push_back(fmt::format("{}={}", s.description, s.weight));
  if (!given.empty() && given != known)
    fail_usage("--resume: the run's data is {}, --data names {}", fmt::join(known, ", "), fmt::join(given, ", "));
  return run;
}

}  // namespace

Recipe run_recipe(const fs::path& directory) {
  return read_recipe(directory / "recipe.toml", {});
}

PreparedRun prepare_run(const RunRequest& request, const Stream& stream) {
  if (request.resume) return resume_run(request);
  const fs::path& directory = request.directory;
  if (is_run(directory)) fail_usage("{} holds a run already: go on with --resume, or choose another --out", directory.string());
  const bool false_start = is_false_start(directory);
  if (fs::exists(directory) && (!fs::is_directory(directory) || (!fs::is_empty(directory) && !false_start)))
    fail_usage("--out {}: it exists and is no empty folder; choose another", directory.string());
  if (request.data.empty()) fail_usage("there is nothing to train on: name it with --data PATH");

  PreparedRun run;
  run.directory = directory;
  run.recipe = request.recipe;
  if (request.init) run.init = open_model(*request.init);
  {
    // A first look with the vocabulary that is to come, so that mistakes in the recipe are told before the corpus is read.
    Recipe draft = request.recipe;
    complete(draft, run.init ? run.init->config.vocab_size : draft.tokenizer.vocab_size);
    validate(draft);
    check_memory(training_memory(draft), machine_memory().available_bytes);
  }
  const std::vector<CorpusSource> sources = open_sources(request.data);
  Rollback rollback(directory);
  make_directory(directory);
  // Made in one step: an atomic write, killed, would leave its own temporary file, which no later start knows.
  if (!std::ofstream(directory / kPreparing)) fail("cannot make a file in {}", directory.string());
  if (false_start) {
    info("{} was stopped before its first checkpoint: it starts again", directory.string());
    for (const char* name : {"tokenizer", "recipe.toml", "heldout.txt", "checkpoints"}) fs::remove_all(directory / name);
  }
  run.tokenizer = choose_tokenizer(request, run.recipe, run.init, sources, stream);
  complete(run.recipe, run.init ? run.init->config.vocab_size : run.tokenizer->vocab_size());
  validate(run.recipe);
  check_vocabulary(run.recipe, *run.tokenizer);
  if (run.init) check_init(run.recipe, *run.init);
  run.tokenizer->save(directory / "tokenizer");

  ProgressLine progress;
  TokenizeOptions options;
  options.heldout_fraction = run.recipe.data.heldout_fraction;
  options.progress = [&](int64_t bytes) {
    progress.update(fmt::format("tokenising: {:.1f} MB", static_cast<double>(bytes) / 1e6));
  };
  run.corpus = tokenize_corpus(sources, encoder_of(*run.tokenizer), directory / "data", options, stream);
  // The sets are made once here, so that a recipe that does not fit the data leaves nothing behind.
  const TokenIds ids = token_ids(*run.tokenizer, run.recipe.model.vocab_size);
  TrainingSet(run.corpus.open_training(false),
              {run.recipe.train.sequence_length, static_cast<uint64_t>(run.recipe.seed), run.recipe.data.fim_rate, ids});
  std::error_code ignored;
  fs::create_hard_link(run.corpus.heldout_text(), directory / "heldout.txt", ignored);
  if (ignored) fs::copy_file(run.corpus.heldout_text(), directory / "heldout.txt");
  write_file_atomically(directory / "recipe.toml", print_recipe(run.recipe));
  fs::remove(directory / kPreparing);
  rollback.keep();
  return run;
}

}  // namespace rorqual
