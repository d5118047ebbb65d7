// The filters.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "jinja/builtins.h"

namespace rorqual::jinja {
namespace {

using Filter = Value (*)(const Value& value, const Arguments& arguments, Session& session);

// An element, or its member "a.b.0" where an attribute is named.
Value member_of(const Value& item, const Value* attribute, Session& session) {
  if (attribute == nullptr || attribute->is_none()) return item;
  if (attribute->is_integral()) return item_of(item, *attribute, session);
  if (!attribute->is_text()) refuse("an attribute is named by text, not a {}", attribute->type_name());
  Value value = item;
  const std::string& path = attribute->text();
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    int64_t index = 0;
    const auto result = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index =
        !part.empty() && part[0] != '-' && result.ec == std::errc() && result.ptr == part.data() + part.size();
    value = item_of(value, is_index ? Value::integer(index) : Value::text(part), session);
    begin = end + 1;
  }
  return value;
}

// For sorting and comparing without regard to case.
Value key_of(const Value& item, const Value* attribute, bool case_sensitive, Session& session) {
  Value key = member_of(item, attribute, session);
  if (case_sensitive || !key.is_text()) return key;
  session.budget.charge(key.text().size());
  return Value::text(to_case(key.text(), Case::kLower));
}

Value filter_tojson(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = p.flag(0, false);
  style.sort_keys = p.flag(3, false);
  if (p.given(1)) {
    style.pretty = true;
    style.item_separator.pop_back();  // the comma alone
    style.indent =
        p[1]->is_text() ? p[1]->text() : std::string(static_cast<size_t>(std::clamp<int64_t>(p.integer(1, 0), 0, 64)), ' ');
  }
  if (p.given(2)) {
    const SequencePtr pair = items_of(*p[2], session);
    if (pair->items.size() != 2 || !pair->items[0].is_text() || !pair->items[1].is_text())
      refuse("tojson needs two texts as separators");
    style.item_separator = pair->items[0].text();
    style.key_separator = pair->items[1].text();
  }
  std::string out;
  append_json(value, style, out, session.budget);
  return Value::text(std::move(out));
}

Value filter_trim(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "trim", {"chars"});
  const std::optional<std::string> set = p.given(0) ? std::optional(p.text(0, "")) : std::nullopt;
  const std::string text = text_of(value, session);
  return Value::text(strip(text, set, true, true));
}

Value filter_length(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "length", {});
  if (value.is_text()) {
    session.budget.charge(value.text().size());
    return Value::integer(static_cast<int64_t>(character_count(value.text())));
  }
  if (value.is_dict()) return Value::integer(static_cast<int64_t>(value.dict().entries().size()));
  if (value.is<Loop*>()) return Value::integer(static_cast<int64_t>(value.get<Loop*>()->items->items.size()));
  if (!value.is_sequence() && !value.is_undefined()) refuse("a {} has no length", value.type_name());
  return Value::integer(static_cast<int64_t>(items_of(value, session)->items.size()));
}

Value filter_join(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "join", {"d", "attribute"});
  const std::string between = p[0] == nullptr ? "" : text_of(*p[0], session);
  std::string out;
  bool first = true;
  const SequencePtr all = items_of(value, session);
  for (const Value& item : all->items) {
    session.budget.charge(kElementWork + between.size());
    if (!first) out += between;
    first = false;
    append_text(member_of(item, p[1], session), out, session.budget);
  }
  return Value::text(std::move(out));
}

Value filter_default(const Value& value, const Arguments& arguments, Session&) {
  const Parameters p(arguments, "default", {"default_value", "boolean"});
  const bool absent = value.is_undefined() || (p.flag(1, false) && !value.truthy());
  if (!absent) return value;
  return p[0] == nullptr ? Value::text("") : *p[0];
}

template <Case kCase>
Value filter_case(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, kCase == Case::kUpper ? "upper" : "lower", {});
  return Value::text(to_case(text_of(value, session), kCase));
}

Value filter_capitalize(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "capitalize", {});
  return Value::text(capitalised(text_of(value, session)));
}

// Words begin behind white space, a hyphen or an opening bracket.
Value filter_title(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "title", {});
  const std::string text = text_of(value, session);
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const auto separates = [&](size_t at) {
      return std::string_view("-({[<").find(text[at]) != std::string_view::npos || end_of_space(text, at) > at;
    };
    size_t end = i;
    const bool between = separates(i);
    while (end < text.size() && separates(end) == between) {
      do ++end;
      while (end < text.size() && (text[end] & 0xC0) == 0x80);
    }
    out += between ? text.substr(i, end - i) : capitalised(std::string_view(text).substr(i, end - i));
    i = end;
  }
  return Value::text(std::move(out));
}

