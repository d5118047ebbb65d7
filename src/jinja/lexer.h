// Cuts a template into tokens, with Jinja's rules for white space around tags.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rorqual::jinja {

enum class TokenKind : uint8_t {
  kData,  // text between tags, white space already removed
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,  // the value, escapes resolved
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind;
  std::string text;
  int line;  // from 1
};

// Ends in a kEnd token. Errors name `name` and the line.
std::vector<Token> tokenize(std::string_view text, const std::string& name);

}  // namespace rorqual::jinja
