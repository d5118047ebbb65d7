#include "serve/chat_template.h"

#include "base/error.h"
#include "base/file.h"
#include "data/chat_templates.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

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
  const std::string config_file = name + "/" + kTokenizerConfigName;
  const Json config = config_text.empty() ? Json::object() : parse_json(config_text, config_file);
  const std::vector<ChatTemplateText> texts = chat_templates(jinja, config, name);
  if (texts.empty())
    fail("{} has no chat template: neither {} nor a chat_template in {}; a base model has none", name, kChatTemplateName,
         kTokenizerConfigName);
  ChatTemplate made;
  made.name_ = name;
  made.tokens_ = special_tokens(config, config_file);
  for (const ChatTemplateText& t : texts) made.templates_.emplace_back(t.name, JinjaTemplate::parse(t.text, t.where));
  return made;
}

ChatTemplate ChatTemplate::load(const fs::path& directory) {
  if (!fs::is_directory(directory))
    fail("{} is no folder; a model's folder with {} is needed", directory.string(), kTokenizerConfigName);
  const auto text_of = [](const fs::path& file) { return fs::exists(file) ? read_file(file) : std::string(); };
  for (const fs::path& folder : {directory, directory / "tokenizer"}) {
    if (!fs::exists(folder / kTokenizerConfigName) && !fs::exists(folder / kChatTemplateName)) continue;
    return parse(text_of(folder / kChatTemplateName), text_of(folder / kTokenizerConfigName), folder.string());
  }
  fail("{} holds neither {} nor {}", directory.string(), kTokenizerConfigName, kChatTemplateName);
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
