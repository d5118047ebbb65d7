// A recipe: everything that decides a run's numbers, as one immutable struct, read from TOML, printed in full when a run starts
// and saved with it. Unknown keys are errors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/precision.h"

namespace rorqual {

struct TokenizerRecipe {
  std::string path;                           // empty: trained into the run
  int64_t vocab_size = 4096;                  // of a tokenizer that is trained
  int64_t sample_bytes = int64_t{256} << 20;  // of text it is trained on
};

struct DataRecipe {
  double fim_rate = 0.1;  // report §4.1
  double heldout_fraction = 0.05;
};

struct TrainRecipe {
  int64_t steps = 1000;
  int64_t sequence_length = 512;
  int64_t batch_sequences = 16;
  int64_t batch_sequences_start = 0;  // 0: no ramp
  int64_t batch_ramp_tokens = 0;
  int64_t micro_batch_sequences = 4;

  double learning_rate = 1e-3;
  int64_t warmup_steps = 20;
  int64_t constant_tokens = 0;
  int64_t cosine_tokens = 0;
  double learning_rate_end = 1e-4;
  int64_t last_tokens = 0;
  double learning_rate_last = 0;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;

  double bias_speed = 0.001;
  int64_t bias_speed_tokens = 0;
  double balance_alpha = 1e-4;
  double mtp_lambda = 0.3;
  int64_t mtp_lambda_tokens = 0;
  double mtp_lambda_end = 0.1;
  double ema_decay = 0.99;

