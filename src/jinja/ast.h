// A parsed template.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "jinja/value.h"

namespace rorqual::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class ExpressionKind : uint8_t {
  kConstant,
  kName,       // name
  kList,       // children
  kTuple,      // children
  kDict,       // children: key, value, key, value, …
  kAttribute,  // children[0].name
  kItem,       // children[0][children[1]]
  kSlice,      // children: begin, end, step; null where absent. Only as the index of a kItem
  kCall,       // children[0](arguments)
  kFilter,     // children[0] | name(arguments)
  kTest,       // children[0] is name(arguments)
  kUnary,      // name is -, + or not
  kBinary,     // name is +, -, *, /, //, %, **
  kConcat,     // children joined as text
  kCompare,    // children[0] names[0] children[1] names[1] …
  kAnd,
  kOr,
  kIf,  // children: value, condition, other (null where absent)
};

// An argument of a call.
struct Argument {
  enum class Kind : uint8_t { kPositional, kNamed, kList, kDict } kind;
  std::string name;
  ExpressionPtr value;
};

struct Expression {
  ExpressionKind kind;
  int line;
  int depth = 1;
  std::string name;
  Value constant;
  std::vector<ExpressionPtr> children;
  std::vector<Argument> arguments;
  std::vector<std::string> names;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

// What a set, a for or a macro gives values to: names, namespace.attribute, or several in a row.
struct Target {
  std::string name, attribute;  // an attribute only where the name is a namespace
  std::vector<Target> parts;    // unpacked; name is empty then
  bool unpacks = false;
};

// The name under which a block's filters find its text; no template can write it.
inline constexpr const char* kBlockText = "{block}";

struct Macro {
  struct Parameter {
    std::string name;
    ExpressionPtr value;  // null where there is no default
  };
  std::string name;  // empty for the block of a call
  int line = 0;
  std::vector<Parameter> parameters;
  Body body;
  bool takes_varargs = false, takes_kwargs = false, takes_caller = false;
};

enum class StatementKind : uint8_t {
  kData,      // text
  kOutput,    // value
  kIf,        // branches; the last may have no condition
  kFor,       // target, value, condition (a filter, or null), body, otherwise
  kSet,       // target, value
  kSetBlock,  // target, body, filter (null, or applied to a placeholder)
  kMacro,     // macro
  kCall,      // value (a call), macro is the block
  kFilter,    // filter, body
  kWith,      // branches hold nothing; targets and values, body
  kGeneration,
  kBreak,
  kContinue,
};

struct Statement {
  struct Branch {
    ExpressionPtr condition;
    Body body;
  };
  StatementKind kind;
  int line;
  std::string text;
  Target target;
  ExpressionPtr value, condition;
  std::vector<Branch> branches;
  Body body, otherwise;
  Macro macro;
  std::vector<Target> targets;
  std::vector<ExpressionPtr> values;
};

struct Program {
  std::string name;
  Body body;
};

}  // namespace rorqual::jinja
