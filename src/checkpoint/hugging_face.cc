#include "checkpoint/hugging_face.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

Json read_json(const fs::path& path) {
  Json json = Json::parse(read_file(path), nullptr, false);
  if (!json.is_object()) fail("{}: not a JSON object: damaged, or no such file of a model", path.string());
  return json;
}

const SafetensorsFile& open_file(const fs::path& path, ModelSource& source) {
  source.files.push_back(std::make_shared<const SafetensorsFile>(path));
  return *source.files.back();
}

// The index's weight_map: tensor name → file name.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const Json json = read_json(path);
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object() || map->empty()) fail("{}: it has no weight_map", path.string());
  std::map<std::string, std::string> index;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string()) fail("{}: weight_map names no file for {}", path.string(), name);
    const auto text = file.get<std::string>();
    if (text.empty() || text.find('/') != std::string::npos)
      fail("{}: '{}' is no file name beside the index", path.string(), text);
    index[name] = text;
  }
  return index;
}

void open_shards(const fs::path& directory, ModelSource& source) {
  const fs::path index_path = directory / kIndexFile;
  const std::map<std::string, std::string> index = read_index(index_path);
  std::map<std::string, const SafetensorsFile*> shards;
  for (const auto& [name, file] : index) {
    if (shards.contains(file)) continue;
    std::error_code error;
    if (!fs::exists(directory / file, error))
      fail("{} is missing; {} names it: download or copy it", (directory / file).string(), index_path.string());
    shards[file] = &open_file(directory / file, source);
  }
  std::vector<std::string> surplus;
  for (const auto& [file, shard] : shards)
    for (const SafetensorsEntry& e : shard->entries()) {
      const auto it = index.find(e.name);
      if (it == index.end() || it->second != file) surplus.push_back(fmt::format("{} (in {})", e.name, file));
    }
  if (!surplus.empty())
    fail("{}: the shards hold tensors that it does not name there: {}; index and shards belong to different models",
         index_path.string(), some_of(surplus));
  for (const auto& [name, file] : index) {
    const SafetensorsEntry* entry = shards[file]->find(name);
    if (!entry)
      fail("{}: it has no tensor '{}', which {} places there", (directory / file).string(), name, index_path.string());
    source.model_tensors[name] = {shards[file], entry};
  }
}

bool is_fp8(const SourceTensor& t) {
  return t.entry->dtype.starts_with("F8_");
}

}  // namespace

void open_hugging_face(const fs::path& directory, ModelSource& source) {
  const fs::path config_path = directory / kConfigFile;
  const Json config = read_json(config_path);
  source.config = config_from_hugging_face(config, config_path.string());
  std::error_code error;
  if (fs::exists(directory / kIndexFile, error)) {
    open_shards(directory, source);
  } else if (fs::exists(directory / kSingleFile, error)) {
    const SafetensorsFile& file = open_file(directory / kSingleFile, source);
    for (const SafetensorsEntry& e : file.entries()) source.model_tensors[e.name] = {&file, &e};
  } else {
    fail("{}: there is a {} but no weights: {} or {} is needed", directory.string(), kConfigFile, kSingleFile, kIndexFile);
  }
  source.quantised =
      (config.contains("quantization_config") && !config["quantization_config"].is_null()) ||
      std::any_of(source.model_tensors.begin(), source.model_tensors.end(), [](const auto& t) { return is_fp8(t.second); });
  source.tokenizer_directory = directory;
  source.description = fmt::format("Hugging Face directory {}", directory.string());
}

}  // namespace rorqual
