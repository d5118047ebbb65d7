// Bodies of requests: the first byte chooses the route's parser. What is refused must be a 400, whatever the bytes; the texts
// of errors must be JSON themselves. The tool calls of a model's text are found alike however the text is cut.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "serve/api_json.h"
#include "serve/api_request.h"
#include "serve/tool_calls.h"

namespace {

using namespace rorqual;

void parse(uint8_t route, std::string_view body) {
  try {
    const nlohmann::ordered_json json = parse_api_body(body);
    if (route % 2 == 0)
      parse_chat_completion(json);
    else
      parse_completion(json);
  } catch (const ApiError& error) {
    if (error.status != 400) std::abort();
    if (!nlohmann::ordered_json::accept(dump_json(error_json(error)))) std::abort();
  }
}

ToolCallParser::Output parse_calls(std::string_view text, size_t piece) {
  ToolCallParser parser;
  ToolCallParser::Output all;
  for (size_t i = 0; i < text.size(); i += piece) {
    ToolCallParser::Output out = parser.add(text.substr(i, piece), i + piece >= text.size());
    all.content += out.content;
    for (ToolCall& call : out.calls) all.calls.push_back(std::move(call));
  }
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  parse(data[0], text);
  const ToolCallParser::Output whole = parse_calls(text, text.size() + 1), pieces = parse_calls(text, 1 + data[0] % 7);
  if (whole.calls.size() != pieces.calls.size()) std::abort();
  for (size_t i = 0; i < whole.calls.size(); ++i)
    if (whole.calls[i].name != pieces.calls[i].name || whole.calls[i].arguments != pieces.calls[i].arguments) std::abort();
  return 0;
}
