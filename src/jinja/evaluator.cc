#include "jinja/evaluator.h"

#include <algorithm>

#include "base/error.h"

namespace rorqual::jinja {
namespace {

constexpr int kMaxDepth = 1000;

}  // namespace

class Evaluator::Nested {
 public:
  explicit Nested(Evaluator& evaluator) : evaluator_(evaluator) {
    evaluator_.session_.budget.charge(kStepWork);
    if (evaluator_.depth_ >= kMaxDepth) refuse("the template is nested too deep, or a macro calls itself without end");
    ++evaluator_.depth_;
  }
  ~Nested() { --evaluator_.depth_; }
  Nested(const Nested&) = delete;
  Nested& operator=(const Nested&) = delete;

 private:
  Evaluator& evaluator_;
};

class Evaluator::Inner {
 public:
  explicit Inner(Evaluator& evaluator) : Inner(evaluator, evaluator.scope_) {}
  Inner(Evaluator& evaluator, std::shared_ptr<Scope> parent) : evaluator_(evaluator), before_(evaluator.scope_) {
    evaluator_.scope_ = std::make_shared<Scope>();
    evaluator_.scope_->parent = std::move(parent);
  }
  ~Inner() { evaluator_.scope_ = std::move(before_); }
  Inner(const Inner&) = delete;
  Inner& operator=(const Inner&) = delete;

