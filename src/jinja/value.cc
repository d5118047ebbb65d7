#include "jinja/value.h"

#include <algorithm>
#include <cmath>

namespace rorqual::jinja {
namespace {

constexpr int kMaxDepth = 128;

int deeper(int depth) {
  if (depth >= kMaxDepth) refuse("lists and dictionaries are nested deeper than {} levels", kMaxDepth);
  return depth + 1;
}

bool is_hashable(const Value& key) {
  return key.is_text() || key.is_numeric() || key.is_none();
}

long double exact(const Value& value) {
  return value.is<double>() ? static_cast<long double>(value.number()) : static_cast<long double>(value.integer());
}

void append_items(const Sequence& sequence, std::string& out, Budget& budget) {
  out += sequence.is_tuple ? '(' : '[';
  for (size_t i = 0; i < sequence.items.size(); ++i) {
    if (i > 0) out += ", ";
    append_quoted(sequence.items[i], out, budget);
  }
  if (sequence.is_tuple && sequence.items.size() == 1) out += ',';
  out += sequence.is_tuple ? ')' : ']';
}

void append_entries(const Dict& dict, std::string& out, Budget& budget) {
  out += '{';
  bool first = true;
  for (const auto& [key, value] : dict.entries()) {
    if (!first) out += ", ";
    first = false;
    append_quoted(key, out, budget);
    out += ": ";
    append_quoted(value, out, budget);
  }
  out += '}';
}

}  // namespace

Value Value::list(Items items, bool is_tuple) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return Storage(std::make_shared<const Sequence>(Sequence{std::move(items), is_tuple, deeper(depth)}));
}

int Value::depth() const {
  if (is_sequence()) return sequence()->depth;
  if (is_dict()) return dict().depth();
  if (is<std::shared_ptr<const Callable>>()) return get<std::shared_ptr<const Callable>>()->self.depth() + 1;
  return 0;
}

bool Value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (is<bool>()) return get<bool>();
  if (is<int64_t>()) return get<int64_t>() != 0;
  if (is<double>()) return get<double>() != 0;
  if (is_text()) return !text().empty();
  if (is_sequence()) return !sequence()->items.empty();
  if (is_dict()) return !dict().entries().empty();
  return true;
}

std::string Value::type_name() const {
  static constexpr const char* kNames[] = {"undefined", "None", "bool",      "int",  "float",   "str",
                                           "list",      "dict", "namespace", "loop", "callable"};
  if (is_sequence() && sequence()->is_tuple) return "tuple";
  return kNames[storage_.index()];
}

void Dict::set(const Value& key, Value value, Budget& budget) {
  if (!is_hashable(key)) refuse("a {} cannot be the key of a dictionary here", key.type_name());
  depth_ = std::max(depth_, deeper(value.depth()));
  if (const Value* found = find(key, budget)) {
    entries_[static_cast<size_t>(
                 std::find_if(entries_.begin(), entries_.end(), [&](const auto& e) { return &e.second == found; }) -
                 entries_.begin())]
        .second = std::move(value);
    return;
  }
  if (key.is_text()) by_text_.emplace(key.text(), entries_.size());
  entries_.emplace_back(key, std::move(value));
}

const Value* Dict::find(std::string_view key) const {
  const auto found = by_text_.find(std::string(key));
  return found == by_text_.end() ? nullptr : &entries_[found->second].second;
}

const Value* Dict::find(const Value& key, Budget& budget) const {
  if (key.is_text()) return find(key.text());
  if (!is_hashable(key)) return nullptr;
  budget.charge_elements(entries_.size());
  for (const auto& [own, value] : entries_)
    if (equal(own, key, budget)) return &value;
  return nullptr;
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.charge(kElementWork);
  if (a.is_numeric() && b.is_numeric()) return exact(a) == exact(b);
  if (a.storage().index() != b.storage().index()) return false;
  if (a.is_undefined() || a.is_none()) return true;
  if (a.is_text()) {
    budget.charge(a.text().size());
    return a.text() == b.text();
  }
  if (a.is_sequence()) {
    const Sequence &x = *a.sequence(), &y = *b.sequence();
    return x.is_tuple == y.is_tuple && x.items.size() == y.items.size() &&
           std::equal(x.items.begin(), x.items.end(), y.items.begin(),
                      [&](const Value& s, const Value& t) { return equal(s, t, budget); });
  }
  if (a.is_dict()) {
    if (a.dict().entries().size() != b.dict().entries().size()) return false;
    return std::all_of(a.dict().entries().begin(), a.dict().entries().end(), [&](const auto& entry) {
      const Value* other = b.dict().find(entry.first, budget);
      return other != nullptr && equal(entry.second, *other, budget);
    });
  }
  if (a.is<Namespace*>()) return a.get<Namespace*>() == b.get<Namespace*>();
  if (a.is<Loop*>()) return a.get<Loop*>() == b.get<Loop*>();
  return a.get<std::shared_ptr<const Callable>>() == b.get<std::shared_ptr<const Callable>>();
}

int compare(const Value& a, const Value& b, Budget& budget) {
  budget.charge(kElementWork);
  if (a.is_numeric() && b.is_numeric()) return exact(a) < exact(b) ? -1 : exact(a) > exact(b) ? 1 : 0;
  if (a.is_text() && b.is_text()) {
    budget.charge(std::min(a.text().size(), b.text().size()));
    return a.text().compare(b.text());  // the order of UTF-8 is that of code points
  }
  const bool sequences = a.is_sequence() && b.is_sequence() && a.sequence()->is_tuple == b.sequence()->is_tuple;
  if (!sequences) refuse("no order between {} and {}", a.type_name(), b.type_name());
  const Items &x = a.sequence()->items, &y = b.sequence()->items;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
    if (!equal(x[i], y[i], budget)) return compare(x[i], y[i], budget);
  return x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0;
}

