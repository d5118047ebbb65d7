// The expressions of a tag.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "jinja/ast.h"
#include "jinja/lexer.h"

namespace rorqual::jinja {

class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, const std::string& name) : tokens_(std::move(tokens)), file_(name) {}

 protected:
  // What a macro's block needs to know of the names that it uses.
  struct NameUse {
    bool varargs = false, kwargs = false, caller = false;
  };

  template <class... Args>
  [[noreturn]] void fail_at(int line, fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}:{}: {}", file_, line, fmt::format(format, std::forward<Args>(args)...));
  }

  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take();
  bool is_operator(std::string_view text) const { return current().kind == TokenKind::kOperator && current().text == text; }
  bool is_name(std::string_view text) const { return current().kind == TokenKind::kName && current().text == text; }
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operator(std::string_view text);
  std::string expect_name();
  // The current token for a message.
  std::string shown() const;

  ExpressionPtr expression() { return conditional(); }
  ExpressionPtr expression_without_if() { return either(); }
  // One expression, or several with commas, which make a tuple. `with_if` allows "a if b else c".
  ExpressionPtr tuple(bool with_if, bool in_parentheses = false, std::string_view end_name = {});
  ExpressionPtr unary(bool with_filter = true);
  // Filters behind `value`.
  ExpressionPtr filters(ExpressionPtr value);
  ExpressionPtr filter_body(ExpressionPtr value);
  Target target(bool with_attribute, std::string_view end_name = {});

  std::vector<Token> tokens_;
  size_t at_ = 0;
  const std::string& file_;
  NameUse uses_;
  // Inside an if, where names of filters and tests are looked up only when they are reached.
  bool soft_ = false;
  int nesting_ = 0;

  // Counts nesting while it lives.
  class Deeper {
   public:
    explicit Deeper(ExpressionParser& parser);
    ~Deeper() { --parser_.nesting_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    ExpressionParser& parser_;
  };

 private:
  ExpressionPtr make(ExpressionKind kind, int line, std::string name = {}) const;
  // Takes the children over and counts the depth.
  ExpressionPtr make(ExpressionKind kind, int line, std::string name, std::initializer_list<ExpressionPtr*> children) const;
  void adopt(Expression& parent, ExpressionPtr child) const;
  ExpressionPtr constant(int line, Value value) const;

  ExpressionPtr conditional();
  ExpressionPtr either();
  ExpressionPtr both();
  ExpressionPtr negated();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr primary();
  ExpressionPtr name_or_constant();
  ExpressionPtr number();
  ExpressionPtr list();
  ExpressionPtr dict();
  ExpressionPtr postfix(ExpressionPtr value);
  ExpressionPtr subscript(ExpressionPtr value);
  ExpressionPtr index();
  ExpressionPtr call(ExpressionPtr callee);
  void call_arguments(Expression& call);
  ExpressionPtr filter_expression(ExpressionPtr value);
  ExpressionPtr filter(ExpressionPtr value);
  ExpressionPtr test(ExpressionPtr value);
  std::string dotted_name();
  bool at_tuple_end(std::string_view end_name) const;
  Target one_target(bool with_attribute);
};

}  // namespace rorqual::jinja
