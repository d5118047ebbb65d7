#include "serve/model_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/model_source.h"
#include "data/tokenizer.h"
#include "model/inference.h"
#include "model/model.h"
#include "serve/chat_template.h"
#include "serve/engine.h"
#include "serve/runner.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

constexpr std::streamoff kMetricsTail = 8 << 20;

int64_t bytes_below(const fs::path& folder) {
  int64_t bytes = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.is_regular_file(error)) bytes += static_cast<int64_t>(entry.file_size(error));
  return bytes;
}

// A dry run of what loading and one full step allocate, and a cache of one context. `config` as it will be loaded.
int64_t memory_of(const ModelConfig& config, const Precision& precision) {
  MemoryUse use;
  constexpr auto kMeasure = Arena::Kind::kMeasure;
  const Stream dry = Stream::dry();
  const EngineSettings settings;
  Arena arena(&use, kMeasure);
  Weights weights(config, precision, false, arena, false);
  const Model model(config, weights, 1, arena);
  const int64_t loaded = arena.held();
  const InferenceModel inference(model, 0, dry, &use, kMeasure);
  Workspace work(&use, kMeasure);
  const int64_t rows = std::min(settings.batch_tokens, config.max_position_embeddings);
  const int64_t pages = Sequence::pages_for(config.max_position_embeddings);
  const PagedCache cache = inference.make_cache(arena.bytes(MemoryClass::kCache, 0), pages);
  const std::vector<int32_t> tokens(static_cast<size_t>(rows)), page(static_cast<size_t>(pages));
  const PagedSequence sequence{0, rows, 0, page.data()};
  const Tensor hidden = work.saved.tensor(MemoryClass::kScratch, inference.hidden_dtype(), rows, config.hidden_size);
  inference.forward({tokens, {&sequence, 1}}, cache, hidden, work, dry);
  work.saved.tensor(MemoryClass::kLogits, inference.logits_dtype(),
                    std::clamp<int64_t>(kLogitElements / config.vocab_size, 1, std::min(settings.max_running, rows)),
                    config.vocab_size);
  const auto of = [](const std::array<int64_t, kMemoryClasses>& bytes) {
    return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
  };
  return std::max(loaded + weights.fill_bytes(), of(use.peak) + pages * kPageTokens * inference.cache_bytes_per_token());
}

// Held-out loss and expert balance, from the newest lines that have them.
void read_metrics(const fs::path& file, const ModelConfig& config, ModelFacts& facts) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return;
  in.seekg(0, std::ios::end);
  const std::streamoff size = in.tellg(), begin = std::max<std::streamoff>(0, size - kMetricsTail);
  in.seekg(begin);
  std::string line;
  if (begin > 0) std::getline(in, line);  // torn
  std::vector<double> balance;
  while (std::getline(in, line)) {
    if (line.find("heldout_loss") == line.npos && in.peek() != EOF) continue;
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object()) continue;
    if (const auto it = json.find("heldout_loss"); it != json.end() && it->is_number()) facts.heldout_loss = it->get<double>();
    if (const auto it = json.find("load_max_over_mean"); it != json.end() && it->is_array()) {
      balance.clear();
      for (const auto& v : *it) balance.push_back(v.is_number() ? v.get<double>() : std::nan(""));
    }
  }
  size_t next = 0;
  for (int64_t layer = 0; layer < config.num_hidden_layers + config.num_nextn_predict_layers && next < balance.size();
       ++layer) {
    if (layer < config.num_hidden_layers && !config.is_moe_layer(layer)) continue;
    if (std::isfinite(balance[next])) facts.expert_balance.push_back({layer, balance[next]});
    ++next;
  }
}

bool has_chat_template(const fs::path& folder) {
  try {
    ChatTemplate::load(folder);
    return true;
  } catch (const Error&) {
    return false;
  }
}

void fill_shape(ModelConfig config, const PrecisionRecipe& formats, ModelFacts& facts) {
  const ParameterCount p = TensorList(config).parameters();
  facts.total_parameters = p.total;
  facts.active_parameters = p.active;
  facts.context = config.max_position_embeddings;
  facts.precision = formats.precision;
  config.num_nextn_predict_layers = 0;
  facts.memory_bytes = memory_of(config, make_precision(formats));
}

void read_run(const fs::path& run, const Checkpoint& c, const std::string& precision, ModelFacts& facts) {
  for (const Checkpoint::File& f : c.files)
    if (f.name == "model.safetensors") facts.size_bytes += f.bytes;
  facts.size_bytes += bytes_below(c.tokenizer);
  facts.run = fs::weakly_canonical(run).filename().string();
  facts.tokens_seen = c.tokens;
  fill_shape(c.config, inference_formats(formats_of(c), precision), facts);
  read_metrics(run / "metrics.jsonl", c.config, facts);
  facts.chat_template = has_chat_template(c.tokenizer);
}

// Changes whenever a model's files do: times and sizes of the directory and of what lies directly in it.
std::string state_of(const fs::path& path) {
  std::error_code error;
  std::string state = fs::weakly_canonical(path, error).string();
  const auto add = [&](const fs::path& file) {
    const auto time = fs::last_write_time(file, error);
    state += fmt::format("|{}", error ? 0 : time.time_since_epoch().count());
  };
  for (const char* file : {"", "checkpoints", "tokenizer", "metrics.jsonl", "config.json", "tokenizer_config.json"})
    add(path / file);
  return state;
}

}  // namespace

