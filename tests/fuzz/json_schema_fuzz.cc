// Bytes as a JSON schema, or as a regular expression if they are no JSON: a grammar or an Error. Whatever a grammar of a schema
// takes is JSON.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"
#include "grammar/json_schema.h"
#include "grammar/matcher.h"
#include "grammar/regex.h"

namespace {

// A text of the grammar that always takes the first byte that leads on, or as much of it as fits.
std::string first_text(rorqual::Matcher& matcher, bool& whole) {
  std::string text;
  auto state = matcher.start();
  while (!matcher.accepts(state) && text.size() < 300) {
    int byte = 255;
    while (byte >= 0 && matcher.next(state, static_cast<uint8_t>(byte)) == rorqual::Matcher::kDead) --byte;
    if (byte < 0) break;
    state = matcher.next(state, static_cast<uint8_t>(byte));
    text += static_cast<char>(byte);
  }
  whole = matcher.accepts(state);
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const auto schema = nlohmann::ordered_json::parse(text, nullptr, false);
    rorqual::Matcher matcher(schema.is_discarded() ? rorqual::make_grammar({rorqual::parse_regex(text)})
                                                   : rorqual::json_schema_grammar(schema));
    bool whole = false;
    const std::string first = first_text(matcher, whole);
    if (!schema.is_discarded() && whole && !nlohmann::json::accept(first)) std::abort();
  } catch (const rorqual::Error&) {
  }
  return 0;
}
