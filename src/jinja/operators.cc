// Operators and members, as Python has them.
#include <algorithm>
#include <cmath>

#include "jinja/builtins.h"

namespace rorqual::jinja {
namespace {

[[noreturn]] void refuse_undefined(const Value& value) {
  const auto& hint = value.get<Undefined>().hint;
  refuse("{}", hint == nullptr ? std::string("a value is undefined") : *hint);
}

[[noreturn]] void refuse_size() {
  refuse("unsupported: an integer beyond 64 bits");
}

Value integer_power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) refuse("division by zero");
    return Value::number(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  if (base == 0 || base == 1) return Value::integer(exponent == 0 ? 1 : base);
  if (base == -1) return Value::integer(exponent % 2 == 0 ? 1 : -1);
  int64_t value = 1;  // 64 steps at most: then it has overflowed
  for (int64_t i = 0; i < exponent; ++i)
    if (__builtin_mul_overflow(value, base, &value)) refuse_size();
  return Value::integer(value);
}

Value of_integers(std::string_view name, int64_t a, int64_t b) {
  int64_t result = 0;
  const bool plus = name == "+", minus = name == "-", times = name == "*";
  if (plus || minus || times) {
    const bool overflows = plus    ? __builtin_add_overflow(a, b, &result)
                           : minus ? __builtin_sub_overflow(a, b, &result)
                                   : __builtin_mul_overflow(a, b, &result);
    if (overflows) refuse_size();
    return Value::integer(result);
  }
  if (name == "**") return integer_power(a, b);
  if (b == 0) refuse("division by zero");
  if (name == "/") return Value::number(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) return name == "%" ? Value::integer(0) : of_integers("-", 0, a);
  const int64_t rest = a % b;
  const bool down = rest != 0 && (rest < 0) != (b < 0);  // Python rounds towards minus infinity
  return Value::integer(name == "%" ? rest + (down ? b : 0) : a / b - (down ? 1 : 0));
}

Value of_numbers(std::string_view name, double a, double b) {
  if (name == "+") return Value::number(a + b);
  if (name == "-") return Value::number(a - b);
  if (name == "*") return Value::number(a * b);
  if (name == "**") {
    if (a == 0 && b < 0) refuse("division by zero");
    const double result = std::pow(a, b);
    if ((std::isinf(result) && std::isfinite(a) && std::isfinite(b)) ||
        (std::isnan(result) && !std::isnan(a) && !std::isnan(b)))
      refuse("{} ** {} is no number", float_text(a), float_text(b));
    return Value::number(result);
  }
  if (b == 0) refuse("division by zero");
  if (name == "/") return Value::number(a / b);
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  if (rest == 0) rest = std::copysign(0.0, b);
  if (name == "%") return Value::number(rest);
  const double quotient = (a - rest) / b, floor = std::floor(quotient);
  return Value::number(quotient == 0 ? std::copysign(0.0, a / b) : quotient - floor > 0.5 ? floor + 1 : floor);
}

Value repeated(const Value& value, int64_t count, Session& session) {
  const auto times = static_cast<size_t>(std::max<int64_t>(count, 0));
  const size_t size = value.is_text() ? value.text().size() : value.sequence()->items.size() * kElementWork;
  if (size > 0 && times > INT64_MAX / size) refuse("unsupported: a text or list repeated {} times", count);
  session.budget.charge(size * times);
  if (value.is_text()) {
    std::string out;
    for (size_t i = 0; i < times && size > 0; ++i) out += value.text();
    return Value::text(std::move(out));
  }
  Items items;
  for (size_t i = 0; i < times && size > 0; ++i)
    items.insert(items.end(), value.sequence()->items.begin(), value.sequence()->items.end());
  return Value::list(std::move(items), value.sequence()->is_tuple);
}

Value added(const Value& a, const Value& b, Session& session) {
  if (a.is_text() && b.is_text()) {
    session.budget.charge(a.text().size() + b.text().size());
    return Value::text(a.text() + b.text());
  }
  if (a.is_sequence() && b.is_sequence() && a.sequence()->is_tuple == b.sequence()->is_tuple) {
    session.budget.charge_elements(a.sequence()->items.size() + b.sequence()->items.size());
    Items items = a.sequence()->items;
    items.insert(items.end(), b.sequence()->items.begin(), b.sequence()->items.end());
    return Value::list(std::move(items), a.sequence()->is_tuple);
  }
  refuse("'+' has no meaning between {} and {}", a.type_name(), b.type_name());
}

// An index as Python takes it, or nothing where it is out of range.
std::optional<size_t> position(int64_t index, size_t size) {
  const auto count = static_cast<int64_t>(size);
  if (index < 0) index += count;
  if (index < 0 || index >= count) return std::nullopt;
  return static_cast<size_t>(index);
}

Value loop_attribute(Loop* loop, std::string_view name) {
  const auto index = static_cast<int64_t>(loop->index), length = static_cast<int64_t>(loop->items->items.size());
  if (name == "index") return Value::integer(index + 1);
  if (name == "index0") return Value::integer(index);
  if (name == "revindex") return Value::integer(length - index);
  if (name == "revindex0") return Value::integer(length - index - 1);
  if (name == "first") return Value::boolean(index == 0);
  if (name == "last") return Value::boolean(index + 1 == length);
  if (name == "length") return Value::integer(length);
  if (name == "depth") return Value::integer(1);  // counts recursion, of which there is none here
  if (name == "depth0") return Value::integer(0);
  if (name == "previtem")
    return index > 0 ? loop->items->items[loop->index - 1] : Value::undefined("there is no previous item");
  if (name == "nextitem")
    return index + 1 < length ? loop->items->items[loop->index + 1] : Value::undefined("there is no next item");
  return Value::undefined(fmt::format("'loop' has no attribute '{}'", shortened(name)));
}

Value method(const Value& self, std::string_view name) {
  return Value::Storage(
      std::make_shared<const Callable>(Callable{Callable::Kind::kMethod, std::string(name), self, nullptr, nullptr}));
}

}  // namespace

