#include "train/recipe.h"

#include "base/config_file.h"
#include "base/error.h"
#include "base/file.h"
#include "data/tokenizer.h"
#include "model/precision.h"

namespace rorqual {
namespace {

constexpr std::string_view kHelp = "'rorqual train RECIPE --help-keys' lists all";

ConfigKeys keys_of(Recipe& recipe) {
  return config_keys(recipe, [](Recipe& r, auto&& visit) { visit_recipe_keys(r, visit); });
}

void require(bool condition, const std::string& message) {
  if (!condition) fail_usage("{}", message);
}

void validate_schedule(const TrainRecipe& t) {
  require(t.learning_rate > 0, fmt::format("train.learning_rate = {} must be positive", t.learning_rate));
  require(t.warmup_steps >= 0 && t.constant_tokens >= 0 && t.cosine_tokens >= 0 && t.last_tokens >= 0,
          "train.warmup_steps, constant_tokens, cosine_tokens and last_tokens must not be negative");
  require(t.learning_rate_end >= 0 && t.learning_rate_last >= 0, "learning rates must not be negative");
  require(t.beta1 >= 0 && t.beta1 < 1 && t.beta2 >= 0 && t.beta2 < 1 && t.epsilon > 0,
          "train.beta1 and beta2 lie in [0, 1), epsilon is positive");
  require(t.weight_decay >= 0 && t.clip_norm > 0, "train.weight_decay must not be negative, clip_norm must be positive");
  require(t.ema_decay >= 0 && t.ema_decay < 1, fmt::format("train.ema_decay = {} must lie in [0, 1)", t.ema_decay));
  require(t.bias_speed >= 0 && t.balance_alpha >= 0 && t.mtp_lambda >= 0 && t.mtp_lambda_end >= 0,
          "γ, α and λ must not be negative");
  require(t.checkpoint_steps > 0 && t.checkpoints_kept > 0, "train.checkpoint_steps and checkpoints_kept must be positive");
  require(
      t.heldout_steps >= 0 && t.heldout_sequences >= 0 && t.sample_steps >= 0 && t.sample_tokens >= 0 && t.counter_steps >= 0,
      "train.heldout_steps, heldout_sequences, counter_steps, sample_steps and sample_tokens must not be negative");
  require(t.spike_nats > 0 && t.skipped_steps_allowed >= 0,
          "train.spike_nats must be positive, skipped_steps_allowed not negative");
}

void validate_batch(const Recipe& r) {
  const TrainRecipe& t = r.train;
  constexpr int64_t kMost = int64_t{1} << 31;
  for (const auto& [name, value] : {std::pair{"steps", t.steps},
                                    {"sequence_length", t.sequence_length},
                                    {"batch_sequences", t.batch_sequences},
                                    {"micro_batch_sequences", t.micro_batch_sequences}})
    require(value > 0 && value < kMost, fmt::format("train.{} = {} must lie in 1 … 2^31", name, value));
  require(t.sequence_length * t.micro_batch_sequences < kMost,
          fmt::format("train.micro_batch_sequences · sequence_length = {} · {} tokens are too many for one pass",
                      t.micro_batch_sequences, t.sequence_length));
  const int64_t unit = t.micro_batch_sequences * r.grad_lanes;
  require(t.batch_sequences % unit == 0,
          fmt::format("train.batch_sequences = {} must be a multiple of micro_batch_sequences · grad_lanes = {} · {}",
                      t.batch_sequences, t.micro_batch_sequences, r.grad_lanes));
  require(t.batch_sequences_start >= 0 && t.batch_sequences_start % unit == 0 && t.batch_sequences_start <= t.batch_sequences,
          fmt::format("train.batch_sequences_start = {} must be a multiple of {} up to batch_sequences",
                      t.batch_sequences_start, unit));
  require(t.sequence_length > r.model.num_nextn_predict_layers, "train.sequence_length must exceed the MTP depth");
  require(t.sequence_length <= r.model.max_position_embeddings,
          fmt::format("train.sequence_length = {} exceeds model.max_position_embeddings = {}", t.sequence_length,
                      r.model.max_position_embeddings));
}

}  // namespace

std::filesystem::path find_recipe(const std::string& name) {
  return find_config("recipe", "recipes", name);
}

Recipe parse_recipe(std::string_view text, const std::string& where, const std::vector<std::string>& overrides) {
  Recipe recipe;
  const ConfigKeys keys = keys_of(recipe);
  read_config(text, where, keys, kHelp);
  for (const std::string& o : overrides) set_config(o, keys, kHelp);
  return recipe;
}

Recipe read_recipe(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  return parse_recipe(read_file(file), file.string(), overrides);
}

Recipe read_whole_recipe(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  Recipe recipe = read_recipe(file, overrides);
  const TokenizerRecipe& t = recipe.tokenizer;
  const bool given = recipe.model.vocab_size > 0 || t.path.empty();
  complete(recipe, given ? t.vocab_size : Tokenizer::load(t.path).vocab_size());
  validate(recipe);
  return recipe;
}

std::string print_recipe(const Recipe& recipe) {
  Recipe copy = recipe;
  return print_config(keys_of(copy));
}

std::string describe_recipe_keys() {
  Recipe defaults;
  return describe_config(keys_of(defaults));
}

std::vector<std::string> recipe_differences(const Recipe& a, const Recipe& b) {
  Recipe left = a, right = b;
  const ConfigKeys old_keys = keys_of(left), new_keys = keys_of(right);
  std::vector<std::string> out;
  for (size_t i = 0; i < old_keys.size(); ++i) {
    const std::string before = print_config_value(old_keys[i]), after = print_config_value(new_keys[i]);
    if (before != after) out.push_back(fmt::format("{}: {} → {}", old_keys[i].name, before, after));
  }
  return out;
}

void complete(Recipe& r, int64_t vocab_size) {
  if (r.model.vocab_size == 0) r.model.vocab_size = vocab_size;
  if (r.model.max_position_embeddings == 0) r.model.max_position_embeddings = r.train.sequence_length;
}

void validate(const Recipe& r) {
  make_precision(r.formats);
  require(r.seed >= 0, fmt::format("seed = {} must not be negative", r.seed));
  require(r.data.fim_rate >= 0 && r.data.fim_rate <= 1, fmt::format("data.fim_rate = {} must lie in [0, 1]", r.data.fim_rate));
  require(r.data.heldout_fraction >= 0 && r.data.heldout_fraction < 1,
          fmt::format("data.heldout_fraction = {} must lie in [0, 1)", r.data.heldout_fraction));
  require(r.tokenizer.sample_bytes > 0 && r.tokenizer.vocab_size > 0, "tokenizer.sample_bytes and vocab_size must be positive");
  require(r.grad_lanes > 0, fmt::format("grad_lanes = {} must be a power of two", r.grad_lanes));
  validate(r.model);
  validate_schedule(r.train);
  validate_batch(r);
}

}  // namespace rorqual
