#include "checkpoint/hugging_face.h"

#include <cstring>
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
    source.model_tensors[name] = {.file = shards[file], .entry = entry};
  }
}

struct Fp8Blocks {
  int64_t rows = 128, cols = 128;
};

// quantization_config of DeepSeek-V3: FP8 E4M3 with a scale per block. Other schemes are told by their names.
Fp8Blocks read_quantisation(const Json& config, const std::string& where) {
  Fp8Blocks blocks;
  const auto it = config.find("quantization_config");
  if (it == config.end() || it->is_null()) return blocks;
  const auto refuse = [&](const char* key, const char* need) {
    fail("{}: quantization_config.{} is {}; {} is supported", where, key, it->contains(key) ? (*it)[key].dump() : "absent",
         need);
  };
  if (!it->is_object()) fail("{}: quantization_config is no object", where);
  if (it->value("quant_method", Json()) != "fp8") refuse("quant_method", "\"fp8\" (E4M3 with block scales)");
  if (it->contains("fmt") && (*it)["fmt"] != "e4m3") refuse("fmt", "\"e4m3\"");
  if (!it->contains("weight_block_size")) return blocks;
  const Json& size = (*it)["weight_block_size"];
  const auto natural = [](const Json& n) { return n.is_number_unsigned() && n >= 1 && n <= (1 << 20); };
  if (!size.is_array() || size.size() != 2 || !natural(size[0]) || !natural(size[1]))
    refuse("weight_block_size", "two numbers, as in [128, 128],");
  return {size[0].get<int64_t>(), size[1].get<int64_t>()};
}

// Gives each FP8 weight its scales, wherever they lie, and takes them from the list of tensors.
void attach_scales(const Fp8Blocks& blocks, const std::string& where, ModelSource& source) {
  SourceTensors& tensors = source.model_tensors;
  std::vector<std::string> missing, surplus;
  for (auto it = tensors.begin(); it != tensors.end();) {
    const auto& [name, scale] = *it;
    const auto weight =
        name.ends_with(kScaleSuffix) ? tensors.find(name.substr(0, name.size() - std::strlen(kScaleSuffix))) : tensors.end();
    if (weight == tensors.end() || weight->second.entry->dtype != "F8_E4M3") {
      if (name.ends_with(kScaleSuffix)) surplus.push_back(name);
      ++it;
      continue;
    }
    SourceTensor& w = weight->second;
    const std::vector<int64_t> shape = {(w.rows() + blocks.rows - 1) / blocks.rows, (w.cols() + blocks.cols - 1) / blocks.cols};
    if (w.entry->shape.size() != 2 || scale.entry->shape != shape)
      fail("{}: tensor '{}' has shape [{}], a weight of [{}] in blocks of [{}, {}] has scales of [{}]", scale.where(), name,
           fmt::join(scale.entry->shape, ", "), fmt::join(w.entry->shape, ", "), blocks.rows, blocks.cols,
           fmt::join(shape, ", "));
    if (scale.entry->dtype != "F32" && scale.entry->dtype != "BF16")
      fail("{}: tensor '{}' has dtype {}; scales are F32 or BF16", scale.where(), name, scale.entry->dtype);
    w.scale_file = scale.file;
    w.scale = scale.entry;
    w.block_rows = blocks.rows;
    w.block_cols = blocks.cols;
    it = tensors.erase(it);
  }
  for (const auto& [name, t] : tensors)
    if (t.entry->dtype == "F8_E4M3" && !t.is_fp8()) missing.push_back(name + kScaleSuffix);
  if (!missing.empty()) fail("{}: the model lacks {}: FP8 weights mean nothing without their scales", where, some_of(missing));
  if (!surplus.empty()) fail("{}: there is no FP8 weight for {}", where, some_of(surplus));
}

// What an export of ours says of its training.
void read_training(const Json& config, ModelSource& source) {
  const auto it = config.find(kTrainingKey);
  if (it == config.end() || !it->is_object()) return;
  if (const auto n = it->find("tokens_seen"); n != it->end() && n->is_number_unsigned()) source.tokens_seen = n->get<int64_t>();
  if (const auto x = it->find("heldout_loss"); x != it->end() && x->is_number()) source.heldout_loss = x->get<double>();
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
    for (const SafetensorsEntry& e : file.entries()) source.model_tensors[e.name] = {.file = &file, .entry = &e};
  } else {
    fail("{}: there is a {} but no weights: {} or {} is needed", directory.string(), kConfigFile, kSingleFile, kIndexFile);
  }
  attach_scales(read_quantisation(config, config_path.string()), directory.string(), source);
  read_training(config, source);
  source.tokenizer_directory = directory;
  source.description = fmt::format("Hugging Face directory {}", directory.string());
}

}  // namespace rorqual