Value filter_first(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "first", {});
  const SequencePtr items = items_of(value, session);
  return items->items.empty() ? Value::undefined("no first item, the sequence is empty") : items->items.front();
}

Value filter_last(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "last", {});
  const SequencePtr items = items_of(value, session);
  return items->items.empty() ? Value::undefined("no last item, the sequence is empty") : items->items.back();
}

Value filter_items(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "items", {});
  if (value.is_undefined()) return Value::list({});
  if (!value.is_dict()) refuse("'items' needs a dictionary, not a {}", value.type_name());
  return call_method(value, "items", {}, session);
}

Value filter_list(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "list", {});
  const SequencePtr items = items_of(value, session);
  session.budget.charge_elements(items->items.size());
  return Value::list(items->items);
}

Value filter_string(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "string", {});
  return Value::text(text_of(value, session));
}

// Python's float(text): decimal digits, inf or nan, white space around.
std::optional<double> float_of(std::string_view text) {
  text = strip(text, std::nullopt, true, true);
  if (text.starts_with('+')) text.remove_prefix(1);
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto is_digit = [&](size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '9'; };
    if (text[i] == '_' && i > 0 && is_digit(i - 1) && is_digit(i + 1)) continue;
    digits.push_back(text[i]);
  }
  double value = 0;
  const char* const end = digits.data() + digits.size();
  const auto result = std::from_chars(digits.data(), end, value);
  if (digits.find('(') != std::string::npos || result.ptr != end || result.ec == std::errc::invalid_argument)
    return std::nullopt;
  if (result.ec != std::errc()) refuse("unsupported: the number {} is out of range", shortened(text));
  return value;
}

std::optional<int64_t> integer_of(std::string_view text, int64_t base) {
  text = strip(text, std::nullopt, true, true);
  const bool minus = text.starts_with('-');
  if (minus || text.starts_with('+')) text.remove_prefix(1);
  const std::string_view prefix = base == 16 ? "x" : base == 8 ? "o" : base == 2 ? "b" : "";
  if (!prefix.empty() && text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == prefix[0]) text.remove_prefix(2);
  std::string digits;
  if (minus) digits.push_back('-');
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '_' && i > 0 && i + 1 < text.size() && text[i - 1] != '_') continue;
    if (text[i] == '-' || text[i] == '+') return std::nullopt;
    digits.push_back(text[i]);
  }
  int64_t value = 0;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value, static_cast<int>(base));
  if (result.ec == std::errc::result_out_of_range) refuse("unsupported: an integer beyond 64 bits");
  if (result.ec != std::errc() || result.ptr != digits.data() + digits.size()) return std::nullopt;
  return value;
}

Value filter_int(const Value& value, const Arguments& arguments, Session&) {
  const Parameters p(arguments, "int", {"default", "base"});
  const Value otherwise = p[0] == nullptr ? Value::integer(0) : *p[0];
  if (value.is_undefined()) return signed_value("+", value);  // refuses, with the value's hint
  if (value.is_integral()) return Value::integer(value.integer());
  std::optional<double> number;
  if (value.is<double>()) number = value.number();
  if (value.is_text()) {
    const int64_t base = p.integer(1, 10);
    if (base < 2 || base > 36) refuse("unsupported: the base {}", base);
    if (const auto integer = integer_of(value.text(), base)) return Value::integer(*integer);
    number = float_of(value.text());
  }
  if (!number || !std::isfinite(*number)) return otherwise;
  if (std::abs(*number) >= 0x1p63) refuse("unsupported: an integer beyond 64 bits");
  return Value::integer(static_cast<int64_t>(*number));
}

Value filter_float(const Value& value, const Arguments& arguments, Session&) {
  const Parameters p(arguments, "float", {"default"});
  if (value.is_undefined()) return signed_value("+", value);  // refuses, with the value's hint
  if (value.is_numeric()) return Value::number(value.number());
  const std::optional<double> number = value.is_text() ? float_of(value.text()) : std::nullopt;
  if (number) return Value::number(*number);
  return p[0] == nullptr ? Value::number(0) : *p[0];
}

Value filter_replace(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "replace", {"old", "new", "count"}, 2);
  const std::string text = text_of(value, session);
  return Value::text(replaced(text, text_of(*p[0], session), text_of(*p[1], session), p.integer(2, -1), session.budget));
}

Value filter_reverse(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "reverse", {});
  const SequencePtr items = items_of(value, session);
  if (!value.is_text()) {
    session.budget.charge_elements(items->items.size());
    return Value::list(Items(items->items.rbegin(), items->items.rend()));
  }
  std::string text;
  for (auto item = items->items.rbegin(); item != items->items.rend(); ++item) text += item->text();
  return Value::text(std::move(text));
}