ModelFacts model_facts(const std::string& name, const fs::path& path, const std::string& precision) {
  ModelFacts facts;
  facts.name = name;
  facts.path = path;
  try {
    const auto checkpoints = fs::exists(path / "checkpoints") ? list_checkpoints(path) : std::vector<CheckpointPlace>();
    if (!checkpoints.empty()) {
      read_run(path, open_checkpoint(checkpoints.back().path, false), precision, facts);
      return facts;
    }
    const ModelSource source = open_model(path);
    facts.size_bytes = bytes_below(fs::canonical(path));
    facts.tokens_seen = source.tokens_seen;
    facts.heldout_loss = source.heldout_loss;
    fill_shape(source.config, inference_formats(source.formats, precision), facts);
    facts.chat_template = has_chat_template(source.tokenizer_directory);
  } catch (const std::exception& e) {
    info("model {}: {}", name, e.what());
    facts.error = "this model cannot be read; the server's log says why";
  }
  return facts;
}

nlohmann::ordered_json json_of(const ModelFacts& f) {
  using Json = nlohmann::ordered_json;
  const auto text = [](const std::string& s) { return s.empty() ? Json(nullptr) : Json(s); };
  Json j = {{"name", f.name}, {"error", text(f.error)}, {"size_bytes", f.size_bytes}, {"parameters", nullptr}};
  if (f.total_parameters > 0) j["parameters"] = {{"total", f.total_parameters}, {"active", f.active_parameters}};
  j["precision"] = text(f.precision);
  j["context"] = f.context;
  j["run"] = text(f.run);
  j["tokens_seen"] = f.tokens_seen < 0 ? Json(nullptr) : Json(f.tokens_seen);
  j["heldout_loss"] = f.heldout_loss ? Json(*f.heldout_loss) : Json(nullptr);
  j["memory_bytes"] = f.memory_bytes;
  j["chat_template"] = f.chat_template;
  j["expert_balance"] = Json::array();
  for (const auto& b : f.expert_balance)
    j["expert_balance"].push_back({{"layer", b.layer}, {"max_over_mean", b.max_over_mean}});
  return j;
}

fs::path ModelStore::default_folder() {
  if (const char* folder = std::getenv("RORQUAL_MODELS"); folder && *folder) return folder;
  const char* home = std::getenv("HOME");
  if (!home || !*home) fail_usage("neither RORQUAL_MODELS nor HOME is set: where is the models folder?");
  return fs::path(home) / ".cache/rorqual/models";
}

std::vector<std::string> ModelStore::names() const {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error))
    if (const std::string name = entry.path().filename().string(); is_model_name(name)) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

bool ModelStore::has(const std::string& name) const {
  std::error_code error;
  return is_model_name(name) && fs::symlink_status(folder_ / name, error).type() != fs::file_type::not_found && !error;
}

fs::path ModelStore::path_of(const std::string& name) const {
  if (!has(name)) fail_usage("there is no model '{}': 'rorqual models list' shows which there are", name);
  return folder_ / name;
}

std::string ModelStore::add(const fs::path& path, std::string name) const {
  std::error_code error;
  if (!fs::is_directory(path, error)) fail_usage("{}: a model or run directory is needed", path.string());
  if (name.empty()) name = model_name_of(path);
  if (!is_model_name(name))
    fail_usage(
        "'{}' cannot be a model's name: use letters, digits, '.', '_' and '-', up to 100, and begin with a letter or digit",
        name);
  if (has(name)) fail_usage("there is a model '{}' already: choose another --name, or remove that one first", name);
  const ModelSource source = open_model(path);  // what cannot be opened is no model
  Tokenizer::load(source.tokenizer_directory);
  fs::create_directories(folder_, error);
  if (error) fail("{}: cannot make the models folder: {}", folder_.string(), error.message());
  fs::create_directory_symlink(fs::canonical(path), folder_ / name, error);
  if (error) fail("{}: cannot link the model: {}", (folder_ / name).string(), error.message());
  return name;
}

void ModelStore::remove(const std::string& name) const {
  const fs::path link = path_of(name);
  std::error_code error;
  if (!fs::is_symlink(link, error))
    fail_usage("{} is a directory, not a link made by 'models add': remove it yourself if nobody needs it", link.string());
  if (!fs::remove(link, error) || error) fail("{}: cannot remove the link: {}", link.string(), error.message());
}

ModelFacts ModelStore::facts(const std::string& name, const fs::path& path, const std::string& precision) {
  const std::string state = state_of(path) + "|" + precision;
  {
    const std::lock_guard lock(mutex_);
    const auto it = known_.find(name);
    if (it != known_.end() && it->second.state == state) return it->second.facts;
  }
  const ModelFacts facts = model_facts(name, path, precision);
  const std::lock_guard lock(mutex_);
  known_[name] = {state, facts};
  return facts;
}

NamedModel find_model(const std::string& word, const ModelStore& store) {
  std::error_code error;
  if (fs::is_directory(word, error)) return {model_name_of(word), word};
  if (store.has(word)) return {word, store.folder() / word};
  fail_usage("{}: there is no such directory, and no model of that name ('rorqual models list' shows which there are)", word);
}

bool is_model_name(const std::string& name) {
  const auto word = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  if (name.empty() || name.size() > 100 || !word(name[0])) return false;
  return std::all_of(name.begin(), name.end(), [&](char c) { return word(c) || c == '.' || c == '_' || c == '-'; });
}

std::string model_name_of(const fs::path& path) {
  std::error_code error;
  std::string name = fs::weakly_canonical(path, error).filename().string();
  for (char& c : name)
    if (!is_model_name(std::string(1, c)) && c != '.' && c != '_' && c != '-') c = '-';
  if (!is_model_name(name)) name = "model" + name;
  return name.substr(0, 100);
}

}  // namespace rorqual
