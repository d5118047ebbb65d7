#include "jinja/parser.h"

#include <algorithm>
#include <array>

#include "jinja/expression_parser.h"

namespace rorqual::jinja {
namespace {

using StatementPtr = std::unique_ptr<Statement>;

class Parser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Program run() {
    Program program;
    program.name = file_;
    program.body = body({});
    return program;
  }

 private:
  static StatementPtr make(StatementKind kind, int line) {
    auto made = std::make_unique<Statement>();
    made->kind = kind;
    made->line = line;
    return made;
  }

  void expect_block_end() {
    if (current().kind != TokenKind::kBlockEnd) fail_at(current().line, "expected the end of the tag, found {}", shown());
    take();
  }

  // Statements up to a tag with one of the names, which is left standing behind its name's beginning "{%". No names: up to the
  // end of the template.
  Body body(std::initializer_list<std::string_view> ends) {
    const Deeper deeper(*this);
    const int begin = tokens_[at_ > 0 ? at_ - 1 : 0].line;
    Body made;
    while (current().kind != TokenKind::kEnd) {
      const int line = current().line;
      if (current().kind == TokenKind::kData) {
        made.push_back(make(StatementKind::kData, line));
        made.back()->text = take().text;
      } else if (current().kind == TokenKind::kVariableBegin) {
        take();
        made.push_back(make(StatementKind::kOutput, line));
        made.back()->value = tuple(true);
        if (current().kind != TokenKind::kVariableEnd)
          fail_at(current().line, "expected the end of the tag, found {}", shown());
        take();
      } else {
        take();
        if (current().kind != TokenKind::kName) fail_at(current().line, "expected the name of a statement, found {}", shown());
        if (std::find(ends.begin(), ends.end(), current().text) != ends.end()) return made;
        made.push_back(statement());
        expect_block_end();
      }
    }
    if (ends.size() > 0) fail_at(begin, "the block that begins here has no {{% {} %}}", *(ends.end() - 1));
    return made;
  }

  StatementPtr statement() {
    static constexpr std::array<std::pair<std::string_view, StatementPtr (Parser::*)(int)>, 10> kStatements = {{
        {"if", &Parser::if_statement},
        {"for", &Parser::for_statement},
        {"set", &Parser::set_statement},
        {"macro", &Parser::macro_statement},
        {"call", &Parser::call_statement},
        {"filter", &Parser::filter_statement},
        {"with", &Parser::with_statement},
        {"generation", &Parser::generation_statement},
        {"break", &Parser::jump_statement},
        {"continue", &Parser::jump_statement},
    }};
    const int line = current().line;
    for (const auto& [name, parse] : kStatements)
      if (is_name(name)) return (this->*parse)(line);
    fail_at(line, "unsupported statement '{}'", shortened(current().text));
  }

  // What a block of its own may not do: jump out of a loop around it; and what it does not know: that it stands in an if.
  template <class Parse>
  auto inner(bool in_loop, Parse&& parse) {
    const bool soft = soft_, loop = in_loop_;
    soft_ = false;
    in_loop_ = in_loop;
    auto made = parse();
    soft_ = soft;
    in_loop_ = loop;
    return made;
  }

  StatementPtr if_statement(int line) {
    StatementPtr made = make(StatementKind::kIf, line);
    const bool soft = soft_;
    soft_ = true;
    take();
    while (true) {
      ExpressionPtr condition = tuple(false);
      expect_block_end();
      Body then = body({"elif", "else", "endif"});
      made->branches.push_back({std::move(condition), std::move(then)});
      if (skip_name("elif")) continue;
      if (skip_name("else")) {
        expect_block_end();
        made->branches.push_back({nullptr, body({"endif"})});
      }
      break;
    }
    take();  // endif
    soft_ = soft;
    return made;
  }

  StatementPtr for_statement(int line) {
    StatementPtr made = make(StatementKind::kFor, line);
    take();
    made->target = target(false, "in");
    if (!skip_name("in")) fail_at(current().line, "expected 'in', found {}", shown());
    made->value = tuple(false, false, "recursive");
    return inner(true, [&] {
      if (skip_name("if")) made->condition = expression();
      if (is_name("recursive")) fail_at(current().line, "unsupported: a recursive loop");
      expect_block_end();
      made->body = body({"else", "endfor"});
      if (take().text == "else") {
        expect_block_end();
        in_loop_ = false;
        made->otherwise = body({"endfor"});
        take();
      }
      return std::move(made);
    });
  }

