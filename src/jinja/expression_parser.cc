#include "jinja/expression_parser.h"

#include <algorithm>
#include <charconv>

#include "jinja/builtins.h"

namespace rorqual::jinja {
namespace {

constexpr int kMaxNesting = 100;
constexpr int kMaxDepth = 400;

bool is_reserved(std::string_view name) {
  return name == "true" || name == "True" || name == "false" || name == "False" || name == "none" || name == "None";
}

}  // namespace

ExpressionParser::Deeper::Deeper(ExpressionParser& parser) : parser_(parser) {
  if (parser_.nesting_ >= kMaxNesting)
    parser_.fail_at(parser_.current().line, "unsupported: nested deeper than {} levels", kMaxNesting);
  ++parser_.nesting_;
}

Token ExpressionParser::take() {
  Token token = current();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool ExpressionParser::skip_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  take();
  return true;
}

bool ExpressionParser::skip_name(std::string_view text) {
  if (!is_name(text)) return false;
  take();
  return true;
}

void ExpressionParser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) fail_at(current().line, "expected '{}', found {}", text, shown());
}

std::string ExpressionParser::expect_name() {
  if (current().kind != TokenKind::kName) fail_at(current().line, "expected a name, found {}", shown());
  return take().text;
}

std::string ExpressionParser::shown() const {
  switch (current().kind) {
    case TokenKind::kVariableEnd:
    case TokenKind::kBlockEnd:
      return "the end of the tag";
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kData:
      return "text";
    case TokenKind::kString:
      return "the string \"" + shortened(current().text) + "\"";
    default:
      return "'" + shortened(current().text) + "'";
  }
}

ExpressionPtr ExpressionParser::make(ExpressionKind kind, int line, std::string name) const {
  auto made = std::make_unique<Expression>();
  made->kind = kind;
  made->line = line;
  made->name = std::move(name);
  return made;
}

ExpressionPtr ExpressionParser::make(ExpressionKind kind, int line, std::string name,
                                     std::initializer_list<ExpressionPtr*> children) const {
  ExpressionPtr made = make(kind, line, std::move(name));
  for (ExpressionPtr* child : children) adopt(*made, std::move(*child));
  return made;
}

void ExpressionParser::adopt(Expression& parent, ExpressionPtr child) const {
  if (child != nullptr) parent.depth = std::max(parent.depth, child->depth + 1);
  parent.children.push_back(std::move(child));
  if (parent.depth > kMaxDepth) fail_at(parent.line, "unsupported: an expression with more than {} steps in a row", kMaxDepth);
}

ExpressionPtr ExpressionParser::constant(int line, Value value) const {
  ExpressionPtr made = make(ExpressionKind::kConstant, line);
  made->constant = std::move(value);
  return made;
}

ExpressionPtr ExpressionParser::conditional() {
  const Deeper deeper(*this);
  ExpressionPtr value = either();
  while (is_name("if")) {
    const int line = take().line;
    // A filter that does not exist is an error only where it is reached. What stands before the "if" has been read, strictly.
    ExpressionPtr condition = either();
    ExpressionPtr other = skip_name("else") ? conditional() : nullptr;
    value = make(ExpressionKind::kIf, line, "", {&value, &condition, &other});
  }
  return value;
}

ExpressionPtr ExpressionParser::either() {
  ExpressionPtr left = both();
  while (is_name("or")) {
    const int line = take().line;
    ExpressionPtr right = both();
    left = make(ExpressionKind::kOr, line, "", {&left, &right});
  }
  return left;
}

ExpressionPtr ExpressionParser::both() {
  ExpressionPtr left = negated();
  while (is_name("and")) {
    const int line = take().line;
    ExpressionPtr right = negated();
    left = make(ExpressionKind::kAnd, line, "", {&left, &right});
  }
  return left;
}

ExpressionPtr ExpressionParser::negated() {
  if (!is_name("not")) return comparison();
  const Deeper deeper(*this);
  const int line = take().line;
  ExpressionPtr value = negated();
  return make(ExpressionKind::kUnary, line, "not", {&value});
}

