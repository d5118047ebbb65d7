#include "grammar/expression.h"

#include <algorithm>

#include "base/error.h"

namespace rorqual {
namespace {

constexpr char32_t kFirstSurrogate = 0xd800, kLastSurrogate = 0xdfff;

// The character that begins at text[at], which moves behind it. The text was checked by whoever read it.
char32_t next_character(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned lead = byte(at);
  const int length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  char32_t c = length == 1 ? lead : lead & (0x7fu >> length);
  for (int i = 1; i < length; ++i) c = c << 6 | (byte(at + static_cast<size_t>(i)) & 0x3f);
  at += static_cast<size_t>(length);
  return c;
}

}  // namespace

Expression literal(std::string_view text) {
  std::vector<Expression> parts;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_character(text, at);
    CHECK(c <= kLastCharacter && at <= text.size(), "a literal that is not UTF-8");
    parts.push_back(characters({{c, c}}));
  }
  return sequence(std::move(parts));
}

std::vector<CharacterRange> normalised(std::vector<CharacterRange> ranges) {
  std::vector<CharacterRange> split;
  for (const CharacterRange& r : ranges) {
    const CharacterRange below = {r.first, std::min<char32_t>(r.last, kFirstSurrogate - 1)};
    const CharacterRange above = {std::max<char32_t>(r.first, kLastSurrogate + 1), std::min(r.last, kLastCharacter)};
    if (below.first <= below.last) split.push_back(below);
    if (above.first <= above.last) split.push_back(above);
  }
  std::sort(split.begin(), split.end(), [](const CharacterRange& a, const CharacterRange& b) { return a.first < b.first; });
  std::vector<CharacterRange> out;
  for (const CharacterRange& r : split) {
    if (!out.empty() && r.first <= out.back().last + 1) {
      out.back().last = std::max(out.back().last, r.last);
    } else {
      out.push_back(r);
    }
  }
  return out;
}

std::vector<CharacterRange> complement(std::vector<CharacterRange> ranges) {
  std::vector<CharacterRange> out;
  char32_t next = 0;
  for (const CharacterRange& r : normalised(std::move(ranges))) {
    if (r.first > next) out.push_back({next, r.first - 1});
    next = r.last + 1;
  }
  if (next <= kLastCharacter) out.push_back({next, kLastCharacter});
  return normalised(std::move(out));
}

}  // namespace rorqual
