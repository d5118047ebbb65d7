#include "data/chat_templates.h"

#include "base/error.h"

namespace rorqual {

using Json = nlohmann::ordered_json;

std::vector<ChatTemplateText> chat_templates(std::string_view jinja, const Json& config, const std::string& folder) {
  const std::string config_file = folder + "/" + kTokenizerConfigName;
  if (!config.is_object()) fail("{}: an object is needed", config_file);
  if (!jinja.empty()) return {{"default", std::string(jinja), folder + "/" + kChatTemplateName}};
  const auto held = config.find("chat_template");
  if (held == config.end() || held->is_null()) return {};
  const std::string where = config_file + ", chat_template";
  if (held->is_string()) return {{"default", held->get<std::string>(), where}};
  if (!held->is_array() || held->empty()) fail("{}: a string or a list of {{\"name\", \"template\"}} is needed", where);
  std::vector<ChatTemplateText> templates;
  for (const Json& entry : *held) {
    const bool right = entry.is_object() && entry.contains("name") && entry["name"].is_string() && entry.contains("template") &&
                       entry["template"].is_string();
    if (!right) fail("{}: each entry of the list needs the strings \"name\" and \"template\"", where);
    const auto name = entry["name"].get<std::string>();
    templates.push_back({name, entry["template"].get<std::string>(), where + " " + name});
  }
  return templates;
}

}  // namespace rorqual