std::string float_text(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", d);
  if (text.find_first_of(".e") == text.npos) text += ".0";
  return text;
}

void append_text(const Value& value, std::string& out, Budget& budget) {
  if (value.is_text()) {
    budget.charge(value.text().size());
    out += value.text();
  } else if (!value.is_undefined()) {
    append_quoted(value, out, budget);
  }
}

void append_quoted(const Value& value, std::string& out, Budget& budget) {
  budget.charge(kElementWork);
  if (value.is_undefined()) {
    out += "Undefined";
  } else if (value.is_none()) {
    out += "None";
  } else if (value.is<bool>()) {
    out += value.get<bool>() ? "True" : "False";
  } else if (value.is<int64_t>()) {
    out += std::to_string(value.get<int64_t>());
  } else if (value.is<double>()) {
    out += float_text(value.get<double>());
  } else if (value.is_text()) {
    budget.charge(4 * value.text().size());
    append_repr(value.text(), out);
  } else if (value.is_sequence()) {
    append_items(*value.sequence(), out, budget);
  } else if (value.is_dict()) {
    append_entries(value.dict(), out, budget);
  } else {
    refuse("unsupported: the text of a {}", value.type_name());
  }
}

namespace {

void append_json_key(const Value& key, const JsonStyle& style, std::string& out) {
  out += '"';
  if (key.is_text()) {
    append_utf8_escaped(key.text(), style.ensure_ascii, out);
  } else if (key.is_none()) {
    out += "null";
  } else if (key.is<bool>()) {
    out += key.get<bool>() ? "true" : "false";
  } else {
    out += key.is<double>() ? float_text(key.number()) : std::to_string(key.integer());
  }
  out += '"';
}

void new_line(const JsonStyle& style, int level, std::string& out, Budget& budget) {
  if (!style.pretty) return;
  out += '\n';
  budget.charge(style.indent.size() * static_cast<size_t>(level));
  for (int i = 0; i < level; ++i) out += style.indent;
}

// Elements, each on its line where the style is pretty.
template <class List, class Append>
void append_members(const List& list, std::string_view brackets, const JsonStyle& style, int level, std::string& out,
                    Budget& budget, Append&& append) {
  out += brackets[0];
  bool first = true;
  for (const auto& member : list) {
    if (!first) out += style.item_separator;
    first = false;
    new_line(style, level + 1, out, budget);
    append(member);
  }
  if (!first) new_line(style, level, out, budget);
  out += brackets[1];
}

}  // namespace

void append_json(const Value& value, const JsonStyle& style, std::string& out, Budget& budget, int level) {
  budget.charge(kElementWork + style.item_separator.size() + style.key_separator.size());
  if (value.is_none()) {
    out += "null";
  } else if (value.is<bool>()) {
    out += value.get<bool>() ? "true" : "false";
  } else if (value.is<double>() && !std::isfinite(value.number())) {
    out += std::isnan(value.number()) ? "NaN" : value.number() < 0 ? "-Infinity" : "Infinity";
  } else if (value.is_numeric()) {
    append_quoted(value, out, budget);
  } else if (value.is_text()) {
    budget.charge(6 * value.text().size());
    out += '"';
    append_utf8_escaped(value.text(), style.ensure_ascii, out);
    out += '"';
  } else if (value.is_sequence()) {
    append_members(value.sequence()->items, "[]", style, level, out, budget,
                   [&](const Value& item) { append_json(item, style, out, budget, level + 1); });
  } else if (value.is_dict()) {
    auto entries = value.dict().entries();
    budget.charge_elements(entries.size());
    if (style.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(),
                       [&](const auto& a, const auto& b) { return compare(a.first, b.first, budget) < 0; });
    }
    append_members(entries, "{}", style, level, out, budget, [&](const auto& entry) {
      if (entry.first.is_text()) budget.charge(6 * entry.first.text().size());
      append_json_key(entry.first, style, out);
      out += style.key_separator;
      append_json(entry.second, style, out, budget, level + 1);
    });
  } else {
    refuse("a {} has no JSON form", value.type_name());
  }
}

Value from_json(const nlohmann::ordered_json& json, int level) {
  if (level > kMaxDepth) refuse("lists and dictionaries are nested deeper than {} levels", kMaxDepth);
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case nlohmann::ordered_json::value_t::number_unsigned:
      if (json.get<uint64_t>() > INT64_MAX) refuse("unsupported: the integer {} is above 2^63 - 1", json.get<uint64_t>());
      return Value::integer(json.get<int64_t>());
    case nlohmann::ordered_json::value_t::number_integer:
      return Value::integer(json.get<int64_t>());
    case nlohmann::ordered_json::value_t::number_float:
      return Value::number(json.get<double>());
    case nlohmann::ordered_json::value_t::string:
      if (!is_utf8(json.get_ref<const std::string&>())) refuse("a string is not valid UTF-8");
      return Value::text(json.get<std::string>());
    case nlohmann::ordered_json::value_t::array: {
      Items items;
      for (const auto& item : json) items.push_back(from_json(item, level + 1));
      return Value::list(std::move(items));
    }
    case nlohmann::ordered_json::value_t::object: {
      Dict dict;
      Budget unbounded(INT64_MAX);
      for (const auto& [key, value] : json.items()) {
        if (!is_utf8(key)) refuse("a key is not valid UTF-8");
        dict.set(Value::text(key), from_json(value, level + 1), unbounded);
      }
      return Value::dict(std::move(dict));
    }
    default:
      return Value::none();
  }
}

}  // namespace rorqual::jinja
