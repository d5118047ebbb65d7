#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>

#include "base/error.h"
#include "checkpoint/model_source.h"
#include "checkpoint/tensor_summary.h"
#include "cli/command.h"
#include "data/shard.h"
#include "tensor/gguf.h"
#include "train/recipe.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// What was found: `facts` is the JSON object without its tensors.
struct Inspection {
  Json facts;
  std::vector<TensorLine> tensors;
};

Json parameters_of(const ModelConfig& config) {
  const ParameterCount p = TensorList(config).parameters();
  return {{"total", p.total}, {"active", p.active}, {"mtp", p.mtp}};
}

Json config_of(const ModelConfig& config) {
  Json j = Json::object();
  visit_model_keys(config, [&](const std::string& key, const auto& value, const char*) { j[key] = value; });
  return j;
}

Json recipe_of(const Recipe& recipe) {
  Json j = Json::object();
  visit_recipe_keys(recipe, [&](const std::string& key, const auto& value, const char*) { j[key] = value; });
  return j;
}

Inspection inspect_recipe(const fs::path& file) {
  const Recipe recipe = read_whole_recipe(file, {});
  Inspection found;
  found.facts = {{"kind", "recipe"}, {"path", file.string()}, {"precision", recipe.formats.precision}};
  found.facts["parameters"] = parameters_of(recipe.model);
  // An upper bound while the batch is still growing.
  found.facts["tokens"] = recipe.train.steps * recipe.train.batch_sequences * recipe.train.sequence_length;
  found.facts["config"] = config_of(recipe.model);
  found.facts["recipe"] = recipe_of(recipe);
  const TensorList list(recipe.model);
  const std::string dtype(dtype_name(make_precision(recipe.formats).full));
  for (const TensorSpec& s : list.specs()) found.tensors.push_back({s.name, dtype, shape_of(s)});
  return found;
}

Inspection inspect_model(const fs::path& path) {
  const ModelSource source = open_model(path);
  Inspection found;
  const char* kind = !source.checkpoint ? "model" : fs::exists(path / "state.json") ? "checkpoint" : "run";
  found.facts = {{"kind", kind}, {"path", path.string()}, {"description", source.description}};
  if (source.checkpoint) found.facts["precision"] = source.formats.precision;
  found.facts["parameters"] = parameters_of(source.config);
  found.facts["tokens"] = source.tokens_seen < 0 ? Json(nullptr) : Json(source.tokens_seen);
  found.facts["heldout_loss"] = source.heldout_loss ? Json(*source.heldout_loss) : Json(nullptr);
  if (source.checkpoint) {
    const Checkpoint& c = *source.checkpoint;
    found.facts["step"] = c.step;
    found.facts["sequences"] = c.sequences;
    found.facts["checkpoint"] = c.path.string();
    for (const Checkpoint::File& f : c.files) found.facts["files"].push_back({{"name", f.name}, {"bytes", f.bytes}});
  }
  found.facts["config"] = config_of(source.config);
  found.facts["recipe"] = nullptr;
  if (source.recipe) found.facts["recipe"] = recipe_of(parse_recipe(*source.recipe, source.description, {}));
  // In the order of the model, then what it has besides.
  SourceTensors rest = source.tensors();
  const auto add = [&](const std::string& name, const SourceTensor& t) {
    found.tensors.push_back({name, t.entry->dtype, t.entry->shape});
    if (t.is_fp8()) found.tensors.push_back({t.scale->name, t.scale->dtype, t.scale->shape});
  };
  const TensorList list(source.config);
  for (const TensorSpec& s : list.specs()) {
    const auto it = rest.find(s.name);
    if (it == rest.end()) continue;
    add(s.name, it->second);
    rest.erase(it);
  }
  for (const auto& [name, t] : rest) add(name, t);
  return found;
}

Inspection inspect_safetensors(const fs::path& path) {
  const SafetensorsFile file(path);
  Inspection found;
  int64_t total = 0;
  for (const SafetensorsEntry& e : file.entries()) {
    total += e.count();
    found.tensors.push_back({e.name, e.dtype, e.shape});
  }
  found.facts = {{"kind", "safetensors"}, {"path", path.string()}, {"parameters", {{"total", total}}}};
  found.facts["metadata"] = file.metadata();
  return found;
}

// Long arrays (a vocabulary has 10^5 tokens) by their length alone.
Json metadata_of(const GgufValue& v) {
  constexpr size_t kShown = 16;
  const auto* elements = std::get_if<std::vector<GgufValue>>(&v.value);
  if (elements == nullptr) {
    return std::visit(
        [](const auto& x) -> Json {
          if constexpr (std::is_same_v<std::decay_t<decltype(x)>, std::vector<GgufValue>>)
            return nullptr;
          else
            return x;
        },
        v.value);
  }
  if (elements->size() > kShown) return {{"elements", elements->size()}};
  Json list = Json::array();
  for (const GgufValue& e : *elements) list.push_back(metadata_of(e));
  return list;
}

