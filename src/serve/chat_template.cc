#include "serve/chat_template.h"

#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kConfigName = "tokenizer_config.json";
constexpr const char* kJinjaName = "chat_template.jinja";
constexpr int kMaxDepth = 100;

Json parse_json(std::string_view text, const std::string& name) {
  try {
    return Json::parse(text.begin(), text.end(), [&](int depth, Json::parse_event_t, Json&) {
      if (depth > kMaxDepth) fail("{}: JSON nested deeper than {} levels", name, kMaxDepth);
      return true;
    });
  } catch (const Json::exception& error) {
    std::string_view what = error.what();
    if (const size_t bracket = what.find("] "); bracket != what.npos) what.remove_prefix(bracket + 2);
    fail("{}: not valid JSON: {}", name, what);
  }
}

// A string, or the content of an object as AddedToken is written.
std::optional<std::string> token_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object() || !value.contains("content") || !value["content"].is_string()) return std::nullopt;
  return value["content"].get<std::string>();
}

Json special_tokens(const Json& config, const std::string& file) {
  Json tokens = Json::object();
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    const std::optional<std::string> text = token_text(*found);
    if (!text) fail("{}: {} must be a string or an object with \"content\"", file, key);
    tokens[key] = *text;
  }
  return tokens;
}

bool has_tools(const Json& request) {
  const auto tools = request.find("tools");
  return tools != request.end() && !tools->is_null();
}

}  // namespace

ChatTemplate ChatTemplate::parse(std::string_view jinja, std::string_view config_text, const std::string& name) {
  const std::string config_file = name + "/" + kConfigName;
  const Json config = config_text.empty() ? Json::object() : parse_json(config_text, config_file);
  if (!config.is_object()) fail("{}: an object is needed", config_file);
  ChatTemplate made;
  made.name_ = name;
  made.tokens_ = special_tokens(config, config_file);
  const std::string where = config_file + ", chat_template";
  const Json* const held = config.contains("chat_template") ? &config["chat_template"] : nullptr;
  if (!jinja.empty()) {
    made.templates_.emplace_back("default", JinjaTemplate::parse(jinja, name + "/" + kJinjaName));
  } else if (held == nullptr || held->is_null()) {
    fail("{} has no chat template: neither {} nor a chat_template in {}; a base model has none", name, kJinjaName, kConfigName);
  } else if (held->is_string()) {
    made.templates_.emplace_back("default", JinjaTemplate::parse(held->get_ref<const std::string&>(), where));
  } else {
    if (!held->is_array() || held->empty()) fail("{}: a string or a list of {{\"name\", \"template\"}} is needed", where);
    for (const Json& entry : *held) {
      const bool right = entry.is_object() && entry.contains("name") && entry["name"].is_string() &&
                         entry.contains("template") && entry["template"].is_string();
      if (!right) fail("{}: each entry of the list needs the strings \"name\" and \"template\"", where);
      const auto own = entry["name"].get<std::string>();
      made.templates_.emplace_back(own,
                                   JinjaTemplate::parse(entry["template"].get_ref<const std::string&>(), where + " " + own));
    }
  }
  return made;
}

ChatTemplate ChatTemplate::load(const fs::path& directory) {
  if (!fs::is_directory(directory))
    fail("{} is no folder; a model's folder with {} is needed", directory.string(), kConfigName);
  const auto text_of = [](const fs::path& file) { return fs::exists(file) ? read_file(file) : std::string(); };
  for (const fs::path& folder : {directory, directory / "tokenizer"}) {
    if (!fs::exists(folder / kConfigName) && !fs::exists(folder / kJinjaName)) continue;
    return parse(text_of(folder / kJinjaName), text_of(folder / kConfigName), folder.string());
  }
  fail("{} holds neither {} nor {}", directory.string(), kConfigName, kJinjaName);
}

const JinjaTemplate& ChatTemplate::choose(const Json& request) const {
  if (templates_.size() == 1) return templates_[0].second;
  std::string names;
  const JinjaTemplate* usual = nullptr;
  for (const auto& [own, held] : templates_) {
    if (own == "tool_use" && has_tools(request)) return held;
    if (own == "default") usual = &held;
    names += (names.empty() ? "" : ", ") + own;
  }
  if (usual == nullptr) fail("{} has the chat templates {}, but none called \"default\"", name_, names);
  return *usual;
}

std::string ChatTemplate::render(const Json& request, const JinjaOptions& options) const {
  Json variables = tokens_;
  variables["tools"] = nullptr;
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = false;
  for (const auto& [key, value] : request.items()) variables[key] = value;
  return choose(request).render(variables, options);
}

Json parse_chat_request(std::string_view text, const std::string& name) {
  Json request = parse_json(text, name);
  if (!request.is_object() || !request.contains("messages")) fail("{}: {{\"messages\": […]}} is needed", name);
  const Json& messages = request["messages"];
  if (!messages.is_array()) fail("{}: \"messages\" must be a list of objects", name);
  for (size_t i = 0; i < messages.size(); ++i)
    if (!messages[i].is_object())
      fail("{}: messages[{}] must be an object such as {{\"role\": \"user\", \"content\": \"Hi\"}}", name, i);
  const auto prompt = request.find("add_generation_prompt");
  if (prompt != request.end() && !prompt->is_boolean()) fail("{}: \"add_generation_prompt\" must be true or false", name);
  return request;
}

}  // namespace rorqual