  int64_t checkpoint_steps = 200;
  int64_t checkpoints_kept = 2;
  int64_t heldout_steps = 100;
  int64_t heldout_sequences = 32;
  int64_t counter_steps = 10;
  int64_t sample_steps = 200;
  int64_t sample_tokens = 96;
  std::vector<std::string> sample_prompts = {"The "};
  double spike_nats = 3.0;
  int64_t skipped_steps_allowed = 10;
};

struct Recipe {
  PrecisionRecipe formats;
  int64_t seed = 1;
  int64_t grad_lanes = 1;
  int64_t expert_lane_group = 1;
  int64_t logical_nodes = 1;
  bool recompute = true;
  bool perturb_start = false;
  ModelConfig model;
  TokenizerRecipe tokenizer;
  DataRecipe data;
  TrainRecipe train;
};

// Calls visit(key, reference, meaning) for every key, tables with a dot: "train.steps".
template <class R, class Visit>
void visit_recipe_keys(R& r, Visit&& visit) {
  visit_precision_keys(r.formats, visit);
  visit("seed", r.seed, "of every random number");
  visit("grad_lanes", r.grad_lanes, "lanes in which gradients are accumulated; a power of two; ranks own whole lanes");
  visit("expert_lane_group", r.expert_lane_group, "lanes that share an expert's accumulator; a power of two");
  visit("logical_nodes", r.logical_nodes, "groups of experts whose outputs combine sums before it rounds");
  visit("recompute", r.recompute, "norms, MLA up-projections and SwiGLU outputs again in backward; changes memory, no bit");
  visit("perturb_start", r.perturb_start,
        "one weight starts with its last bit (as BF16) flipped: what chaos alone does to a run");
  visit_fp8_keys(r.formats, visit);
  visit_model_keys(r.model,
                   [&](const std::string& key, auto& value, const char* meaning) { visit("model." + key, value, meaning); });
  visit("tokenizer.path", r.tokenizer.path, "folder of a tokenizer; empty: one is trained into the run");
  visit("tokenizer.vocab_size", r.tokenizer.vocab_size, "entries of a tokenizer that is trained");
  visit("tokenizer.sample_bytes", r.tokenizer.sample_bytes, "bytes of text it is trained on, at most");
  visit("data.fim_rate", r.data.fim_rate, "share of documents in fill-in-the-middle form");
  visit("data.heldout_fraction", r.data.heldout_fraction, "share of documents never trained on, by a hash of their content");
  auto& t = r.train;
  visit("train.steps", t.steps, "optimizer steps of the run");
  visit("train.sequence_length", t.sequence_length, "tokens of a sequence");
  visit("train.batch_sequences", t.batch_sequences, "sequences of a step");
  visit("train.batch_sequences_start", t.batch_sequences_start, "sequences of the first steps; 0: no ramp");
  visit("train.batch_ramp_tokens", t.batch_ramp_tokens, "tokens over which the batch grows, linearly");
  visit("train.micro_batch_sequences", t.micro_batch_sequences, "sequences of a micro-batch");
  visit("train.learning_rate", t.learning_rate, "after the warm-up");
  visit("train.warmup_steps", t.warmup_steps, "linear from 0");
  visit("train.constant_tokens", t.constant_tokens, "tokens from the start until the cosine begins");
  visit("train.cosine_tokens", t.cosine_tokens, "tokens of the cosine; 0: the rate stays");
  visit("train.learning_rate_end", t.learning_rate_end, "at the end of the cosine, and from there on");
  visit("train.last_tokens", t.last_tokens, "tokens from the start after which learning_rate_last holds; 0: never");
  visit("train.learning_rate_last", t.learning_rate_last, "a lower rate for the very end");
  visit("train.beta1", t.beta1, "AdamW");
  visit("train.beta2", t.beta2, "AdamW");
  visit("train.epsilon", t.epsilon, "AdamW");
  visit("train.weight_decay", t.weight_decay, "AdamW, on matrices");
  visit("train.clip_norm", t.clip_norm, "largest norm of the gradient");
  visit("train.bias_speed", t.bias_speed, "γ: change of a routing bias per step");
  visit("train.bias_speed_tokens", t.bias_speed_tokens, "tokens after which γ is 0; 0: never");
  visit("train.balance_alpha", t.balance_alpha, "α of the sequence balance loss");
  visit("train.mtp_lambda", t.mtp_lambda, "λ: weight of the MTP loss");
  visit("train.mtp_lambda_tokens", t.mtp_lambda_tokens, "tokens after which mtp_lambda_end holds; 0: never");
  visit("train.mtp_lambda_end", t.mtp_lambda_end, "λ after that");
  visit("train.ema_decay", t.ema_decay, "of the averaged parameters; 0: none are kept");
  visit("train.checkpoint_steps", t.checkpoint_steps, "steps between checkpoints; the last step always has one");
  visit("train.checkpoints_kept", t.checkpoints_kept, "older ones are removed");
  visit("train.heldout_steps", t.heldout_steps, "steps between held-out losses; 0: never");
  visit("train.heldout_sequences", t.heldout_sequences, "held-out sequences that are measured, at most");
  visit("train.counter_steps", t.counter_steps, "steps between counts of the FP8 quantisers in metrics.jsonl; 0: never");
  visit("train.sample_steps", t.sample_steps, "steps between samples; 0: never");
  visit("train.sample_tokens", t.sample_tokens, "tokens of a sample");
  visit("train.sample_prompts", t.sample_prompts, "what samples begin with");
  visit("train.spike_nats", t.spike_nats, "a loss this far above its recent mean skips the step");
  visit("train.skipped_steps_allowed", t.skipped_steps_allowed, "skipped steps in a row before the run stops");
}

// The file of a recipe named on the command line: a path, or a name in a folder recipes/ (base/config_file.h). Error (usage)
// lists the names there are.
std::filesystem::path find_recipe(const std::string& name_or_path);

// Reads TOML, then `overrides` ("key=value"). Error (usage): unknown key with the nearest known one, wrong type, bad TOML with
// line.
Recipe read_recipe(const std::filesystem::path& file, const std::vector<std::string>& overrides);
Recipe parse_recipe(std::string_view toml, const std::string& where, const std::vector<std::string>& overrides);
// The same, complete and valid, for those who ask what a run would be: a tokenizer that is to be trained has as many entries as
// the recipe wants.
Recipe read_whole_recipe(const std::filesystem::path& file, const std::vector<std::string>& overrides);
// In full, in the order of visit_recipe_keys; parse_recipe reads it back to an equal recipe.
std::string print_recipe(const Recipe& recipe);
// Table of keys: name, type, default, meaning.
std::string describe_recipe_keys();
// Keys whose values differ, as "key: old → new".
std::vector<std::string> recipe_differences(const Recipe& a, const Recipe& b);

// Everything that can be checked before data is read (Error, usage). `vocab_size` and `max_position_embeddings` of 0 are filled
// in by complete().
void complete(Recipe& recipe, int64_t vocab_size);
void validate(const Recipe& recipe);

}  // namespace rorqual
