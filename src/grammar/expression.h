// What a language of text may look like: regular expressions over characters that may call named rules. Regular expressions
// and JSON schemas are turned into these; grammar.h makes an automaton of them.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace rorqual {

// Characters [first, last], Unicode code points; surrogates are no characters and match nothing.
struct CharacterRange {
  char32_t first = 0, last = 0;
  friend bool operator==(const CharacterRange&, const CharacterRange&) = default;
};

inline constexpr char32_t kLastCharacter = 0x10ffff;
inline constexpr int64_t kUnbounded = -1;

struct Expression {
  enum class Kind : uint8_t { kSequence, kChoice, kRepeat, kCharacters, kCall };
  Kind kind = Kind::kSequence;
  std::vector<Expression> children{};  // of kSequence (none: the empty text), kChoice (none: nothing matches), kRepeat (one)
  std::vector<CharacterRange> characters{};  // of kCharacters: one of these
  int64_t least = 0, most = 0;               // of kRepeat; most may be kUnbounded
  int32_t rule = 0;                          // of kCall
};

inline Expression sequence(std::vector<Expression> parts) {
  return {.kind = Expression::Kind::kSequence, .children = std::move(parts)};
}
inline Expression choice(std::vector<Expression> options) {
  return {.kind = Expression::Kind::kChoice, .children = std::move(options)};
}
inline Expression repeat(Expression child, int64_t least, int64_t most) {
  return {.kind = Expression::Kind::kRepeat, .children = {std::move(child)}, .least = least, .most = most};
}
inline Expression optional(Expression child) {
  return repeat(std::move(child), 0, 1);
}
inline Expression characters(std::vector<CharacterRange> ranges) {
  return {.kind = Expression::Kind::kCharacters, .characters = std::move(ranges)};
}
inline Expression call(int32_t rule) {
  return {.kind = Expression::Kind::kCall, .rule = rule};
}
// The text itself; it must be UTF-8.
Expression literal(std::string_view text);

// Sorted, without overlaps, without surrogates.
std::vector<CharacterRange> normalised(std::vector<CharacterRange> ranges);
// All characters but these.
std::vector<CharacterRange> complement(std::vector<CharacterRange> ranges);

}  // namespace rorqual
