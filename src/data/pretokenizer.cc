#include "data/pretokenizer.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <bit>

#include "data/unicode.h"

namespace rorqual {

const std::string_view kSplitNumber = "\\p{N}{1,3}";
const std::string_view kSplitCjk = "[一-龥\u3040-ゟ゠-ヿ]+";
const std::string_view kSplitWord =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

namespace {

using enum CharClass;

const uint8_t* const kAscii = ascii_classes();

CharAt look(const char* p, const char* end) {
  const auto byte = static_cast<uint8_t>(*p);
  if (byte < 0x80) return {1, static_cast<CharClass>(kAscii[byte])};
  return char_at(p, end);
}

bool is_ascii_letter(char c) {
  return static_cast<uint8_t>((c | 0x20) - 'a') < 26;
}

#ifdef __SSE2__
// How many of the 16 bytes at `p` are ASCII letters before the first that is none. Words are short: one comparison in place of
// a loop whose end no branch predictor knows.
int ascii_letters_of_16(const char* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  // a-z move to the 26 lowest signed values.
  const __m128i moved = _mm_sub_epi8(_mm_or_si128(bytes, _mm_set1_epi8(0x20)), _mm_set1_epi8(static_cast<char>('a' + 128)));
  const int letters = _mm_movemask_epi8(_mm_cmplt_epi8(moved, _mm_set1_epi8(-128 + 26)));
  return std::countr_one(static_cast<uint32_t>(letters));
}
#endif

// Past the ASCII letters from `p` on.
const char* skip_ascii_letters(const char* p, const char* end) {
#ifdef __SSE2__
  while (end - p >= 16) {
    const int count = ascii_letters_of_16(p);
    p += count;
    if (count < 16) return p;
  }
#endif
  while (p < end && is_ascii_letter(*p)) ++p;
  return p;
}

// Past the longest run of one class.
template <CharClass kKind>
const char* skip_run(const char* p, const char* end) {
  while (p < end) {
    const CharAt at = look(p, end);
    if (at.kind != kKind) break;
    p += at.bytes;
  }
  return p;
}

const char* skip_letters(const char* p, const char* end) {
  p = skip_ascii_letters(p, end);
  // No other ASCII character is of the class.
  return p < end && static_cast<uint8_t>(*p) >= 0x80 ? skip_run<kLetterMark>(p, end) : p;
}

const char* skip_newlines(const char* p, const char* end) {
  while (p < end && (*p == '\n' || *p == '\r')) ++p;
  return p;
}

// \s*[\r\n]+|\s+(?!\S)|\s+ from the start of a run of white space: through its last newline if it has one; all of it at the end
// of the text that the third split sees; else all but its last character, which the next piece may want, if there are two.
const char* end_of_white_space(const char* p, const char* end) {
  const char* after_newline = nullptr;
  const char* last = p;
  const char* q = p;
  bool text_ends = true;
  while (q < end) {
    const CharAt at = look(q, end);
    if (at.kind != kSpace && at.kind != kNewline) {
      text_ends = at.kind == kNumber || at.kind == kCjk || at.kind == kInvalid;
      break;
    }
    last = q;
    q += at.bytes;
    if (at.kind == kNewline) after_newline = q;
  }
  if (after_newline != nullptr) return after_newline;
  return text_ends || last == p ? q : last;
}

// Characters of class kOther before no letter match nothing. Such a run goes on to the first character where a match starts.
const char* end_of_unmatched(const char* p, const char* end) {
  while (p < end) {
    const CharAt at = look(p, end);
    if (at.kind != kOther) break;
    const char* const next = p + at.bytes;
    if (next < end && look(next, end).kind == kLetterMark) break;
    p = next;
  }
  return p;
}

const char* end_of_numbers(const char* p, const char* end) {
  for (int i = 0; i < 3 && p < end; ++i) {
    const CharAt at = look(p, end);
    if (at.kind != kNumber) break;
    p += at.bytes;
  }
  return p;
}

// What the third split sees in a character of the second split's range.
CharClass class_in_cjk(const char* p, const char* end) {
  switch (decode_utf8(p, end).code) {
    case 0x309B:
    case 0x309C:
    case 0x30A0:
    case 0x30FB:
      return kPunctuationSymbol;
    case 0x3040:
    case 0x3097:
    case 0x3098:
      return kOther;  // unassigned
    default:
      return kLetterMark;
  }
}

// The third split cuts the pieces of the second one again: signs apart from letters, an unassigned character to the letters
// behind it. All characters of the range have 3 bytes.
const char* end_of_cjk(const char* p, const char* end) {
  const auto is = [&](const char* q, CharClass kind) {
    return q < end && look(q, end).kind == kCjk && class_in_cjk(q, end) == kind;
  };
  const auto skip = [&](const char* q, CharClass kind) {
    while (is(q, kind)) q += 3;
    return q;
  };
  const CharClass first = class_in_cjk(p, end);
  if (first != kOther) return skip(p, first);
  const char* const others = skip(p, kOther);
  if (!is(others, kLetterMark)) return others;
  return others == p + 3 ? skip(others, kLetterMark) : others - 3;
}

}  // namespace

const char* next_piece(const char* p, const char* end) {
  const CharAt first = look(p, end);
  const char* const next = p + first.bytes;
  switch (first.kind) {
    case kInvalid:
      return next;
    case kNumber:
      return end_of_numbers(p, end);
    case kCjk:
      return end_of_cjk(p, end);
    case kLetterMark:
      return skip_letters(next, end);
    case kPunctuationSymbol: {
      // An ASCII sign takes the ASCII letters behind it. All 32 ASCII signs stand in the pattern's list.
      if (first.bytes == 1 && next < end && is_ascii_letter(*next)) {
        return skip_ascii_letters(next + 1, end);
      }
      return skip_newlines(skip_run<kPunctuationSymbol>(next, end), end);
    }
    case kSpace: {
      if (next == end) return next;
      const CharAt second = look(next, end);
      if (second.kind == kLetterMark) return skip_letters(next + second.bytes, end);
      if (second.kind == kPunctuationSymbol && *p == ' ') {
        return skip_newlines(skip_run<kPunctuationSymbol>(next + second.bytes, end), end);
      }
      return end_of_white_space(p, end);
    }
    case kNewline:
      return end_of_white_space(p, end);
    case kOther:
      if (next < end && look(next, end).kind == kLetterMark) return skip_letters(next, end);
      return end_of_unmatched(p, end);
  }
  return next;
}

}  // namespace rorqual