  StatementPtr set_statement(int line) {
    StatementPtr made = make(StatementKind::kSet, line);
    take();
    made->target = target(true);
    if (skip_operator("=")) {
      made->value = tuple(true);
      return made;
    }
    if (made->target.unpacks) fail_at(line, "a set block gives a value to one name");
    made->kind = StatementKind::kSetBlock;
    return inner(false, [&] {
      if (is_operator("|")) made->value = filters(placeholder(line));
      expect_block_end();
      made->body = body({"endset"});
      take();
      return std::move(made);
    });
  }

  // What the filters of a block work on: its text, under a name that no template can write.
  ExpressionPtr placeholder(int line) const {
    auto made = std::make_unique<Expression>();
    made->kind = ExpressionKind::kName;
    made->line = line;
    made->name = kBlockText;
    return made;
  }

  void parameters(Macro& macro) {
    expect_operator("(");
    while (!is_operator(")")) {
      if (!macro.parameters.empty()) expect_operator(",");
      const int line = current().line;
      Target name = target_name();
      ExpressionPtr value;
      if (skip_operator("=")) {
        value = expression();
      } else if (!macro.parameters.empty() && macro.parameters.back().value != nullptr) {
        fail_at(line, "a parameter without a default follows one with a default");
      }
      macro.parameters.push_back({std::move(name.name), std::move(value)});
    }
    expect_operator(")");
  }

  Target target_name() {
    Target made;
    const int line = current().line;
    made.name = expect_name();
    for (const std::string_view reserved : {"true", "false", "none", "True", "False", "None"})
      if (made.name == reserved) fail_at(line, "cannot assign to '{}'", made.name);
    return made;
  }

  // Reads the block of a macro with what it needs of the names in it.
  void macro_body(Macro& macro, std::string_view end, const NameUse& before) {
    expect_block_end();
    macro.body = body({end});
    take();
    macro.takes_varargs = uses_.varargs;
    macro.takes_kwargs = uses_.kwargs;
    macro.takes_caller = uses_.caller;
    for (const Macro::Parameter& parameter : macro.parameters) {
      if (parameter.name == "varargs") macro.takes_varargs = false;
      if (parameter.name == "kwargs") macro.takes_kwargs = false;
    }
    uses_ = before;
  }

  StatementPtr macro_statement(int line) {
    StatementPtr made = make(StatementKind::kMacro, line);
    take();
    made->macro.line = line;
    made->macro.name = target_name().name;
    const NameUse before = std::exchange(uses_, NameUse{});
    return inner(false, [&] {
      parameters(made->macro);
      macro_body(made->macro, "endmacro", before);
      return std::move(made);
    });
  }

  StatementPtr call_statement(int line) {
    StatementPtr made = make(StatementKind::kCall, line);
    take();
    made->macro.line = line;
    if (is_operator("(")) parameters(made->macro);
    made->value = expression();
    if (made->value->kind != ExpressionKind::kCall) fail_at(line, "expected a call behind 'call'");
    const NameUse before = std::exchange(uses_, NameUse{});
    return inner(false, [&] {
      macro_body(made->macro, "endcall", before);
      return std::move(made);
    });
  }

  StatementPtr filter_statement(int line) {
    StatementPtr made = make(StatementKind::kFilter, line);
    take();
    return inner(false, [&] {
      made->value = filters(filter_body(placeholder(line)));
      expect_block_end();
      made->body = body({"endfilter"});
      take();
      return std::move(made);
    });
  }

  StatementPtr with_statement(int line) {
    StatementPtr made = make(StatementKind::kWith, line);
    take();
    while (current().kind != TokenKind::kBlockEnd) {
      if (!made->targets.empty()) expect_operator(",");
      made->targets.push_back(target(false));
      expect_operator("=");
      made->values.push_back(expression());
    }
    take();
    return inner(in_loop_, [&] {
      made->body = body({"endwith"});
      take();
      return std::move(made);
    });
  }

  StatementPtr generation_statement(int line) {
    StatementPtr made = make(StatementKind::kGeneration, line);
    take();
    expect_block_end();
    return inner(false, [&] {
      made->body = body({"endgeneration"});
      take();
      return std::move(made);
    });
  }

  StatementPtr jump_statement(int line) {
    const Token word = take();
    if (!in_loop_) fail_at(line, "'{}' stands outside of a loop", word.text);
    return make(word.text == "break" ? StatementKind::kBreak : StatementKind::kContinue, line);
  }

  bool in_loop_ = false;
};

}  // namespace

Program parse_program(std::vector<Token> tokens, const std::string& name) {
  return Parser(std::move(tokens), name).run();
}

}  // namespace rorqual::jinja
