#include "jinja/text.h"

#include <algorithm>
#include <clocale>
#include <cwctype>

#include "base/error.h"
#include "data/unicode.h"

namespace rorqual::jinja {
namespace {

CodeAt code_at(std::string_view text, size_t at) {
  return decode_utf8(text.data() + at, text.data() + text.size());
}

// Characters whose upper case, lower case or title case is longer than one character or depends on the neighbours.
bool has_special_case(char32_t code, Case to) {
  if (to == Case::kLower) return code == 0x130 || code == 0x3A3;
  return code == 0xDF || code == 0x149 || code == 0x1F0 || code == 0x390 || code == 0x3B0 || code == 0x587 ||
         (code >= 0x1E96 && code <= 0x1E9E) || (code >= 0x1F50 && code <= 0x1FFC) || (code >= 0xFB00 && code <= 0xFB17) ||
         (code >= 0x1C4 && code <= 0x1CC) || (code >= 0x1F1 && code <= 0x1F3);
}

char32_t mapped(char32_t code, Case to) {
  if (code < 0x80) {
    if (to == Case::kUpper) return code >= 'a' && code <= 'z' ? code - 32 : code;
    return code >= 'A' && code <= 'Z' ? code + 32 : code;
  }
  static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  if (has_special_case(code, to) || locale == nullptr) {
    refuse("unsupported: {} case of the character U+{:04X}", to == Case::kUpper ? "upper" : "lower",
           static_cast<uint32_t>(code));
  }
  const auto wide = static_cast<wint_t>(code);
  return static_cast<char32_t>(to == Case::kUpper ? towupper_l(wide, locale) : towlower_l(wide, locale));
}

bool is_printable(char32_t code) {
  if (code == ' ') return true;
  switch (char_class(code)) {
    case CharClass::kOther:
    case CharClass::kSpace:
    case CharClass::kNewline:
      return false;
    case CharClass::kCjk:
      return code != 0x3040 && code != 0x3097 && code != 0x3098;  // unassigned
    default:
      return true;
  }
}

}  // namespace

std::string shortened(std::string_view text) {
  if (text.size() <= 60) return std::string(text);
  size_t end = 57;
  while (end > 0 && (text[end] & 0xC0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "...";
}

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const int bytes = code_at(text, i).bytes;
    if (bytes == 0) return false;
    i += static_cast<size_t>(bytes);
  }
  return true;
}

void check_utf8(std::string_view text, const std::string& name) {
  int line = 1;
  for (size_t i = 0; i < text.size();) {
    const int bytes = code_at(text, i).bytes;
    if (bytes == 0) fail("{}:{}: the template is not valid UTF-8: byte 0x{:02x}", name, line, static_cast<uint8_t>(text[i]));
    line += text[i] == '\n';
    i += static_cast<size_t>(bytes);
  }
}

size_t character_count(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::vector<size_t> character_starts(std::string_view text) {
  std::vector<size_t> starts;
  for (size_t i = 0; i < text.size(); ++i)
    if ((text[i] & 0xC0) != 0x80) starts.push_back(i);
  starts.push_back(text.size());
  return starts;
}

bool is_space(char32_t code) {
  if (code < 0x80) return code == ' ' || (code >= 9 && code <= 13) || (code >= 0x1C && code <= 0x1F);
  return char_class(code) == CharClass::kSpace;
}

size_t end_of_space(std::string_view text, size_t from) {
  while (from < text.size()) {
    const CodeAt at = code_at(text, from);
    if (!is_space(at.code)) break;
    from += static_cast<size_t>(at.bytes);
  }
  return from;
}

size_t start_of_trailing_space(std::string_view text) {
  return strip(text, std::nullopt, false, true).size();
}

std::string_view strip(std::string_view text, const std::optional<std::string>& set, bool left, bool right) {
  std::vector<char32_t> codes;
  for (size_t i = 0; set && i < set->size();) {
    const CodeAt at = code_at(*set, i);
    codes.push_back(at.code);
    i += static_cast<size_t>(at.bytes);
  }
  const auto goes = [&](char32_t code) {
    return set ? std::find(codes.begin(), codes.end(), code) != codes.end() : is_space(code);
  };
  while (left && !text.empty()) {
    const CodeAt at = code_at(text, 0);
    if (!goes(at.code)) break;
    text.remove_prefix(static_cast<size_t>(at.bytes));
  }
  while (right && !text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && (text[last] & 0xC0) == 0x80) --last;
    if (!goes(code_at(text, last).code)) break;
    text = text.substr(0, last);
  }
  return text;
}

std::string to_case(std::string_view text, Case to) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const CodeAt at = code_at(text, i);
    append_utf8(mapped(at.code, to), out);
    i += static_cast<size_t>(at.bytes);
  }
  return out;
}

std::string capitalised(std::string_view text) {
  if (text.empty()) return {};
  const auto first = static_cast<size_t>(code_at(text, 0).bytes);
  return to_case(text.substr(0, first), Case::kUpper) + to_case(text.substr(first), Case::kLower);
}

void append_utf8_escaped(std::string_view text, bool ensure_ascii, std::string& out) {
  const auto unit = [&](uint32_t code) { out += fmt::format("\\u{:04x}", code); };
  for (size_t i = 0; i < text.size();) {
    const CodeAt at = code_at(text, i);
    static constexpr std::string_view kShort = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
    const size_t index = at.code < 0x80 ? kShort.find(static_cast<char>(at.code)) : kShort.npos;
    if (index != kShort.npos) {
      out += {'\\', kLetters[index]};
    } else if (at.code < 0x20 || (ensure_ascii && at.code >= 0x7F && at.code < 0x10000)) {
      unit(at.code);
    } else if (ensure_ascii && at.code >= 0x10000) {
      unit(0xD800 + ((at.code - 0x10000) >> 10));
      unit(0xDC00 + ((at.code - 0x10000) & 0x3FF));
    } else {
      out += text.substr(i, static_cast<size_t>(at.bytes));
    }
    i += static_cast<size_t>(at.bytes);
  }
}

void append_repr(std::string_view text, std::string& out) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  out += quote;
  for (size_t i = 0; i < text.size();) {
    const CodeAt at = code_at(text, i);
    const auto code = static_cast<uint32_t>(at.code);
    if (code == '\n' || code == '\r' || code == '\t') {
      out += {'\\', code == '\n' ? 'n' : code == '\r' ? 'r' : 't'};
    } else if (code == '\\' || code == static_cast<uint32_t>(quote)) {
      out += {'\\', static_cast<char>(code)};
    } else if (is_printable(at.code)) {
      out += text.substr(i, static_cast<size_t>(at.bytes));
    } else {
      out += code < 0x100     ? fmt::format("\\x{:02x}", code)
             : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                              : fmt::format("\\U{:08x}", code);
    }
    i += static_cast<size_t>(at.bytes);
  }
  out += quote;
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to, int64_t count, Budget& budget) {
  std::string out;
  budget.charge(text.size());
  size_t at = 0;
  for (int64_t done = 0; count < 0 || done < count; ++done) {
    const size_t hit = from.empty() && done == 0 ? 0 : text.find(from, at + (from.empty() ? 1 : 0));
    if (hit == text.npos || (from.empty() && hit > text.size())) break;
    size_t end = hit;
    // An empty pattern stands between characters.
    while (from.empty() && end < text.size() && (text[end] & 0xC0) == 0x80) ++end;
    budget.charge(to.size() + 1);
    out += text.substr(at, end - at);
    out += to;
    at = end + from.size();
    if (from.empty() && at >= text.size()) break;
  }
  return out += text.substr(at);
}

}  // namespace rorqual::jinja