 private:
  Evaluator& evaluator_;
  std::shared_ptr<Scope> before_;
};

Evaluator::~Evaluator() {
  // A chain of kept scopes is taken apart from the outside, link by link, so that no destructor goes deep.
  for (const auto& scope : kept_) scope->variables.clear();
}

std::string Evaluator::render(const nlohmann::ordered_json& variables) {
  std::string out;
  out_ = &out;
  try {
    for (const auto& [name, value] : variables.items()) scope_->variables.emplace_back(name, from_json(value));
    // What the template sets at its top does not reach the variables themselves.
    const Inner inner(*this);
    run(program_.body);
  } catch (const Failure& failure) {
    fail("{}: {}", program_.name, failure.what());
  }
  return out;
}

Evaluator::Flow Evaluator::run(const Body& body) {
  for (const auto& statement : body) {
    const Flow flow = run(*statement);
    if (flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

Evaluator::Flow Evaluator::run(const Statement& statement) {
  try {
    const Nested nested(*this);
    return run_statement(statement);
  } catch (const Failure& failure) {
    fail("{}:{}: {}", program_.name, statement.line, failure.what());
  }
}

Evaluator::Flow Evaluator::run_statement(const Statement& statement) {
  switch (statement.kind) {
    case StatementKind::kData:
      session_.budget.charge(statement.text.size());
      *out_ += statement.text;
      return Flow::kOn;
    case StatementKind::kOutput:
      emit(evaluate(*statement.value));
      return Flow::kOn;
    case StatementKind::kIf:
      return run_if(statement);
    case StatementKind::kFor:
      return run_for(statement);
    case StatementKind::kSet:
      assign(statement.target, evaluate(*statement.value));
      return Flow::kOn;
    case StatementKind::kSetBlock:
    case StatementKind::kFilter:
    case StatementKind::kCall:
      run_block(statement);
      return Flow::kOn;
    case StatementKind::kMacro:
      set(statement.macro.name, macro_value(statement.macro));
      return Flow::kOn;
    case StatementKind::kWith:
      return run_with(statement);
    case StatementKind::kGeneration:
      *out_ += captured(statement.body);
      return Flow::kOn;
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

void Evaluator::emit(const Value& value) {
  append_text(value, *out_, session_.budget);
}

Evaluator::Flow Evaluator::run_if(const Statement& statement) {
  for (const Statement::Branch& branch : statement.branches)
    if (branch.condition == nullptr || evaluate(*branch.condition).truthy()) return run(branch.body);
  return Flow::kOn;
}

Evaluator::Flow Evaluator::run_for(const Statement& statement) {
  const SequencePtr all = items_of(evaluate(*statement.value), session_);
  SequencePtr items = all;
  if (statement.condition != nullptr) {
    Items kept;
    for (const Value& item : all->items) {
      const Inner inner(*this);
      assign(statement.target, item);
      if (evaluate(*statement.condition).truthy()) kept.push_back(item);
    }
    items = Value::list(std::move(kept)).sequence();
  }
  if (items->items.empty()) {
    const Inner inner(*this);
    return run(statement.otherwise);
  }
  Loop& loop = loops_.emplace_back(Loop{items, 0, {}});
  for (; loop.index < items->items.size(); ++loop.index) {
    session_.budget.charge(kStepWork);
    const Inner inner(*this);
    set("loop", Value::Storage(&loop));
    assign(statement.target, items->items[loop.index]);
    if (run(statement.body) == Flow::kBreak) break;
  }
  return Flow::kOn;
}

Evaluator::Flow Evaluator::run_with(const Statement& statement) {
  // All values belong to the scope around.
  const Items values = evaluate_all(statement.values);
  const Inner inner(*this);
  for (size_t i = 0; i < values.size(); ++i) assign(statement.targets[i], values[i]);
  return run(statement.body);
}

void Evaluator::run_block(const Statement& statement) {
  if (statement.kind == StatementKind::kCall) {
    const Value caller = macro_value(statement.macro);
    const Value callee = evaluate(*statement.value->children[0]);
    Arguments arguments = arguments_of(*statement.value);
    arguments.named.emplace_back("caller", caller);
    return emit(call(callee, std::move(arguments)));
  }
  Value text = Value::text(captured(statement.body));
  if (statement.value != nullptr) {
    const Inner inner(*this);
    set(kBlockText, std::move(text));
    text = evaluate(*statement.value);
  }
  if (statement.kind == StatementKind::kFilter) return emit(text);
  assign(statement.target, text);
}

std::string Evaluator::captured(const Body& body) {
  const Inner inner(*this);
  std::string text;
  std::string* const before = std::exchange(out_, &text);
  run(body);  // an exception ends the rendering: nobody needs `out_` then
  out_ = before;
  return text;
}

Value Evaluator::evaluate(const Expression& expression) {
  try {
    const Nested nested(*this);
    return evaluate_expression(expression);
  } catch (const Failure& failure) {
    fail("{}:{}: {}", program_.name, expression.line, failure.what());
  }
}

Value Evaluator::evaluate_expression(const Expression& e) {
  switch (e.kind) {
    case ExpressionKind::kConstant:
      return e.constant;
    case ExpressionKind::kName:
      return look_up(e.name);
    case ExpressionKind::kList:
    case ExpressionKind::kTuple:
      session_.budget.charge_elements(e.children.size());
      return Value::list(evaluate_all(e.children), e.kind == ExpressionKind::kTuple);
    case ExpressionKind::kDict:
      return evaluate_dict(e);
    case ExpressionKind::kAttribute:
      return attribute_of(evaluate(*e.children[0]), e.name, session_);
    case ExpressionKind::kItem:
      return evaluate_item(e);
    case ExpressionKind::kSlice:
      refuse("unsupported: a slice among several indices");
    case ExpressionKind::kCall: {
      const Value callee = evaluate(*e.children[0]);
      return call(callee, arguments_of(e));
    }
    case ExpressionKind::kFilter: {
      const Value value = evaluate(*e.children[0]);
      return apply_filter(e.name, value, arguments_of(e), session_);
    }
    case ExpressionKind::kTest: {
      const Value value = evaluate(*e.children[0]);
      return Value::boolean(apply_test(e.name, value, arguments_of(e), session_));
    }
    case ExpressionKind::kUnary: {
      const Value value = evaluate(*e.children[0]);
      return e.name == "not" ? Value::boolean(!value.truthy()) : signed_value(e.name, value);
    }
    case ExpressionKind::kBinary: {
      const Value left = evaluate(*e.children[0]);
      return binary(e.name, left, evaluate(*e.children[1]), session_);
    }
    case ExpressionKind::kConcat:
      return evaluate_concat(e);
    case ExpressionKind::kCompare:
      return evaluate_compare(e);
    case ExpressionKind::kAnd:
    case ExpressionKind::kOr: {
      Value left = evaluate(*e.children[0]);
      return left.truthy() == (e.kind == ExpressionKind::kOr) ? left : evaluate(*e.children[1]);
    }
    case ExpressionKind::kIf:
      if (evaluate(*e.children[1]).truthy()) return evaluate(*e.children[0]);
      if (e.children[2] != nullptr) return evaluate(*e.children[2]);
      return Value::undefined("the 'if' without 'else' has no value");
  }
  return {};
}

Value Evaluator::evaluate_compare(const Expression& e) {
  Value left = evaluate(*e.children[0]);
  for (size_t i = 0; i < e.names.size(); ++i) {
    const std::string& name = e.names[i];
    Value right = evaluate(*e.children[i + 1]);
    bool holds = false;
    if (name == "in" || name == "not in") {
      holds = contains(right, left, session_) == (name == "in");
    } else if (name == "==" || name == "!=") {
      holds = equal(left, right, session_.budget) == (name == "==");
    } else {
      const bool nan =
          left.is_numeric() && right.is_numeric() && (left.number() != left.number() || right.number() != right.number());
      const int order = compare(left, right, session_.budget);
      holds = !nan && (name == "<" ? order < 0 : name == "<=" ? order <= 0 : name == ">" ? order > 0 : order >= 0);
    }
    if (!holds) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Evaluator::evaluate_item(const Expression& e) {
  const Value value = evaluate(*e.children[0]);
  const Expression& index = *e.children[1];
  if (index.kind != ExpressionKind::kSlice) return item_of(value, evaluate(index), session_);
  Value parts[3];
  for (size_t i = 0; i < 3; ++i) parts[i] = index.children[i] == nullptr ? Value::none() : evaluate(*index.children[i]);
  return slice_of(value, parts[0], parts[1], parts[2], session_);
}

Value Evaluator::evaluate_concat(const Expression& e) {
  std::string text;
  for (const Value& part : evaluate_all(e.children)) append_text(part, text, session_.budget);
  return Value::text(std::move(text));
}

Items Evaluator::evaluate_all(const std::vector<ExpressionPtr>& expressions) {
  Items items;
  items.reserve(expressions.size());
  for (const ExpressionPtr& expression : expressions) items.push_back(evaluate(*expression));
  return items;
}

Value Evaluator::evaluate_dict(const Expression& e) {
  Dict dict;
  for (size_t i = 0; i + 1 < e.children.size(); i += 2) {
    session_.budget.charge(kElementWork);
    const Value key = evaluate(*e.children[i]);
    dict.set(key, evaluate(*e.children[i + 1]), session_.budget);
  }
  return Value::dict(std::move(dict));
}

Arguments Evaluator::arguments_of(const Expression& e) {
  Arguments arguments;
  const auto add_named = [&](const std::string& name, Value value) {
    for (const auto& [own, held] : arguments.named)
      if (own == name) refuse("the argument '{}' is given twice", shortened(name));
    arguments.named.emplace_back(name, std::move(value));
  };
  for (const Argument& argument : e.arguments) {
    Value value = evaluate(*argument.value);
    session_.budget.charge(kElementWork);
    switch (argument.kind) {
      case Argument::Kind::kPositional:
        arguments.positional.push_back(std::move(value));
        break;
      case Argument::Kind::kNamed:
        add_named(argument.name, std::move(value));
        break;
      case Argument::Kind::kList: {
        const SequencePtr items = items_of(value, session_);
        session_.budget.charge_elements(items->items.size());
        arguments.positional.insert(arguments.positional.end(), items->items.begin(), items->items.end());
        break;
      }
      case Argument::Kind::kDict: {
        if (!value.is_dict()) refuse("** needs a dictionary, not a {}", value.type_name());
        const auto& entries = value.dict().entries();
        session_.budget.charge(kElementWork * entries.size() * (entries.size() + arguments.named.size()));
        for (const auto& [key, held] : entries) {
          if (!key.is_text()) refuse("** needs text as keys, not a {}", key.type_name());
          add_named(key.text(), held);
        }
        break;
      }
    }
  }
  return arguments;
}

Value Evaluator::call(const Value& callee, Arguments arguments) {
  if (callee.is_undefined()) {
    const auto& hint = callee.get<Undefined>().hint;
    refuse("cannot call what is undefined: {}", hint == nullptr ? "no value" : *hint);
  }
  if (callee.is<Loop*>()) refuse("unsupported: a recursive loop");
  if (!callee.is<std::shared_ptr<const Callable>>()) refuse("a {} cannot be called", callee.type_name());
  const Callable& callable = *callee.get<std::shared_ptr<const Callable>>();
  switch (callable.kind) {
    case Callable::Kind::kFunction:
      return call_function(callable.name, arguments, session_);
    case Callable::Kind::kMethod:
      return call_method(callable.self, callable.name, arguments, session_);
    case Callable::Kind::kMacro:
      return call_macro(callable, std::move(arguments));
  }
  return {};
}

Value Evaluator::call_macro(const Callable& callable, Arguments arguments) {
  const Macro& macro = *callable.macro;
  const Inner inner(*this, callable.scope->shared_from_this());
  bind_parameters(macro, arguments);
  std::string text;
  std::string* const before = std::exchange(out_, &text);
  run(macro.body);
  out_ = before;
  return Value::text(std::move(text));
}

void Evaluator::bind_parameters(const Macro& macro, Arguments& arguments) {
  const std::string shown = macro.name.empty() ? "the block of a call" : "the macro '" + macro.name + "'";
  Items& positional = arguments.positional;
  const size_t count = std::min(positional.size(), macro.parameters.size());
  Dict others;
  Value caller;
  bool has_caller = false;
  std::vector<const Value*> given(macro.parameters.size(), nullptr);
  for (size_t i = 0; i < count; ++i) given[i] = &positional[i];
  for (const auto& named : arguments.named) {
    const std::string& name = named.first;
    const Value& value = named.second;
    const auto found =
        std::find_if(macro.parameters.begin(), macro.parameters.end(), [&](const auto& p) { return p.name == name; });
    if (found != macro.parameters.end()) {
      const Value*& place = given[static_cast<size_t>(found - macro.parameters.begin())];
      if (place != nullptr) refuse("{} gets its argument '{}' twice", shown, name);
      place = &value;
    } else if (name == "caller") {
      caller = value;
      has_caller = true;
    } else if (macro.takes_kwargs) {
      others.set(Value::text(name), value, session_.budget);
    } else {
      refuse("{} has no argument '{}'", shown, shortened(name));
    }
  }
  if (has_caller && !macro.takes_caller) refuse("{} takes no block", shown);
  if (positional.size() > macro.parameters.size() && !macro.takes_varargs)
    refuse("{} takes {} arguments at most, not {}", shown, macro.parameters.size(), positional.size());
  if (macro.takes_caller) set("caller", has_caller ? caller : Value::undefined("no caller is defined"));
  if (macro.takes_kwargs) set("kwargs", Value::dict(std::move(others)));
  if (macro.takes_varargs)
    set("varargs", Value::list(Items(positional.begin() + static_cast<int64_t>(count), positional.end()), true));
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const Macro::Parameter& parameter = macro.parameters[i];
    Value value = given[i] != nullptr ? *given[i]
                  : parameter.value != nullptr
                      ? evaluate(*parameter.value)
                      : Value::undefined(fmt::format("{} got no argument '{}'", shown, parameter.name));
    set(parameter.name, std::move(value));
  }
}

Value Evaluator::macro_value(const Macro& macro) {
  kept_.push_back(scope_);
  return Value::Storage(
      std::make_shared<const Callable>(Callable{Callable::Kind::kMacro, macro.name, {}, &macro, scope_.get()}));
}

Value Evaluator::look_up(std::string_view name) const {
  for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get())
    for (const auto& [own, value] : scope->variables)
      if (own == name) return value;
  if (is_function(name)) {
    return Value::Storage(
        std::make_shared<const Callable>(Callable{Callable::Kind::kFunction, std::string(name), {}, nullptr, nullptr}));
  }
  return Value::undefined(fmt::format("'{}' is undefined", shortened(name)));
}

void Evaluator::set(const std::string& name, Value value) {
  for (auto& [own, held] : scope_->variables) {
    if (own == name) {
      held = std::move(value);
      return;
    }
  }
  scope_->variables.emplace_back(name, std::move(value));
}

void Evaluator::assign(const Target& target, const Value& value) {
  if (target.unpacks) {
    const SequencePtr items = items_of(value, session_);
    if (items->items.size() != target.parts.size())
      refuse("{} values cannot be unpacked into {} names", items->items.size(), target.parts.size());
    for (size_t i = 0; i < items->items.size(); ++i) assign(target.parts[i], items->items[i]);
    return;
  }
  if (target.attribute.empty()) return set(target.name, value);
  const Value owner = look_up(target.name);
  if (!owner.is<Namespace*>()) refuse("'{}' is no namespace: its attributes cannot be set", target.name);
  if (target.attribute.starts_with('_')) refuse("the attribute '{}' cannot be set", target.attribute);
  auto& attributes = owner.get<Namespace*>()->attributes;
  session_.budget.charge_elements(attributes.size());
  for (auto& [own, held] : attributes) {
    if (own == target.attribute) {
      held = value;
      return;
    }
  }
  attributes.emplace_back(target.attribute, value);
}

}  // namespace rorqual::jinja
