// Turns messages into the text that a model was trained on, by the chat template beside its tokenizer.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jinja/template.h"

namespace rorqual {

class ChatTemplate {
 public:
  // Reads chat_template.jinja and tokenizer_config.json of the folder (or of its folder "tokenizer", as runs have it). The
  // config's chat_template is one text or a list of {"name", "template"}; the file goes before it. Error where there is none.
  static ChatTemplate load(const std::filesystem::path& directory);
  // The same from the texts; `jinja` may be empty. `name` stands for the folder in messages.
  static ChatTemplate parse(std::string_view jinja, std::string_view config, const std::string& name);

  // `request` is {"messages": […], "add_generation_prompt": true, "tools": […], …}: its members are the template's variables,
  // with the config's special tokens (bos_token, …). Without them tools and documents are none and add_generation_prompt is
  // false, as transformers has it. Of several templates "tool_use" serves requests with tools, "default" all others.
  std::string render(const nlohmann::ordered_json& request, const JinjaOptions& options = {}) const;

 private:
  ChatTemplate() = default;
  const JinjaTemplate& choose(const nlohmann::ordered_json& request) const;

  std::string name_;
  std::vector<std::pair<std::string, JinjaTemplate>> templates_;
  nlohmann::ordered_json tokens_;  // special tokens by their names
};

// Parses a request and checks what every template expects; `name` stands for its source in messages.
nlohmann::ordered_json parse_chat_request(std::string_view text, const std::string& name);

}  // namespace rorqual