ExpressionPtr ExpressionParser::comparison() {
  const int line = current().line;
  ExpressionPtr first = sum();
  ExpressionPtr chain;
  while (true) {
    std::string name;
    static constexpr std::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
    if (current().kind == TokenKind::kOperator && std::ranges::find(kOperators, current().text) != std::end(kOperators)) {
      name = take().text;
    } else if (skip_name("in")) {
      name = "in";
    } else if (is_name("not") && ahead().kind == TokenKind::kName && ahead().text == "in") {
      take(), take();
      name = "not in";
    } else {
      break;
    }
    if (chain == nullptr) chain = make(ExpressionKind::kCompare, line, "", {&first});
    chain->names.push_back(std::move(name));
    adopt(*chain, sum());
  }
  return chain == nullptr ? std::move(first) : std::move(chain);
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr left = concatenation();
  while (is_operator("+") || is_operator("-")) {
    const Token sign = take();
    ExpressionPtr right = concatenation();
    left = make(ExpressionKind::kBinary, sign.line, sign.text, {&left, &right});
  }
  return left;
}

ExpressionPtr ExpressionParser::concatenation() {
  const int line = current().line;
  ExpressionPtr first = product();
  if (!is_operator("~")) return first;
  ExpressionPtr all = make(ExpressionKind::kConcat, line, "", {&first});
  while (skip_operator("~")) adopt(*all, product());
  return all;
}

ExpressionPtr ExpressionParser::product() {
  ExpressionPtr left = power();
  while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
    const Token sign = take();
    ExpressionPtr right = power();
    left = make(ExpressionKind::kBinary, sign.line, sign.text, {&left, &right});
  }
  return left;
}

