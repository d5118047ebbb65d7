// The chat templates that lie in a tokenizer's folder, as text: serving renders them, exports carry them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rorqual {

inline constexpr const char* kTokenizerConfigName = "tokenizer_config.json";
inline constexpr const char* kChatTemplateName = "chat_template.jinja";

struct ChatTemplateText {
  std::string name;  // "default", or as the list says
  std::string text;
  std::string where;  // for messages about the text
};

// jinja: content of chat_template.jinja, which goes before the config's; empty: there is no such file. The config's
// chat_template is one text or a list of {"name", "template"}. Nothing where neither has one. Error (runtime) names `folder`:
// the config is no object, or its chat_template of another form.
std::vector<ChatTemplateText> chat_templates(std::string_view jinja, const nlohmann::ordered_json& config,
                                             const std::string& folder);

}  // namespace rorqual
