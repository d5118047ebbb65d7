// UTF-8 and the character classes that the pre-tokenizer splits by.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace rorqual {

// Disjoint classes, just as fine as DeepSeek-V3's three patterns need.
enum class CharClass : uint8_t {
  kOther,              // controls, format characters, private use, unassigned
  kLetterMark,         // \p{L} or \p{M}, not kCjk
  kNumber,             // \p{N}
  kPunctuationSymbol,  // \p{P} or \p{S}, not kCjk
  kSpace,              // White_Space but \r and \n: with U+0085, without U+FEFF
  kNewline,            // \r and \n
  kCjk,                // U+4E00-9FA5 and U+3040-30FF, whatever else they are
  kInvalid,            // a byte that is no part of valid UTF-8
};

struct CharRange {
  char32_t first, last;  // both included
  CharClass kind;
};

extern const std::string_view kUnicodeVersion;

// Ascending ranges; what stands in none is kOther.
std::span<const CharRange> unicode_ranges();

// `code` below 0x110000.
CharClass char_class(char32_t code);

// A character at the start of a text: its length in bytes and its class.
struct CharAt {
  int bytes;
  CharClass kind;
};

// One CharClass per ASCII character (kInvalid for none of them); bytes from 0x80 on hold kInvalid and are never looked up.
const uint8_t* ascii_classes();

// The character at `p` < `end`. Overlong forms, surrogates, codes above U+10FFFF and cut sequences are kInvalid, 1 byte each.
CharAt char_at(const char* p, const char* end);

// Appends the UTF-8 of a code point below 0x110000 that is no surrogate.
void append_utf8(char32_t code, std::string& out);

// The code point at text[position] and its length in bytes; length 0 where the bytes are no valid UTF-8.
struct CodeAt {
  char32_t code;
  int bytes;
};
CodeAt decode_utf8(const char* p, const char* end);

}  // namespace rorqual
