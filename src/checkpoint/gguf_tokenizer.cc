#include "checkpoint/gguf_tokenizer.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "data/chat_templates.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// llama.cpp's kinds of tokens.
enum TokenKind : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

void add_chat_templates(const Tokenizer& tokenizer, const fs::path& directory, GgufMetadata& metadata) {
  const auto config = nlohmann::ordered_json::parse(tokenizer.config_json(), nullptr, false);
  const fs::path file = directory / kChatTemplateName;
  const std::string jinja = fs::exists(file) ? read_file(file) : std::string();
  const std::string key = "tokenizer.chat_template";
  for (const ChatTemplateText& t : chat_templates(jinja, config, directory.string()))
    metadata.emplace_back(t.name == "default" ? key : key + "." + t.name, GgufValue::of_string(t.text));
}

}  // namespace

void add_tokenizer(const Tokenizer& tokenizer, const fs::path& directory, int64_t vocab_size, GgufMetadata& metadata) {
  const Json json = Json::parse(tokenizer.tokenizer_json());  // our own spelling of it: one form, whatever was read
  const Json config = Json::parse(tokenizer.config_json(), nullptr, false);
  std::vector<std::string> tokens(static_cast<size_t>(vocab_size)), merges;
  std::vector<int32_t> kinds(tokens.size(), kUnused);
  for (size_t id = 0; id < tokens.size(); ++id) tokens[id] = fmt::format("[PAD{}]", id);
  for (const auto& [token, id] : json["model"]["vocab"].items()) {
    tokens.at(id.get<size_t>()) = token;
    kinds.at(id.get<size_t>()) = kNormal;
  }
  for (const Json& t : json["added_tokens"]) {
    const auto id = t["id"].get<size_t>();
    tokens.at(id) = t["content"].get<std::string>();
    kinds.at(id) = t["special"].get<bool>() ? kControl : kUserDefined;
  }
  for (const Json& m : json["model"]["merges"]) merges.push_back(m.get<std::string>());
  const auto add = [&](const char* key, GgufValue value) { metadata.emplace_back(key, std::move(value)); };
  add("tokenizer.ggml.model", GgufValue::of_string("gpt2"));
  add("tokenizer.ggml.pre", GgufValue::of_string("deepseek-v3"));
  add("tokenizer.ggml.tokens", GgufValue::of_strings(tokens));
  add("tokenizer.ggml.token_type", GgufValue::of_i32s(kinds));
  add("tokenizer.ggml.merges", GgufValue::of_strings(merges));
  if (const auto id = tokenizer.bos_id()) add("tokenizer.ggml.bos_token_id", GgufValue::of_u32(*id));
  if (const auto id = tokenizer.eos_id()) add("tokenizer.ggml.eos_token_id", GgufValue::of_u32(*id));
  if (const auto id = tokenizer.pad_id()) add("tokenizer.ggml.padding_token_id", GgufValue::of_u32(*id));
  const bool wanted = !config.is_object() || config.value("add_bos_token", Json(true)) != Json(false);
  add("tokenizer.ggml.add_bos_token", GgufValue::of_bool(wanted && tokenizer.bos_id().has_value()));
  add("tokenizer.ggml.add_eos_token", GgufValue::of_bool(false));
  add_chat_templates(tokenizer, directory, metadata);
}

}  // namespace rorqual
