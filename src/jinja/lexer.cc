#include "jinja/lexer.h"

#include <array>
#include <charconv>

#include "base/error.h"
#include "data/unicode.h"
#include "jinja/text.h"

namespace rorqual::jinja {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_name_start(char c) {
  return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_name_char(char c) {
  return is_name_start(c) || is_digit(c);
}

// One kind of line break, and none at the very end.
std::string normalised(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < text.size() && text[i + 1] == '\n') ++i;
    } else {
      out.push_back(text[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  Lexer(std::string_view text, const std::string& name) : source_(normalised(text)), name_(name) {}

  std::vector<Token> run() {
    while (position_ < source_.size()) root();
    tokens_.push_back({TokenKind::kEnd, "", line_});
    return std::move(tokens_);
  }

 private:
  template <class... Args>
  [[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}:{}: {}", name_, line_, fmt::format(format, std::forward<Args>(args)...));
  }

  bool at(std::string_view word) const { return std::string_view(source_).substr(position_).starts_with(word); }

  void advance(size_t to) {
    for (size_t i = position_; i < to; ++i) line_ += source_[i] == '\n';
    position_ = to;
  }

  void skip_space() { advance(end_of_space(source_, position_)); }

  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  // Text up to the tag at `tag`, whose sign (-, + or none) says what becomes of the white space before it.
  void add_data(size_t tag, char sign, bool is_variable) {
    std::string_view data = std::string_view(source_).substr(position_, tag - position_);
    if (sign == '-') {
      data = data.substr(0, start_of_trailing_space(data));
    } else if (sign != '+' && !is_variable) {
      const size_t line_start = data.rfind('\n') + 1;  // 0 where there is none
      if ((line_start > 0 || line_starting_) && start_of_trailing_space(data) <= line_start) data = data.substr(0, line_start);
    }
    if (!data.empty()) add(TokenKind::kData, std::string(data));
    advance(tag);
  }

  // The sign behind the two characters of a tag's beginning, which are skipped with it.
  char sign_at(size_t tag) const {
    const char c = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    return c == '-' || c == '+' ? c : ' ';
  }

  void root() {
    size_t tag = position_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        add(TokenKind::kData, source_.substr(position_));
        advance(source_.size());
        return;
      }
      if (const char c = source_[tag + 1]; c == '{' || c == '%' || c == '#') break;
    }
    const char kind = source_[tag + 1], sign = sign_at(tag);
    add_data(tag, sign, kind == '{');
    if (kind == '%' && raw_block(tag, sign)) return;
    const TokenKind begin = kind == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin;
    if (kind != '#') add(begin, kind == '{' ? "{{" : "{%");
    advance(tag + (sign == ' ' ? 2 : 3));
    if (kind == '#') {
      comment();
    } else {
      tag_tokens(kind == '{');
    }
  }

  // Behind a tag: white space after -, one line break after a block or comment without a sign.
  void end_tag(char sign, bool trim_newline) {
    if (sign == '-') {
      skip_space();
    } else if (sign != '+' && trim_newline && at("\n")) {
      advance(position_ + 1);
    }
    line_starting_ = position_ > 0 && source_[position_ - 1] == '\n';
  }

  void comment() {
    const int begin = line_;
    const size_t end = source_.find("#}", position_);
    if (end == std::string::npos) {
      line_ = begin;
      fail_here("the comment that begins here has no end \"#}}\"");
    }
    const char before = end > position_ ? source_[end - 1] : ' ';
    advance(end + 2);
    end_tag(before, true);
  }

  // True where the tag begins a raw block, which is then read to its end.
  bool raw_block(size_t tag, char sign) {
    size_t p = end_of_space(source_, tag + (sign == ' ' ? 2 : 3));
    if (source_.compare(p, 3, "raw") != 0) return false;
    p = end_of_space(source_, p + 3);
    const bool strip = source_.compare(p, 3, "-%}") == 0;
    if (!strip && source_.compare(p, 2, "%}") != 0) return false;
    advance(p + (strip ? 3 : 2));
    end_tag(strip ? '-' : '+', false);
    for (size_t end = position_; (end = source_.find("{%", end)) != std::string::npos; end += 2) {
      const char end_sign = sign_at(end);
      p = end_of_space(source_, end + (end_sign == ' ' ? 2 : 3));
      if (source_.compare(p, 6, "endraw") != 0) continue;
      p = end_of_space(source_, p + 6);
      const char last = p < source_.size() && (source_[p] == '-' || source_[p] == '+') ? source_[p] : ' ';
      if (last != ' ') ++p;
      if (source_.compare(p, 2, "%}") != 0) continue;
      add_data(end, end_sign, false);
      advance(p + 2);
      end_tag(last, true);
      return true;
    }
    fail_here("the raw block that begins here has no {{% endraw %}}");
  }

  bool tag_end(bool is_variable) {
    if (!open_.empty()) return false;
    const std::string_view end = is_variable ? "}}" : "%}";
    char sign = ' ';
    if (at("-") || (at("+") && !is_variable)) sign = source_[position_];
    const size_t p = position_ + (sign == ' ' ? 0 : 1);
    if (source_.compare(p, 2, end) != 0) return false;
    add(is_variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, std::string(end));
    advance(p + 2);
    end_tag(sign, !is_variable);
    return true;
  }

  void tag_tokens(bool is_variable) {
    const int begin = line_;
    open_.clear();
    while (true) {
      skip_space();
      if (position_ >= source_.size()) {
        line_ = begin;
        fail_here("the tag that begins here has no end \"{}\"", is_variable ? "}}" : "%}");
      }
      if (tag_end(is_variable)) return;
      const char c = source_[position_];
      if (is_digit(c)) {
        number();
      } else if (is_name_start(c)) {
        size_t p = position_;
        while (p < source_.size() && is_name_char(source_[p])) ++p;
        add(TokenKind::kName, source_.substr(position_, p - position_));
        advance(p);
      } else if (c == '"' || c == '\'') {
        string_literal(c);
      } else {
        symbol();
      }
    }
  }

  // Past digits of the base with single underscores between them; `p` itself where there are none.
  size_t end_of_digits(size_t p) const {
    size_t end = p;
    while (end < source_.size() && (is_digit(source_[end]) || (source_[end] == '_' && end > p && end + 1 < source_.size() &&
                                                               is_digit(source_[end + 1]) && source_[end - 1] != '_')))
      ++end;
    return end;
  }

  void number() {
    if (source_[position_] == '0' && position_ + 1 < source_.size() && is_name_start(source_[position_ + 1]))
      fail_here("unsupported number {}: write it in decimal digits", source_.substr(position_, 2));
    size_t end = end_of_digits(position_);
    bool is_float = false;
    const bool behind_dot = position_ > 0 && source_[position_ - 1] == '.';
    if (!behind_dot) {
      if (end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1])) {
        end = end_of_digits(end + 1);
        is_float = true;
      }
      if (end < source_.size() && (source_[end] | 0x20) == 'e') {
        size_t p = end + 1;
        if (p < source_.size() && (source_[p] == '+' || source_[p] == '-')) ++p;
        if (p < source_.size() && is_digit(source_[p])) {
          end = end_of_digits(p);
          is_float = true;
        }
      }
    }
    std::string text;
    for (size_t i = position_; i < end; ++i)
      if (source_[i] != '_') text.push_back(source_[i]);
    if (!is_float && text.size() > 1 && text[0] == '0' && text.find_first_not_of('0') != std::string::npos)
      fail_here("the number {} begins with a zero", text);
    add(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(text));
    advance(end);
  }

  // \x41, A and \U00000041: the digits from `p` on.
  void code_escape(size_t p, size_t digits, std::string& out) const {
    uint32_t code = 0;
    const char* const first = source_.data() + p;
    const char* const last = source_.data() + std::min(p + digits, source_.size());
    const auto [end, error] = std::from_chars(first, last, code, 16);
    if (error != std::errc() || end != first + digits) fail_here("a string holds an escape with too few hexadecimal digits");
    if (code >= 0x110000 || (code >= 0xD800 && code < 0xE000))
      fail_here("a string holds the escape of U+{:04X}, no character", code);
    append_utf8(code, out);
  }

  // Resolves the escape behind the backslash at `p`; returns where the text goes on.
  size_t escape(size_t p, std::string& out) const {
    static constexpr std::string_view kNames = "\\'\"abfnrtv", kCodes = "\\'\"\a\b\f\n\r\t\v";
    const char c = source_[p + 1];
    if (const size_t i = kNames.find(c); i != kNames.npos) {
      out.push_back(kCodes[i]);
      return p + 2;
    }
    if (c == '\n') return p + 2;
    if (c == 'x' || c == 'u' || c == 'U') {
      const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      code_escape(p + 2, digits, out);
      return p + 2 + digits;
    }
    if (c == 'N') fail_here("unsupported escape \\N in a string: write the character itself");
    if (c >= '0' && c <= '7') {
      char32_t code = 0;
      size_t q = p + 1;
      for (; q < p + 4 && q < source_.size() && source_[q] >= '0' && source_[q] <= '7'; ++q)
        code = code * 8 + static_cast<char32_t>(source_[q] - '0');
      append_utf8(code, out);
      return q;
    }
    out.push_back('\\');  // as Python keeps an escape that it does not know
    return p + 1;
  }

  void string_literal(char quote) {
    std::string value;
    size_t p = position_ + 1;
    while (p < source_.size() && source_[p] != quote) {
      if (source_[p] != '\\') {
        value.push_back(source_[p++]);
      } else if (p + 1 < source_.size()) {
        p = escape(p, value);
      } else {
        break;
      }
    }
    if (p >= source_.size() || source_[p] != quote) fail_here("the string that begins here has no end");
    add(TokenKind::kString, std::move(value));
    advance(p + 1);
  }

  void symbol() {
    static constexpr std::array<std::string_view, 26> kSymbols = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                                  "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                                  ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (const std::string_view symbol : kSymbols) {
      if (!at(symbol)) continue;
      balance(symbol[0]);
      add(TokenKind::kOperator, std::string(symbol));
      return advance(position_ + symbol.size());
    }
    const CodeAt code = decode_utf8(source_.data() + position_, source_.data() + source_.size());
    fail_here("unexpected character \"{}\" in a tag",
              std::string_view(source_).substr(position_, static_cast<size_t>(code.bytes)));
  }

  void balance(char c) {
    if (c == '(' || c == '[' || c == '{') {
      open_.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
      if (open_.empty() || open_.back() != c) fail_here("unexpected '{}'", c);
      open_.pop_back();
    }
  }

  const std::string source_;
  const std::string& name_;
  size_t position_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::string open_;  // the brackets that the tag has still to close
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view text, const std::string& name) {
  check_utf8(text, name);
  return Lexer(text, name).run();
}

}  // namespace rorqual::jinja
