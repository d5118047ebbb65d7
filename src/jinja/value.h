// The values of a template: JSON's, with what the language adds. Immutable but for namespaces.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "jinja/text.h"

namespace rorqual::jinja {

class Value;
struct Macro;
struct Scope;
struct Namespace;
struct Loop;
struct Callable;
using Items = std::vector<Value>;

// A name or member that is not there: empty text, false, no elements; anything else with it is an error that shows the hint.
struct Undefined {
  std::shared_ptr<const std::string> hint;
};
struct None {};

struct Sequence {
  Items items;
  bool is_tuple = false;
  int depth = 1;
};
using SequencePtr = std::shared_ptr<const Sequence>;

// Keys in the order in which they came; strings, numbers, booleans or none.
class Dict {
 public:
  // The last of equal keys gives the value. Error for a key that is a list, a dictionary, …
  void set(const Value& key, Value value, Budget& budget);
  const Value* find(const Value& key, Budget& budget) const;
  const Value* find(std::string_view key) const;
  const std::vector<std::pair<Value, Value>>& entries() const { return entries_; }
  int depth() const { return depth_; }

 private:
  std::vector<std::pair<Value, Value>> entries_;
  std::unordered_map<std::string, size_t> by_text_;  // the keys that are strings
  int depth_ = 1;
};
using DictPtr = std::shared_ptr<const Dict>;

class Value {
 public:
  using Storage = std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const std::string>, SequencePtr, DictPtr,
                               Namespace*, Loop*, std::shared_ptr<const Callable>>;

  Value() = default;  // undefined, without a hint
  Value(Storage storage) : storage_(std::move(storage)) {}

  static Value undefined(std::string hint) { return Storage(Undefined{std::make_shared<const std::string>(std::move(hint))}); }
  static Value none() { return Storage(None{}); }
  static Value boolean(bool b) { return Storage(b); }
  static Value integer(int64_t i) { return Storage(i); }
  static Value number(double d) { return Storage(d); }
  static Value text(std::string s) { return Storage(std::make_shared<const std::string>(std::move(s))); }
  static Value text(std::string_view s) { return text(std::string(s)); }
  static Value text(const char* s) { return text(std::string(s)); }
  // Error where elements are nested too deep.
  static Value list(Items items, bool is_tuple = false);
  static Value dict(Dict dict) { return Storage(std::make_shared<const Dict>(std::move(dict))); }

  template <class T>
  bool is() const {
    return std::holds_alternative<T>(storage_);
  }
  bool is_undefined() const { return is<Undefined>(); }
  bool is_none() const { return is<None>(); }
  bool is_text() const { return is<std::shared_ptr<const std::string>>(); }
  bool is_sequence() const { return is<SequencePtr>(); }
  bool is_dict() const { return is<DictPtr>(); }
  bool is_integral() const { return is<bool>() || is<int64_t>(); }
  bool is_numeric() const { return is_integral() || is<double>(); }

  const std::string& text() const { return *std::get<std::shared_ptr<const std::string>>(storage_); }
  const SequencePtr& sequence() const { return std::get<SequencePtr>(storage_); }
  const Dict& dict() const { return *std::get<DictPtr>(storage_); }
  int64_t integer() const { return is<bool>() ? std::get<bool>(storage_) : std::get<int64_t>(storage_); }
  double number() const { return is<double>() ? std::get<double>(storage_) : static_cast<double>(integer()); }
  const Storage& storage() const { return storage_; }
  template <class T>
  const T& get() const {
    return std::get<T>(storage_);
  }

  int depth() const;  // of nested lists and dictionaries
  bool truthy() const;
  // "str", "list", …, as Python names types.
  std::string type_name() const;

 private:
  Storage storage_;
};

// What can be called beside a name that the evaluator knows.
struct Callable {
  enum class Kind : uint8_t { kFunction, kMethod, kMacro } kind;
  std::string name;
  Value self;                    // of a method
  const Macro* macro = nullptr;  // with the scope that it was defined in
  Scope* scope = nullptr;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
};

struct Loop {
  SequencePtr items;
  size_t index = 0;
  Value changed;  // what loop.changed saw last, a tuple
};

// All of these count their work; nested values can be far larger than what holds them.
bool equal(const Value& a, const Value& b, Budget& budget);
// Negative, 0 or positive; Error where Python has no order of the two.
int compare(const Value& a, const Value& b, Budget& budget);
void append_text(const Value& value, std::string& out, Budget& budget);    // Python's str()
void append_quoted(const Value& value, std::string& out, Budget& budget);  // Python's repr()
// Shortest digits that give the number back, as Python writes them.
std::string float_text(double d);

struct JsonStyle {
  bool ensure_ascii = false, sort_keys = false, pretty = false;
  std::string indent, item_separator = ", ", key_separator = ": ";
};
void append_json(const Value& value, const JsonStyle& style, std::string& out, Budget& budget, int level = 0);

// Error for integers outside 64 bits, text that is not UTF-8 and deep nesting.
Value from_json(const nlohmann::ordered_json& json, int level = 0);

}  // namespace rorqual::jinja