// Orders by the keys, equal ones as they stand. A bad comparison throws out of the sort, which leaves only copies behind.
Items sorted(Items items, const std::vector<Value>& keys, bool reverse, Session& session) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const int difference = compare(keys[a], keys[b], session.budget);
    return reverse ? difference > 0 : difference < 0;
  });
  Items out;
  for (const size_t i : order) out.push_back(items[i]);
  return out;
}

Value filter_sort(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "sort", {"reverse", "case_sensitive", "attribute"});
  if (p.given(2) && p[2]->is_text() && p[2]->text().find(',') != std::string::npos)
    refuse("unsupported: sort by more than one attribute");
  const Items items = items_of(value, session)->items;
  std::vector<Value> keys;
  for (const Value& item : items) keys.push_back(key_of(item, p[2], p.flag(1, false), session));
  return Value::list(sorted(items, keys, p.flag(0, false), session));
}

Value filter_dictsort(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "dictsort", {"case_sensitive", "by", "reverse"});
  const std::string by = p.text(1, "key");
  if (by != "key" && by != "value") refuse("dictsort sorts by \"key\" or \"value\"");
  if (!value.is_dict()) refuse("dictsort needs a dictionary, not a {}", value.type_name());
  const Items items = call_method(value, "items", {}, session).sequence()->items;
  const Value place = Value::integer(by == "key" ? 0 : 1);
  std::vector<Value> keys;
  for (const Value& item : items) keys.push_back(key_of(item, &place, p.flag(0, false), session));
  return Value::list(sorted(items, keys, p.flag(2, false), session));
}

// What Python can keep in a set.
bool is_hashable(const Value& value) {
  if (value.is_dict()) return false;
  if (!value.is_sequence()) return true;
  const Sequence& sequence = *value.sequence();
  return sequence.is_tuple && std::all_of(sequence.items.begin(), sequence.items.end(), is_hashable);
}

Value filter_unique(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "unique", {"case_sensitive", "attribute"});
  Items out, keys;
  const SequencePtr all = items_of(value, session);
  for (const Value& item : all->items) {
    Value key = key_of(item, p[1], p.flag(0, false), session);
    if (!is_hashable(key)) refuse("'unique' needs text, numbers or tuples of these, not a {}", key.type_name());
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& k) { return equal(k, key, session.budget); })) continue;
    keys.push_back(std::move(key));
    out.push_back(item);
  }
  return Value::list(std::move(out));
}

// The arguments behind the first `count`.
Arguments rest_of(const Arguments& arguments, size_t count) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(), rest.positional.begin() + static_cast<int64_t>(count));
  return rest;
}

Value filter_map(const Value& value, const Arguments& arguments, Session& session) {
  Items out;
  if (!value.truthy()) return Value::list({});  // also what cannot be iterated
  if (arguments.positional.empty()) {
    const Parameters p(arguments, "map", {"attribute", "default"}, 1);
    const SequencePtr all = items_of(value, session);
    for (const Value& item : all->items) {
      session.budget.charge(kStepWork);
      Value member = member_of(item, p[0], session);
      out.push_back(member.is_undefined() && p[1] != nullptr ? *p[1] : std::move(member));
    }
    return Value::list(std::move(out));
  }
  if (!arguments.positional[0].is_text())
    refuse("'map' needs the name of a filter, not a {}", arguments.positional[0].type_name());
  const Arguments rest = rest_of(arguments, 1);
  const SequencePtr all = items_of(value, session);
  for (const Value& item : all->items) {
    session.budget.charge(kStepWork);
    out.push_back(apply_filter(arguments.positional[0].text(), item, rest, session));
  }
  return Value::list(std::move(out));
}