Inspection inspect_gguf(const fs::path& path) {
  const GgufFile file(path);
  Inspection found;
  int64_t total = 0;
  for (const GgufTensor& t : file.header().tensors) {
    total += t.count();
    found.tensors.push_back({t.name, std::string(t.type.name), t.shape});
  }
  found.facts = {{"kind", "gguf"}, {"path", path.string()}, {"version", file.header().version}};
  found.facts["parameters"] = {{"total", total}};
  found.facts["metadata"] = Json::object();
  for (const auto& [key, value] : file.header().metadata) found.facts["metadata"][key] = metadata_of(value);
  return found;
}

Inspection inspect_shard(const fs::path& path) {
  const ShardReader shard(path, true);
  const ShardInfo& s = shard.info();
  Inspection found;
  found.facts = {{"kind", "shard"},
                 {"path", path.string()},
                 {"split", shard_split_name(s.split)},
                 {"documents", s.documents},
                 {"tokens", s.tokens},
                 {"text_bytes", s.text_bytes},
                 {"token_bytes", s.token_bytes},
                 {"vocab_size", s.vocab_size},
                 {"tokenizer_fingerprint", fmt::format("{:016x}", s.tokenizer_fingerprint)},
                 {"content_hash", fmt::format("{:016x}", s.header_hash)},
                 {"file_bytes", s.file_bytes},
                 {"version", s.version},
                 {"source", s.source}};
  return found;
}

Inspection inspect(const std::string& what) {
  std::error_code error;
  const fs::path path(what);
  if (fs::is_directory(path, error)) return inspect_model(path);
  if (!fs::exists(path, error)) {
    // A path that is not there is no misspelt recipe.
    if (what.find('/') != std::string::npos) fail("{}: there is no such file or directory", what);
    return inspect_recipe(find_recipe(what));
  }
  const std::string extension = path.extension().string();
  if (extension == ".toml") return inspect_recipe(path);
  if (extension == ".safetensors") return inspect_safetensors(path);
  if (extension == ".gguf") return inspect_gguf(path);
  if (extension == ".rqs") return inspect_shard(path);
  fail("{}: a model, run or checkpoint directory, or a file .safetensors, .gguf, .rqs or .toml is needed", what);
}

// 671026419200 → "671,026,419,200".
std::string grouped(int64_t n) {
  std::string text = std::to_string(n);
  for (auto at = static_cast<int64_t>(text.size()) - 3; at > 0; at -= 3) text.insert(static_cast<size_t>(at), ",");
  return text;
}

// Counts are grouped by thousands; the keys of a recipe stay as one writes them there.
std::string fact_in_words(const std::string& key, const Json& value, const std::string& indent, bool counts) {
  if (value.is_null()) return "";
  if (key == "files") {
    std::string text;
    for (const Json& f : value)
      text += fmt::format("file: {}, {} bytes\n", f["name"].get<std::string>(), grouped(f["bytes"].get<int64_t>()));
    return text;
  }
  if (value.is_object()) {
    std::string text = fmt::format("{}{}:\n", indent, key);
    for (const auto& [k, v] : value.items()) text += fact_in_words(k, v, indent + "  ", counts);
    return text;
  }
  const bool count = counts && value.is_number_integer() && key != "version";
  const std::string shown = value.is_string() ? value.get<std::string>() : count ? grouped(value.get<int64_t>()) : value.dump();
  return fmt::format("{}{}: {}\n", indent, key, shown);
}

std::string in_words(const Inspection& found) {
  std::string text;
  for (const auto& [key, value] : found.facts.items()) {
    // A recipe's [model] is the config without what was filled in.
    if (key == "config" && found.facts.contains("recipe") && !found.facts["recipe"].is_null()) continue;
    text += fact_in_words(key, value, "", key != "config" && key != "recipe");
  }
  if (found.tensors.empty()) return text;
  text += fmt::format("tensors: {}\n", grouped(static_cast<int64_t>(found.tensors.size())));
  for (const TensorLine& line : summarise(found.tensors))
    text += fmt::format("  {:<5} {:<16} {}{}\n", line.dtype, fmt::format("[{}]", fmt::join(line.shape, ", ")), line.name,
                        line.tensors > 1 ? fmt::format("  ({})", grouped(line.tensors)) : "");
  return text;
}

Json in_json(const Inspection& found) {
  Json json = found.facts;
  if (found.facts["kind"] == "shard") return json;
  json["tensors"] = Json::array();
  for (const TensorLine& t : found.tensors)
    json["tensors"].push_back({{"name", t.name}, {"dtype", t.dtype}, {"shape", t.shape}});
  return json;
}

struct Options {
  std::string what;
  bool json = false;
};

}  // namespace

void add_inspect(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = add_command(app, "inspect", "What a model, run, checkpoint, shard or recipe holds",
                                  "rorqual inspect tiny\nrorqual inspect runs/tiny --json");
  command->add_option("PATH", options->what, "directory or file, or the name of a recipe")->required()->type_name("PATH");
  add_json_flag(*command, options->json);
  command->callback([options] {
    const Inspection found = inspect(options->what);
    if (options->json)
      print_json(in_json(found));
    else
      print_text(in_words(found));
  });
}

}  // namespace rorqual