Value binary(std::string_view name, const Value& a, const Value& b, Session& session) {
  if (a.is_undefined()) refuse_undefined(a);
  if (name == "%" && a.is_text()) refuse("unsupported: formatting text with '%'");  // of what is undefined too
  if (b.is_undefined()) refuse_undefined(b);
  if (a.is_integral() && b.is_integral()) return of_integers(name, a.integer(), b.integer());
  if (a.is_numeric() && b.is_numeric()) return of_numbers(name, a.number(), b.number());
  if (name == "+") return added(a, b, session);
  if (name == "*" && b.is_integral() && (a.is_text() || a.is_sequence())) return repeated(a, b.integer(), session);
  if (name == "*" && a.is_integral() && (b.is_text() || b.is_sequence())) return repeated(b, a.integer(), session);
  refuse("'{}' has no meaning between {} and {}", name, a.type_name(), b.type_name());
}

Value signed_value(std::string_view sign, const Value& value) {
  if (value.is_undefined()) refuse_undefined(value);
  if (!value.is_numeric()) refuse("the sign {} has no meaning for a {}", sign, value.type_name());
  if (value.is_integral()) return sign == "-" ? of_integers("-", 0, value.integer()) : Value::integer(value.integer());
  return Value::number(sign == "-" ? -value.number() : value.number());
}

bool contains(const Value& all, const Value& one, Session& session) {
  if (all.is_text()) {
    if (!one.is_text()) refuse("only text can be searched in text, not a {}", one.type_name());
    session.budget.charge(all.text().size() + one.text().size());
    return all.text().find(one.text()) != std::string::npos;
  }
  if (all.is_dict()) {
    if (one.is_sequence() || one.is_dict()) refuse("a {} cannot be the key of a dictionary", one.type_name());
    return all.dict().find(one, session.budget) != nullptr;
  }
  const SequencePtr items = items_of(all, session);
  return std::any_of(items->items.begin(), items->items.end(),
                     [&](const Value& item) { return equal(item, one, session.budget); });
}

