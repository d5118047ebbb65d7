#include "train/recipe.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "model/precision.h"

namespace rorqual {
namespace {

std::string type_name(const int64_t&) {
  return "integer";
}
std::string type_name(const double&) {
  return "number";
}
std::string type_name(const bool&) {
  return "boolean";
}
std::string type_name(const std::string&) {
  return "string";
}
std::string type_name(const std::vector<std::string>&) {
  return "list of strings";
}

template <class T>
std::string type_with_article(const T& value) {
  const std::string name = type_name(value);
  return (name == "integer" ? "an " : "a ") + name;
}

template <class Node>
std::string text_of(const Node& node) {
  std::ostringstream out;
  out << node;
  return out.str();
}
std::string print_value(int64_t v) {
  return fmt::format("{}", v);
}
std::string print_value(bool v) {
  return v ? "true" : "false";
}
std::string print_value(double v) {
  // The shortest digits that read back as v; TOML wants a point or an exponent.
  const std::string text = fmt::format("{}", v);
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}
std::string print_value(const std::string& v) {
  return text_of(toml::value<std::string>(v));
}
std::string print_value(const std::vector<std::string>& v) {
  std::string out = "[";
  for (size_t i = 0; i < v.size(); ++i) out += (i ? ", " : "") + print_value(v[i]);
  return out + "]";
}

bool assign(const toml::node& node, int64_t& value) {
  if (!node.is_integer()) return false;
  value = *node.value<int64_t>();
  return true;
}
bool assign(const toml::node& node, double& value) {
  if (!node.is_number()) return false;
  value = *node.value<double>();
  return std::isfinite(value);
}
bool assign(const toml::node& node, bool& value) {
  if (!node.is_boolean()) return false;
  value = *node.value<bool>();
  return true;
}
bool assign(const toml::node& node, std::string& value) {
  if (!node.is_string()) return false;
  value = *node.value<std::string>();
  return true;
}
bool assign(const toml::node& node, std::vector<std::string>& value) {
  if (!node.is_array()) return false;
  value.clear();
  for (const toml::node& item : *node.as_array()) {
    std::string text;
    if (!assign(item, text)) return false;
    value.push_back(text);
  }
  return true;
}

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t next = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = row[j];
      row[j] = next;
    }
  }
  return row.back();
}

void set_key(Recipe& recipe, const std::string& key, const toml::node& node, const std::string& where) {
  bool known = false;
  std::string nearest;
  size_t distance = ~size_t{0};
  visit_recipe_keys(recipe, [&](const std::string& name, auto& value, const char*) {
    const size_t d = edit_distance(key, name);
    if (d < distance) distance = d, nearest = name;
    if (name != key) return;
    known = true;
    const auto before = value;
    if (!assign(node, value)) {
      value = before;
      fail_usage("{}: key '{}' takes {}", where, key, type_with_article(value));
    }
  });
  if (!known)
    fail_usage("{}: unknown key '{}'; did you mean '{}'? 'rorqual train RECIPE --help-keys' lists all", where, key, nearest);
}

void set_table(Recipe& recipe, const toml::table& table, const std::string& prefix, const std::string& where) {
  for (const auto& [name, node] : table) {
    const std::string key = prefix + std::string(name.str());
    if (const toml::table* inner = node.as_table()) {
      set_table(recipe, *inner, key + ".", where);
    } else {
      set_key(recipe, key, node, fmt::format("{}:{}", where, node.source().begin.line));
    }
  }
}

toml::table parse_toml(std::string_view text, const std::string& where) {
  try {
    return toml::parse(text, where);
  } catch (const toml::parse_error& e) {
    fail_usage("{}:{}: not valid TOML: {}", where, e.source().begin.line, e.description());
  }
}

void apply_override(Recipe& recipe, const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) fail_usage("--set {}: write key=value", text);
  const std::string key = text.substr(0, equals), value = text.substr(equals + 1);
  toml::table table;
  try {
    table = toml::parse("value = " + value);
  } catch (const toml::parse_error&) {
    table.insert_or_assign("value", value);  // a bare word is a string
  }
  set_key(recipe, key, *table.get("value"), "--set " + text);
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

std::vector<std::filesystem::path> recipe_folders() {
  std::error_code ignored;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  std::vector<std::filesystem::path> folders;
  for (const char* relative : {"recipes", "../recipes", "../../recipes", "../share/rorqual/recipes"}) {
    const std::filesystem::path folder = (program / relative).lexically_normal();
    if (std::filesystem::is_directory(folder, ignored)) folders.push_back(folder);
  }
  return folders;
}

std::filesystem::path find_recipe(const std::string& name) {
  std::error_code ignored;
  if (name.ends_with(".toml") || name.find('/') != std::string::npos) {
    if (!std::filesystem::is_regular_file(name, ignored)) fail_usage("recipe {}: no such file", name);
    return name;
  }
  std::string known;
  for (const auto& folder : recipe_folders()) {
    if (std::filesystem::is_regular_file(folder / (name + ".toml"), ignored)) return folder / (name + ".toml");
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
      if (entry.path().extension() == ".toml") names.push_back(entry.path().stem());
    std::sort(names.begin(), names.end());
    for (const auto& n : names) known += (known.empty() ? "" : ", ") + n;
  }
  fail_usage("there is no recipe '{}'; known: {}; or give a .toml file", name, known.empty() ? "none" : known);
}

Recipe parse_recipe(std::string_view text, const std::string& where, const std::vector<std::string>& overrides) {
  Recipe recipe;
  set_table(recipe, parse_toml(text, where), "", where);
  for (const std::string& o : overrides) apply_override(recipe, o);
  return recipe;
}

Recipe read_recipe(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  return parse_recipe(read_file(file), file.string(), overrides);
}

std::string print_recipe(const Recipe& recipe) {
  std::string out, table;
  visit_recipe_keys(recipe, [&](const std::string& key, const auto& value, const char*) {
    const size_t dot = key.rfind('.');
    const std::string in = dot == std::string::npos ? "" : key.substr(0, dot);
    // rope_scaling lies between keys of [model]: dotted keys keep the order.
    const std::string top = in.substr(0, in.find('.'));
    if (top != table) {
      table = top;
      out += fmt::format("\n[{}]\n", table);
    }
    out += fmt::format("{} = {}\n", table.empty() ? key : key.substr(table.size() + 1), print_value(value));
  });
  return out;
}

std::string describe_recipe_keys() {
  const Recipe defaults;
  std::string out;
  visit_recipe_keys(defaults, [&](const std::string& key, const auto& value, const char* meaning) {
    out += fmt::format("{:<52} {:<16} {:<12} {}\n", key, type_name(value), print_value(value), meaning);
  });
  return out;
}

std::vector<std::string> recipe_differences(const Recipe& a, const Recipe& b) {
  std::vector<std::string> left, out;
  visit_recipe_keys(a, [&](const std::string&, const auto& value, const char*) { left.push_back(print_value(value)); });
  size_t i = 0;
  visit_recipe_keys(b, [&](const std::string& key, const auto& value, const char*) {
    const std::string right = print_value(value);
    if (left[i] != right) out.push_back(fmt::format("{}: {} → {}", key, left[i], right));
    ++i;
  });
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
