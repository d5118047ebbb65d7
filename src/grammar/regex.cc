#include "grammar/regex.h"

#include <string>

#include "base/error.h"

namespace rorqual {
namespace {

constexpr int kMostNesting = 64;
constexpr int64_t kMostCount = 10'000;
constexpr char32_t kEnd = 0xffffffff;

const std::vector<CharacterRange> kDigit = {{'0', '9'}};
const std::vector<CharacterRange> kWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const std::vector<CharacterRange> kSpace = {{'\t', '\r'}, {' ', ' '}};

class RegexParser {
 public:
  explicit RegexParser(std::string_view pattern) : pattern_(pattern) { decode(); }

  Expression parse() {
    if (peek() == '^') ++at_;
    Expression out = alternatives(0);
    if (peek() != kEnd) refuse("')' without '('");
    return out;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    fail_usage("regular expression, column {}: {}: {}", at_ + 1, what, pattern_);
  }

  void decode() {
    for (size_t i = 0; i < pattern_.size();) {
      const auto byte = [&](size_t k) { return k < pattern_.size() ? static_cast<unsigned char>(pattern_[k]) : 0u; };
      const unsigned lead = byte(i);
      const size_t length = lead < 0x80                   ? 1
                            : lead >= 0xc2 && lead < 0xe0 ? 2
                            : (lead & 0xf0) == 0xe0       ? 3
                            : (lead & 0xf8) == 0xf0       ? 4
                                                          : 0;
      char32_t c = length == 1 ? lead : lead & (0x7fu >> length);
      bool whole = length > 0;
      for (size_t k = 1; k < length; ++k) {
        whole = whole && (byte(i + k) & 0xc0) == 0x80;
        c = c << 6 | (byte(i + k) & 0x3f);
      }
      const char32_t least = length == 4 ? 0x10000 : length == 3 ? 0x800 : 0;
      if (!whole || c < least || c > kLastCharacter || (c >= 0xd800 && c <= 0xdfff))
        fail_usage("regular expression: byte {} is not UTF-8", i);
      text_ += c;
      i += length;
    }
  }

  char32_t peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : kEnd; }
  bool take(char32_t c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }

  Expression alternatives(int depth) {
    if (depth > kMostNesting) refuse("groups are nested too deep");
    std::vector<Expression> options = {terms(depth)};
    while (take('|')) options.push_back(terms(depth));
    return options.size() == 1 ? std::move(options.front()) : choice(std::move(options));
  }

  Expression terms(int depth) {
    std::vector<Expression> parts;
    while (peek() != kEnd && peek() != '|' && peek() != ')') {
      if (peek() == '$' && at_ + 1 == text_.size() && depth == 0) {
        ++at_;
        break;
      }
      parts.push_back(quantified(atom(depth)));
    }
    return sequence(std::move(parts));
  }

  Expression quantified(Expression x) {
    int64_t least = 1, most = 1;
    if (take('*')) {
      least = 0, most = kUnbounded;
    } else if (take('+')) {
      most = kUnbounded;
    } else if (take('?')) {
      least = 0;
    } else if (take('{')) {
      least = count();
      most = least;
      if (take(',')) most = peek() == '}' ? kUnbounded : count();
      if (!take('}')) refuse("a repetition is {m}, {m,} or {m,n}");
      if (most != kUnbounded && most < least) refuse("a repetition's bounds are in the wrong order");
    } else {
      return x;
    }
    take('?');  // lazy: the same texts
    if (peek() == '*' || peek() == '+' || peek() == '{') refuse("two repetitions in a row");
    return repeat(std::move(x), least, most);
  }

  int64_t count() {
    if (peek() < '0' || peek() > '9') refuse("a repetition is {m}, {m,} or {m,n}");
    int64_t n = 0;
    while (peek() >= '0' && peek() <= '9') {
      n = n * 10 + static_cast<int64_t>(text_[at_++] - '0');
      if (n > kMostCount) refuse("a repetition counts to 10,000 at most");
    }
    return n;
  }

  Expression atom(int depth) {
    const char32_t c = peek();
    if (c == '(') {
      ++at_;
      if (take('?') && !take(':')) refuse("of (?…) only (?:…) is known");
      Expression inside = alternatives(depth + 1);
      if (!take(')')) refuse("'(' without ')'");
      return inside;
    }
    if (c == '[') return bracket();
    if (c == '*' || c == '+' || c == '?' || c == '{') refuse("a repetition of nothing");
    if (c == '^' || c == '$') refuse("'^' and '$' stand at the very beginning and end alone: the whole text is matched anyway");
    ++at_;
    if (c == '.') return characters(complement({{'\n', '\n'}}));
    if (c == '\\') return characters(escape());
    return characters({{c, c}});
  }

  // Behind a backslash.
  std::vector<CharacterRange> escape() {
    const char32_t c = peek();
    if (c == kEnd) refuse("a backslash at the end");
    ++at_;
    const auto one = [](char32_t x) { return std::vector<CharacterRange>{{x, x}}; };
    switch (c) {
      case 'd':
        return kDigit;
      case 'D':
        return complement(kDigit);
      case 'w':
        return kWord;
      case 'W':
        return complement(kWord);
      case 's':
        return kSpace;
      case 'S':
        return complement(kSpace);
      case 't':
        return one('\t');
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case '0':
        return one(0);
      case 'x':
        return one(hexadecimal(2));
      case 'u':
        return one(hexadecimal(4));
      default:
        break;
    }
    const bool letter_or_digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter_or_digit) refuse("an escape that is not known");
    return one(c);
  }

  char32_t hexadecimal(int digits) {
    char32_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const char32_t c = peek();
      const char32_t digit = c >= '0' && c <= '9'   ? c - '0'
                             : c >= 'a' && c <= 'f' ? c - 'a' + 10
                             : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                    : 16;
      if (digit > 15) refuse("hexadecimal digits are missing");
      value = value * 16 + digit;
      ++at_;
    }
    return value;
  }

  Expression bracket() {
    ++at_;
    const bool negated = take('^');
    std::vector<CharacterRange> ranges;
    bool first = true;
    while (first || peek() != ']') {
      if (peek() == kEnd) refuse("'[' without ']'");
      if (peek() == '[' && peek(1) == ':') refuse("classes by name are not known");
      first = false;
      const std::vector<CharacterRange> from = bracket_item();
      const bool range = peek() == '-' && peek(1) != ']' && peek(1) != kEnd;
      if (!range) {
        ranges.insert(ranges.end(), from.begin(), from.end());
        continue;
      }
      ++at_;
      const std::vector<CharacterRange> to = bracket_item();
      const bool single = from.size() == 1 && to.size() == 1 && from[0].first == from[0].last && to[0].first == to[0].last;
      if (!single || from[0].first > to[0].first) refuse("a range must go from a character to a later one");
      ranges.push_back({from[0].first, to[0].first});
    }
    ++at_;
    return characters(negated ? complement(std::move(ranges)) : normalised(std::move(ranges)));
  }

  std::vector<CharacterRange> bracket_item() {
    const char32_t c = text_[at_++];
    if (c == '\\') {
      if (take('b')) return {{'\b', '\b'}};
      return escape();
    }
    return {{c, c}};
  }

  std::string_view pattern_;
  std::u32string text_;
  size_t at_ = 0;
};

}  // namespace

Expression parse_regex(std::string_view pattern) {
  return RegexParser(pattern).parse();
}

}  // namespace rorqual