Value attribute_of(const Value& value, std::string_view name, Session& session) {
  if (value.is_undefined()) refuse_undefined(value);
  if (value.is<Loop*>()) {
    if (name == "cycle" || name == "changed") return method(value, name);
    return loop_attribute(value.get<Loop*>(), name);
  }
  if (value.is<Namespace*>()) {
    const auto& attributes = value.get<Namespace*>()->attributes;
    session.budget.charge_elements(attributes.size());
    for (const auto& [own, held] : attributes)
      if (own == name) return held;
    return Value::undefined(fmt::format("the namespace has no attribute '{}'", shortened(name)));
  }
  if (has_method(value, name)) return method(value, name);
  if (value.is_dict()) {
    if (const Value* found = value.dict().find(name)) return *found;
  }
  return Value::undefined(fmt::format("the {} has no attribute '{}'", value.type_name(), shortened(name)));
}

Value item_of(const Value& value, const Value& key, Session& session) {
  if (value.is_undefined()) refuse_undefined(value);
  if (value.is_dict()) {
    if (const Value* found = value.dict().find(key, session.budget)) return *found;
  }
  if (key.is_integral() && value.is_sequence()) {
    if (const auto at = position(key.integer(), value.sequence()->items.size())) return value.sequence()->items[*at];
  }
  if (key.is_integral() && value.is_text()) {
    session.budget.charge(value.text().size());
    const std::vector<size_t> starts = character_starts(value.text());
    if (const auto at = position(key.integer(), starts.size() - 1))
      return Value::text(value.text().substr(starts[*at], starts[*at + 1] - starts[*at]));
  }
  if (key.is_text() && !value.is_dict()) return attribute_of(value, key.text(), session);
  if (key.is_text() && has_method(value, key.text())) return method(value, key.text());
  std::string shown;
  if (key.is_text()) shown = key.text();
  if (key.is_integral()) shown = std::to_string(key.integer());
  return Value::undefined(fmt::format("the {} has no element '{}'", value.type_name(), shortened(shown)));
}

Value slice_of(const Value& value, const Value& begin, const Value& end, const Value& step, Session& session) {
  if (value.is_undefined()) refuse_undefined(value);
  if (!value.is_text() && !value.is_sequence()) refuse("a {} has no slices", value.type_name());
  const auto number = [](const Value& part, int64_t otherwise) {
    if (part.is_none()) return otherwise;
    if (!part.is_integral()) refuse("a slice needs integers, not a {}", part.type_name());
    return part.integer();
  };
  const int64_t by = number(step, 1);
  if (by == 0) refuse("a slice has the step 0");
  const bool is_text = value.is_text();
  if (is_text) session.budget.charge(8 * value.text().size());
  const std::vector<size_t> starts = is_text ? character_starts(value.text()) : std::vector<size_t>();
  const auto size = static_cast<int64_t>(is_text ? starts.size() - 1 : value.sequence()->items.size());
  const int64_t low = by > 0 ? 0 : -1, high = by > 0 ? size : size - 1;
  const auto bound = [&](const Value& part, int64_t otherwise) {
    int64_t index = number(part, otherwise);
    if (part.is_none()) return index;
    if (index < 0) index = std::max(index + size, low);
    return std::clamp(index, low, std::max(low, high));
  };
  const int64_t first = bound(begin, by > 0 ? 0 : size - 1), last = bound(end, by > 0 ? size : -1);
  std::string text;
  Items items;
  const auto further = [&](int64_t i) { return by > 0 ? i < last : i > last; };
  // A step that leads out of the list ends the walk before it can overflow.
  for (int64_t i = first; further(i); i = by == INT64_MIN || std::abs(by) > size ? last : i + by) {
    session.budget.charge(kElementWork);
    const auto at = static_cast<size_t>(i);
    if (is_text) {
      text.append(value.text(), starts[at], starts[at + 1] - starts[at]);
    } else {
      items.push_back(value.sequence()->items[at]);
    }
  }
  return is_text ? Value::text(std::move(text)) : Value::list(std::move(items), value.sequence()->is_tuple);
}

}  // namespace rorqual::jinja