ExpressionPtr ExpressionParser::power() {
  ExpressionPtr left = unary();
  while (is_operator("**")) {
    const Token sign = take();
    ExpressionPtr right = unary();
    left = make(ExpressionKind::kBinary, sign.line, sign.text, {&left, &right});
  }
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filter) {
  const Deeper deeper(*this);
  ExpressionPtr value;
  if (is_operator("-") || is_operator("+")) {
    const Token sign = take();
    value = unary(false);
    value = make(ExpressionKind::kUnary, sign.line, sign.text, {&value});
  } else {
    value = primary();
  }
  value = postfix(std::move(value));
  return with_filter ? filter_expression(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::primary() {
  const int line = current().line;
  if (current().kind == TokenKind::kName) return name_or_constant();
  if (current().kind == TokenKind::kInteger || current().kind == TokenKind::kFloat) return number();
  if (current().kind == TokenKind::kString) {
    std::string text;
    while (current().kind == TokenKind::kString) text += take().text;
    return constant(line, Value::text(std::move(text)));
  }
  if (skip_operator("(")) {
    ExpressionPtr inner = tuple(true, true);
    expect_operator(")");
    return inner;
  }
  if (is_operator("[")) return list();
  if (is_operator("{")) return dict();
  fail_at(line, "expected an expression, found {}", shown());
}

ExpressionPtr ExpressionParser::name_or_constant() {
  const Token token = take();
  if (token.text == "true" || token.text == "True") return constant(token.line, Value::boolean(true));
  if (token.text == "false" || token.text == "False") return constant(token.line, Value::boolean(false));
  if (token.text == "none" || token.text == "None") return constant(token.line, Value::none());
  uses_.varargs |= token.text == "varargs";
  uses_.kwargs |= token.text == "kwargs";
  uses_.caller |= token.text == "caller";
  return make(ExpressionKind::kName, token.line, token.text);
}

ExpressionPtr ExpressionParser::number() {
  const Token token = take();
  const char* const end = token.text.data() + token.text.size();
  if (token.kind == TokenKind::kInteger) {
    int64_t value = 0;
    if (std::from_chars(token.text.data(), end, value).ec != std::errc())
      fail_at(token.line, "unsupported: the integer {} is above 2^63 - 1", shortened(token.text));
    return constant(token.line, Value::integer(value));
  }
  double value = 0;
  const auto result = std::from_chars(token.text.data(), end, value);
  if (result.ec != std::errc()) fail_at(token.line, "unsupported: the number {} is out of range", shortened(token.text));
  return constant(token.line, Value::number(value));
}

ExpressionPtr ExpressionParser::list() {
  ExpressionPtr made = make(ExpressionKind::kList, take().line);
  while (!is_operator("]")) {
    if (!made->children.empty()) expect_operator(",");
    if (is_operator("]")) break;
    adopt(*made, expression());
  }
  expect_operator("]");
  return made;
}

ExpressionPtr ExpressionParser::dict() {
  ExpressionPtr made = make(ExpressionKind::kDict, take().line);
  while (!is_operator("}")) {
    if (!made->children.empty()) expect_operator(",");
    if (is_operator("}")) break;
    adopt(*made, expression());
    expect_operator(":");
    adopt(*made, expression());
  }
  expect_operator("}");
  return made;
}

bool ExpressionParser::at_tuple_end(std::string_view end_name) const {
  const TokenKind kind = current().kind;
  return kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd || is_operator(")") ||
         (!end_name.empty() && is_name(end_name));
}

ExpressionPtr ExpressionParser::tuple(bool with_if, bool in_parentheses, std::string_view end_name) {
  const Deeper deeper(*this);
  const int line = current().line;
  ExpressionPtr made = make(ExpressionKind::kTuple, line);
  bool is_tuple = false;
  while (true) {
    if (!made->children.empty()) expect_operator(",");
    if (at_tuple_end(end_name)) break;
    adopt(*made, with_if ? expression() : expression_without_if());
    if (!is_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !made->children.empty()) return std::move(made->children[0]);
  if (!is_tuple && !in_parentheses) fail_at(line, "expected an expression, found {}", shown());
  return made;
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr value) {
  while (true) {
    if (is_operator(".") || is_operator("[")) {
      value = subscript(std::move(value));
    } else if (is_operator("(")) {
      value = call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr value) {
  const Token open = take();
  if (open.text == ".") {
    const Token name = take();
    if (name.kind == TokenKind::kName) return make(ExpressionKind::kAttribute, open.line, name.text, {&value});
    if (name.kind != TokenKind::kInteger)
      fail_at(name.line, "expected a name or a number behind '.', found '{}'", shortened(name.text));
    --at_;
    ExpressionPtr position = number();
    return make(ExpressionKind::kItem, open.line, "", {&value, &position});
  }
  ExpressionPtr all = make(ExpressionKind::kTuple, open.line);
  while (!is_operator("]")) {
    if (!all->children.empty()) expect_operator(",");
    adopt(*all, index());
  }
  expect_operator("]");
  ExpressionPtr one = all->children.size() == 1 ? std::move(all->children[0]) : std::move(all);
  return make(ExpressionKind::kItem, open.line, "", {&value, &one});
}

ExpressionPtr ExpressionParser::index() {
  const int line = current().line;
  ExpressionPtr parts[3];
  if (!is_operator(":")) {
    parts[0] = expression();
    if (!is_operator(":")) return std::move(parts[0]);
  }
  for (int i = 1; i < 3 && skip_operator(":"); ++i)
    if (!is_operator(":") && !is_operator("]") && !is_operator(",")) parts[i] = expression();
  return make(ExpressionKind::kSlice, line, "", {&parts[0], &parts[1], &parts[2]});
}

ExpressionPtr ExpressionParser::call(ExpressionPtr callee) {
  ExpressionPtr made = make(ExpressionKind::kCall, current().line, "", {&callee});
  call_arguments(*made);
  return made;
}

void ExpressionParser::call_arguments(Expression& call) {
  const Deeper deeper(*this);
  expect_operator("(");
  bool named = false, spread = false;
  while (!is_operator(")")) {
    if (!call.arguments.empty()) {
      expect_operator(",");
      if (is_operator(")")) break;
    }
    Argument argument{Argument::Kind::kPositional, "", nullptr};
    if (skip_operator("*")) {
      argument.kind = Argument::Kind::kList;
      spread = true;
    } else if (skip_operator("**")) {
      argument.kind = Argument::Kind::kDict;
      named = true;
    } else if (current().kind == TokenKind::kName && ahead().kind == TokenKind::kOperator && ahead().text == "=") {
      argument.kind = Argument::Kind::kNamed;
      argument.name = take().text;
      take();
      named = true;
    } else if (named || spread) {
      fail_at(current().line, "a positional argument follows named ones");
    }
    argument.value = expression();
    call.depth = std::max(call.depth, argument.value->depth + 1);
    call.arguments.push_back(std::move(argument));
  }
  expect_operator(")");
}

ExpressionPtr ExpressionParser::filter_expression(ExpressionPtr value) {
  while (true) {
    if (is_operator("|")) {
      value = filter(std::move(value));
    } else if (is_name("is")) {
      value = test(std::move(value));
    } else if (is_operator("(")) {
      value = call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr value) {
  while (is_operator("|")) value = filter(std::move(value));
  return value;
}

ExpressionPtr ExpressionParser::filter(ExpressionPtr value) {
  take();
  return filter_body(std::move(value));
}

ExpressionPtr ExpressionParser::filter_body(ExpressionPtr value) {
  const int line = current().line;
  const std::string name = dotted_name();
  if (!soft_ && !is_filter(name)) fail_at(line, "unsupported filter '{}'", name);
  ExpressionPtr made = make(ExpressionKind::kFilter, line, name, {&value});
  if (is_operator("(")) call_arguments(*made);
  return made;
}

ExpressionPtr ExpressionParser::test(ExpressionPtr value) {
  take();
  const bool negated = skip_name("not");
  const int line = current().line;
  const std::string name = dotted_name();
  if (!soft_ && !is_test(name)) fail_at(line, "unsupported test '{}'", name);
  ExpressionPtr made = make(ExpressionKind::kTest, line, name, {&value});
  const TokenKind kind = current().kind;
  if (is_operator("(")) {
    call_arguments(*made);
  } else if ((kind == TokenKind::kName && !is_name("else") && !is_name("or") && !is_name("and")) ||
             kind == TokenKind::kString || kind == TokenKind::kInteger || kind == TokenKind::kFloat || is_operator("[") ||
             is_operator("{")) {
    if (is_name("is")) fail_at(line, "tests cannot be chained with 'is'");
    Argument argument{Argument::Kind::kPositional, "", primary()};
    argument.value = postfix(std::move(argument.value));
    made->depth = std::max(made->depth, argument.value->depth + 1);
    made->arguments.push_back(std::move(argument));
  }
  return negated ? make(ExpressionKind::kUnary, line, "not", {&made}) : std::move(made);
}

std::string ExpressionParser::dotted_name() {
  std::string name = expect_name();
  while (is_operator(".")) {
    take();
    name += "." + expect_name();
  }
  return name;
}

Target ExpressionParser::one_target(bool with_attribute) {
  const int line = current().line;
  Target made;
  if (skip_operator("(")) {
    made = target(with_attribute, ")");
    expect_operator(")");
    return made;
  }
  made.name = expect_name();
  if (is_reserved(made.name)) fail_at(line, "cannot assign to '{}'", made.name);
  if (with_attribute && skip_operator(".")) made.attribute = expect_name();
  return made;
}

Target ExpressionParser::target(bool with_attribute, std::string_view end_name) {
  const Deeper deeper(*this);
  const int line = current().line;
  Target all;
  const auto at_end = [&] {
    return current().kind == TokenKind::kBlockEnd || is_operator(")") || is_operator("=") ||
           (!end_name.empty() && is_name(end_name));
  };
  while (!at_end()) {
    all.parts.push_back(one_target(with_attribute));
    if (!skip_operator(",")) break;
    all.unpacks = true;
  }
  if (all.parts.empty()) fail_at(line, "expected a name to assign to, found {}", shown());
  if (all.unpacks) return all;
  Target one = std::move(all.parts[0]);
  return one;
}

}  // namespace rorqual::jinja
