// What the language brings along: filters, tests, methods, functions, operators, members.
#pragma once

#include <ctime>
#include <deque>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jinja/value.h"

namespace rorqual::jinja {

// What one rendering owns and may spend.
struct Session {
  Budget budget;
  std::optional<std::time_t> now;
  std::deque<Namespace> namespaces;
};

struct Arguments {
  Items positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Arguments by the names of the parameters. Error for too many, too few, unknown and repeated ones.
class Parameters {
 public:
  Parameters(const Arguments& arguments, std::string_view function, std::initializer_list<std::string_view> names,
             size_t required = 0);
  // Null where none was given.
  const Value* operator[](size_t index) const { return values_[index]; }
  bool given(size_t index) const { return values_[index] != nullptr && !values_[index]->is_none(); }
  // The argument, or what holds without it (or with none); Error for other types.
  std::string text(size_t index, std::string_view otherwise) const;
  int64_t integer(size_t index, int64_t otherwise) const;
  bool flag(size_t index, bool otherwise) const;

 private:
  std::string function_;
  std::vector<const Value*> values_;
};

bool is_filter(std::string_view name);
bool is_test(std::string_view name);
Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments, Session& session);
bool apply_test(std::string_view name, const Value& value, const Arguments& arguments, Session& session);

// range, dict, namespace, raise_exception, strftime_now.
bool is_function(std::string_view name);
Value call_function(std::string_view name, const Arguments& arguments, Session& session);
Value call_method(const Value& self, std::string_view name, const Arguments& arguments, Session& session);
bool has_method(const Value& self, std::string_view name);

// value.name and value[key]: undefined where there is none, Error for members of undefined.
Value attribute_of(const Value& value, std::string_view name, Session& session);
Value item_of(const Value& value, const Value& key, Session& session);
Value slice_of(const Value& value, const Value& begin, const Value& end, const Value& step, Session& session);

// +, -, *, /, //, %, ** and the signs - and +.
Value binary(std::string_view name, const Value& a, const Value& b, Session& session);
Value signed_value(std::string_view sign, const Value& value);
bool contains(const Value& all, const Value& one, Session& session);

// What a loop goes through: elements, characters, keys. Error where Python cannot iterate.
SequencePtr items_of(const Value& value, Session& session);
std::string text_of(const Value& value, Session& session);  // Python's str()

}  // namespace rorqual::jinja
