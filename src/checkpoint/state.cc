#include "checkpoint/state.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr const char* kFormat = "rorqual checkpoint";
constexpr int kVersion = 1;
constexpr const char* kAdvice =
    "copy it again if there is another copy; `rorqual train --resume` goes back to the checkpoint before it";

// The last field covers every byte before it, the comma that sets it off not included.
constexpr std::string_view kSealBegin = ",\n  \"checksum\": \"", kSealEnd = "\"\n}\n", kBodyEnd = "\n}";
constexpr size_t kDigits = 16;

std::string hex(uint64_t value) {
  return fmt::format("{:016x}", value);
}

std::string seal(std::string_view body) {
  return fmt::format("{}{}{}", kSealBegin, hex(hash_bytes(body.data(), static_cast<int64_t>(body.size()))), kSealEnd);
}

// The JSON keys are those of a recipe's [model], so that no shape is lost that Hugging Face's config.json has no word for.
OrderedJson encode_config(const ModelConfig& config) {
  OrderedJson j = OrderedJson::object();
  visit_model_keys(config, [&](const std::string& key, const auto& value, const char*) { j[key] = value; });
  return j;
}

ModelConfig decode_config(const Json& json, const std::string& where) {
  ModelConfig config;
  size_t known = 0;
  visit_model_keys(config, [&](const std::string& key, auto& value, const char*) {
    const auto it = json.find(key);
    if (it == json.end()) return;
    ++known;
    value = it->template get<std::decay_t<decltype(value)>>();
  });
  if (known != json.size()) fail("{}: its model has keys that this version of rorqual does not know", where);
  try {
    validate(config);
  } catch (const Error& error) {
    fail("{}: {}", where, error.what());
  }
  return config;
}

std::vector<Checkpoint::File> decode_files(const Json& json, const std::string& where) {
  std::vector<Checkpoint::File> files;
  for (const Json& j : json) {
    Checkpoint::File file{j.at("name").get<std::string>(), j.at("bytes").get<int64_t>(), 0};
    const std::string digits = j.at("xxh3").get<std::string>();
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), file.checksum, 16);
    if (error != std::errc() || digits.size() != kDigits || end != digits.data() + digits.size())
      fail("{}: '{}' is no checksum", where, digits);
    if (file.name != kModelFile && file.name != kEmaFile && file.name != kMomentsFile)
      fail("{}: it names the unknown file '{}'", where, file.name);
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace

std::string checkpoint_name(int64_t step) {
  return fmt::format("step-{:08d}", step);
}

int64_t checkpoint_step(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix)) return -1;
  int64_t step = -1;
  const auto [end, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size() || step < 0 || checkpoint_name(step) != name) return -1;
  return step;
}

std::string encode_state(const CheckpointContents& contents, const std::vector<Checkpoint::File>& files) {
  OrderedJson list = OrderedJson::array();
  for (const Checkpoint::File& f : files) list.push_back({{"name", f.name}, {"bytes", f.bytes}, {"xxh3", hex(f.checksum)}});
  const OrderedJson state = {{"format", kFormat},
                             {"version", kVersion},
                             {"step", contents.step},
                             {"tokens", contents.tokens},
                             {"sequences", contents.sequences},
                             {"precision", contents.precision},
                             {"tokenizer", contents.tokenizer},
                             {"model", encode_config(contents.config)},
                             {"files", std::move(list)},
                             {"trainer", contents.trainer},
                             {"recipe", contents.recipe}};
  std::string text = state.dump(2, ' ', false, OrderedJson::error_handler_t::replace);
  text.resize(text.size() - kBodyEnd.size());
  return text + seal(text);
}

Checkpoint decode_state(std::string_view text, const std::filesystem::path& checkpoint) {
  const std::string where = (checkpoint / kStateFile).string();
  const size_t seal_bytes = kSealBegin.size() + kDigits + kSealEnd.size();
  if (text.size() < seal_bytes) fail("{} is damaged: {} bytes are too few; {}", where, text.size(), kAdvice);
  const std::string_view body = text.substr(0, text.size() - seal_bytes);
  if (seal(body) != text.substr(body.size())) fail("{} is damaged: its checksum does not fit its text; {}", where, kAdvice);
  const Json json = Json::parse(std::string(body) + "}", nullptr, false);
  if (!json.is_object() || json.value("format", Json()) != kFormat) fail("{}: not the state of a checkpoint", where);
  if (json.value("version", Json()) != kVersion)
    fail("{}: it has version {} of the format, this program reads version {}: use the program that wrote it", where,
         json.value("version", Json()).dump(), kVersion);
  Checkpoint c;
  c.path = checkpoint;
  try {
    c.step = json.at("step").get<int64_t>();
    c.tokens = json.at("tokens").get<int64_t>();
    c.sequences = json.at("sequences").get<int64_t>();
    c.precision = json.at("precision").get<std::string>();
    c.recipe = json.at("recipe").get<std::string>();
    c.tokenizer = (checkpoint / json.at("tokenizer").get<std::string>()).lexically_normal();
    c.config = decode_config(json.at("model"), where);
    c.files = decode_files(json.at("files"), where);
    c.trainer = json.at("trainer");
  } catch (const Json::exception& error) {
    fail("{}: a field is missing or of the wrong type ({})", where, error.what());
  }
  return c;
}

}  // namespace rorqual
