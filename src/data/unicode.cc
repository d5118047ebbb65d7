#include "data/unicode.h"

#include <vector>

#include "base/error.h"

namespace rorqual {

namespace {

constexpr char32_t kCodes = 0x110000;

// One byte per code point: 1.1 MB of address space, of which text touches a few pages.
struct ClassTable {
  std::vector<uint8_t> kinds = std::vector<uint8_t>(kCodes, static_cast<uint8_t>(CharClass::kOther));
  uint8_t ascii[256];

  ClassTable() {
    for (const CharRange& range : unicode_ranges()) {
      for (char32_t code = range.first; code <= range.last; ++code) kinds[code] = static_cast<uint8_t>(range.kind);
    }
    for (int i = 0; i < 256; ++i) ascii[i] = i < 128 ? kinds[i] : static_cast<uint8_t>(CharClass::kInvalid);
  }
};

const ClassTable& class_table() {
  static const ClassTable table;
  return table;
}

bool is_continuation(uint8_t byte) {
  return (byte & 0xC0) == 0x80;
}

}  // namespace

CharClass char_class(char32_t code) {
  CHECK(code < kCodes, "code point {}", static_cast<uint32_t>(code));
  return static_cast<CharClass>(class_table().kinds[code]);
}

const uint8_t* ascii_classes() {
  return class_table().ascii;
}

CodeAt decode_utf8(const char* p, const char* end) {
  const auto* s = reinterpret_cast<const uint8_t*>(p);
  const int64_t left = end - p;
  const uint8_t lead = s[0];
  if (lead < 0x80) return {lead, 1};
  if (lead >= 0xC2 && lead <= 0xDF) {
    if (left < 2 || !is_continuation(s[1])) return {0, 0};
    return {static_cast<char32_t>((lead & 0x1F) << 6 | (s[1] & 0x3F)), 2};
  }
  if (lead >= 0xE0 && lead <= 0xEF) {
    if (left < 3 || !is_continuation(s[1]) || !is_continuation(s[2])) return {0, 0};
    const auto code = static_cast<char32_t>((lead & 0x0F) << 12 | (s[1] & 0x3F) << 6 | (s[2] & 0x3F));
    if (code < 0x800 || (code >= 0xD800 && code <= 0xDFFF)) return {0, 0};
    return {code, 3};
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    if (left < 4 || !is_continuation(s[1]) || !is_continuation(s[2]) || !is_continuation(s[3])) return {0, 0};
    const auto code = static_cast<char32_t>((lead & 0x07) << 18 | (s[1] & 0x3F) << 12 | (s[2] & 0x3F) << 6 | (s[3] & 0x3F));
    if (code < 0x10000 || code >= kCodes) return {0, 0};
    return {code, 4};
  }
  return {0, 0};
}

CharAt char_at(const char* p, const char* end) {
  const CodeAt at = decode_utf8(p, end);
  if (at.bytes == 0) return {1, CharClass::kInvalid};
  return {at.bytes, static_cast<CharClass>(class_table().kinds[at.code])};
}

void append_utf8(char32_t code, std::string& out) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out.push_back(static_cast<char>(0xC0 | code >> 6));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else if (code < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code >> 12));
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else {
    out.push_back(static_cast<char>(0xF0 | code >> 18));
    out.push_back(static_cast<char>(0x80 | (code >> 12 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  }
}

}  // namespace rorqual
