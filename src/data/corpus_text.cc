#include "data/corpus_text.h"

#include <cstdint>
#include <cstring>

#include "data/unicode.h"

namespace rorqual {
namespace {

constexpr char32_t kFirstEscape = 0x10FE00;

}  // namespace

bool is_utf8(std::string_view text) {
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    if (end - p >= 8) {
      uint64_t word;
      std::memcpy(&word, p, 8);
      if ((word & 0x8080808080808080) == 0) {
        p += 8;
        continue;
      }
    }
    if (static_cast<unsigned char>(*p) < 0x80) {
      ++p;
      continue;
    }
    const CodeAt at = decode_utf8(p, end);
    if (at.bytes == 0) return false;
    p += at.bytes;
  }
  return true;
}

bool escape_invalid_utf8(std::string_view text, std::string& out) {
  out.clear();
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    const CodeAt at = decode_utf8(p, end);
    if (at.bytes == 0) {
      append_utf8(kFirstEscape + static_cast<unsigned char>(*p), out);
      ++p;
      continue;
    }
    if (at.code >= kFirstEscape && at.code < kFirstEscape + 256) return false;
    out.append(p, static_cast<size_t>(at.bytes));
    p += at.bytes;
  }
  return true;
}

std::string unescape_invalid_utf8(std::string_view text) {
  std::string out;
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    const CodeAt at = decode_utf8(p, end);
    const size_t bytes = at.bytes > 0 ? static_cast<size_t>(at.bytes) : 1;
    if (at.bytes > 0 && at.code >= kFirstEscape && at.code < kFirstEscape + 256) {
      out.push_back(static_cast<char>(at.code - kFirstEscape));
    } else {
      out.append(p, bytes);
    }
    p += bytes;
  }
  return out;
}

}  // namespace rorqual
