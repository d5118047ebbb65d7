#include "base/html.h"

#include "base/error.h"

namespace rorqual {

std::string escape_html(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t' ? ' ' : c;
    }
  }
  return result;
}

std::string json_for_script(std::string_view json) {
  std::string text;
  for (const char c : json) {
    if (c == '<')
      text += "\\u003c";  // stands in strings alone
    else
      text += c;
  }
  return text;
}

std::string fill_template(std::string_view page, const std::map<std::string, std::string, std::less<>>& values) {
  std::string result;
  for (;;) {
    const size_t open = page.find("{{");
    if (open == std::string_view::npos) return result.append(page);
    const size_t close = page.find("}}", open);
    CHECK(close != std::string_view::npos);
    const auto value = values.find(page.substr(open + 2, close - open - 2));
    CHECK(value != values.end(), "no value for {}", page.substr(open, close + 2 - open));
    result.append(page.substr(0, open)).append(value->second);
    page.remove_prefix(close + 2);
  }
}

}  // namespace rorqual
