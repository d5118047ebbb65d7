// Renders arbitrary bytes as a template over a conversation. Whatever it is: a text within the bounds or an Error, and the same
// one again.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"
#include "jinja/template.h"

namespace {

std::string outcome(std::string_view text, const nlohmann::ordered_json& variables) {
  rorqual::JinjaOptions options;
  options.work = 1 << 20;
  options.now = 0;
  try {
    const std::string out = rorqual::JinjaTemplate::parse(text, "fuzz").render(variables, options);
    if (static_cast<int64_t>(out.size()) > options.work) std::abort();
    return out;
  } catch (const rorqual::Error& error) {
    return error.what();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto variables = nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "user", "content": "H\u00e4 <b>"}, {"role": "assistant", "content": null, "tool_calls": [{"a": 1.5}]}],
    "tools": null, "n": 7, "s": "Hello, World", "l": [3, 1, 2], "d": {"a": {"b": [true, "x"]}}, "add_generation_prompt": true})");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (outcome(text, variables) != outcome(text, variables)) std::abort();
  return 0;
}
