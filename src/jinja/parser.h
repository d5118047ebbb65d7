// Tokens to a program, by the grammar of Jinja2.
#pragma once

#include <string>
#include <vector>

#include "jinja/ast.h"
#include "jinja/lexer.h"

namespace rorqual::jinja {

// Errors name the line; nesting is bounded.
Program parse_program(std::vector<Token> tokens, const std::string& name);

}  // namespace rorqual::jinja