// select, reject, selectattr, rejectattr: the elements (or a member of each) that a test likes.
template <bool kByAttribute, bool kKeep>
Value filter_select(const Value& value, const Arguments& arguments, Session& session) {
  const size_t names = kByAttribute ? 1 : 0;
  if (arguments.positional.size() < names) refuse("'selectattr' and 'rejectattr' need the name of an attribute");
  const Value* attribute = kByAttribute ? &arguments.positional[0] : nullptr;
  const bool has_test = arguments.positional.size() > names;
  if (has_test && !arguments.positional[names].is_text())
    refuse("the name of a test is needed, not a {}", arguments.positional[names].type_name());
  const Arguments rest = has_test ? rest_of(arguments, names + 1) : Arguments{};
  if (!value.truthy()) return Value::list({});  // also what cannot be iterated
  Items out;
  const SequencePtr all = items_of(value, session);
  for (const Value& item : all->items) {
    session.budget.charge(kStepWork);
    const Value member = member_of(item, attribute, session);
    const bool likes = has_test ? apply_test(arguments.positional[names].text(), member, rest, session) : member.truthy();
    if (likes == kKeep) out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value filter_indent(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "indent", {"width", "first", "blank"});
  if (!value.is_text()) refuse("'indent' needs text, not a {}", value.type_name());
  const std::string pad = p.given(0) && p[0]->is_text()
                              ? p[0]->text()
                              : std::string(static_cast<size_t>(std::clamp<int64_t>(p.integer(0, 4), 0, 1000)), ' ');
  const Value lines = call_method(Value::text(value.text() + "\n"), "splitlines", {}, session);
  std::string out;
  if (p.flag(1, false)) out = pad;
  bool first = true;
  for (const Value& line : lines.sequence()->items) {
    session.budget.charge(line.text().size() + pad.size() + kElementWork);
    if (!first) out += "\n";
    if (!first && (p.flag(2, false) || !line.text().empty())) out += pad;
    first = false;
    out += line.text();
  }
  return Value::text(std::move(out));
}

Value filter_abs(const Value& value, const Arguments& arguments, Session&) {
  const Parameters p(arguments, "abs", {});
  if (!value.is_numeric()) refuse("'abs' needs a number, not a {}", value.type_name());
  return value.number() < 0 ? signed_value("-", value) : signed_value("+", value);
}

Value filter_round(const Value& value, const Arguments& arguments, Session&) {
  const Parameters p(arguments, "round", {"precision", "method"});
  if (!value.is_numeric()) refuse("'round' needs a number, not a {}", value.type_name());
  const std::string method = p.text(1, "common");
  const int64_t digits = p.integer(0, 0);
  if (digits < 0 || digits > 15) refuse("unsupported: round to {} digits", digits);
  if (method == "common") {
    if (value.is_integral()) return Value::integer(value.integer());
    // To even on the exact value, as Python does.
    const std::string text = fmt::format("{:.{}f}", value.number(), digits);
    double rounded = 0;
    std::from_chars(text.data(), text.data() + text.size(), rounded);
    return Value::number(rounded);
  }
  if (method != "ceil" && method != "floor") refuse("round knows \"common\", \"ceil\" and \"floor\"");
  const double scale = std::pow(10.0, static_cast<double>(digits)), scaled = value.number() * scale;
  return Value::number((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Value filter_sum(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "sum", {"attribute", "start"});
  Value total = p[1] == nullptr ? Value::integer(0) : *p[1];
  if (total.is_text()) refuse("'sum' adds numbers and lists, not text");
  const SequencePtr all = items_of(value, session);
  for (const Value& item : all->items) total = binary("+", total, member_of(item, p[0], session), session);
  return total;
}

template <bool kMax>
Value filter_extreme(const Value& value, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, kMax ? "max" : "min", {"case_sensitive", "attribute"});
  const SequencePtr items = items_of(value, session);
  if (items->items.empty()) return Value::undefined("no item, the sequence is empty");
  const Value* best = nullptr;
  Value best_key;
  for (const Value& item : items->items) {
    Value key = key_of(item, p[1], p.flag(0, false), session);
    if (best != nullptr && (kMax ? compare(key, best_key, session.budget) <= 0 : compare(key, best_key, session.budget) >= 0))
      continue;
    best = &item;
    best_key = std::move(key);
  }
  return *best;
}

Value filter_safe(const Value& value, const Arguments& arguments, Session&) {
  const Parameters p(arguments, "safe", {});
  return value;
}

constexpr std::array<std::pair<std::string_view, Filter>, 35> kFilters = {{
    {"abs", filter_abs},
    {"capitalize", filter_capitalize},
    {"count", filter_length},
    {"d", filter_default},
    {"default", filter_default},
    {"dictsort", filter_dictsort},
    {"first", filter_first},
    {"float", filter_float},
    {"indent", filter_indent},
    {"int", filter_int},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"length", filter_length},
    {"list", filter_list},
    {"lower", filter_case<Case::kLower>},
    {"map", filter_map},
    {"max", filter_extreme<true>},
    {"min", filter_extreme<false>},
    {"reject", filter_select<false, false>},
    {"rejectattr", filter_select<true, false>},
    {"replace", filter_replace},
    {"reverse", filter_reverse},
    {"round", filter_round},
    {"safe", filter_safe},
    {"select", filter_select<false, true>},
    {"selectattr", filter_select<true, true>},
    {"sort", filter_sort},
    {"string", filter_string},
    {"sum", filter_sum},
    {"title", filter_title},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"unique", filter_unique},
    {"upper", filter_case<Case::kUpper>},
}};

}  // namespace

bool is_filter(std::string_view name) {
  return std::any_of(kFilters.begin(), kFilters.end(), [&](const auto& row) { return row.first == name; });
}

Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments, Session& session) {
  for (const auto& [own, filter] : kFilters)
    if (own == name) return filter(value, arguments, session);
  refuse("unsupported filter '{}'", shortened(name));
}

}  // namespace rorqual::jinja
