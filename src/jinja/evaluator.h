// Runs a program: one rendering.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "jinja/ast.h"
#include "jinja/builtins.h"
#include "jinja/template.h"

namespace rorqual::jinja {

// Names that a block has given values to, inside the scope that it stands in. An if has no scope of its own.
struct Scope : std::enable_shared_from_this<Scope> {
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string, Value>> variables;
};

class Evaluator {
 public:
  Evaluator(const Program& program, const JinjaOptions& options)
      : program_(program), session_{Budget(options.work), options.now, {}}, scope_(std::make_shared<Scope>()) {}
  ~Evaluator();
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  std::string render(const nlohmann::ordered_json& variables);

 private:
  enum class Flow : uint8_t { kOn, kBreak, kContinue };
  class Nested;  // counts nesting and work while it lives
  class Inner;   // a scope of its own while it lives

  Flow run(const Body& body);
  Flow run(const Statement& statement);
  Flow run_statement(const Statement& statement);
  Flow run_if(const Statement& statement);
  Flow run_for(const Statement& statement);
  Flow run_with(const Statement& statement);
  void run_block(const Statement& statement);  // set, filter and call with a block
  // The text of a block in a scope of its own.
  std::string captured(const Body& body);
  void emit(const Value& value);

  Value evaluate(const Expression& expression);
  Value evaluate_expression(const Expression& expression);
  Value evaluate_compare(const Expression& expression);
  Value evaluate_item(const Expression& expression);
  Value evaluate_concat(const Expression& expression);
  Items evaluate_all(const std::vector<ExpressionPtr>& expressions);
  Value evaluate_dict(const Expression& expression);
  Arguments arguments_of(const Expression& expression);
  Value call(const Value& callee, Arguments arguments);
  Value call_macro(const Callable& callable, Arguments arguments);
  void bind_parameters(const Macro& macro, Arguments& arguments);
  Value macro_value(const Macro& macro);

  Value look_up(std::string_view name) const;
  void set(const std::string& name, Value value);
  void assign(const Target& target, const Value& value);

  const Program& program_;
  Session session_;
  std::shared_ptr<Scope> scope_;
  std::vector<std::shared_ptr<Scope>> kept_;  // scopes that macros remember
  std::deque<Loop> loops_;
  int depth_ = 0;
  std::string* out_ = nullptr;
};

}  // namespace rorqual::jinja
