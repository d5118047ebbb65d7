// Methods of text, lists and dictionaries, and the functions of the language.
#include <algorithm>
#include <array>

#include "data/unicode.h"
#include "jinja/builtins.h"

namespace rorqual::jinja {
namespace {

using Method = Value (*)(const Value& self, const Arguments& arguments, Session& session);
using Row = std::pair<std::string_view, Method>;

enum class Side : uint8_t { kLeft, kRight, kBoth };

template <Side kSide>
Value text_strip(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "strip", {"chars"});
  const std::optional<std::string> set = p.given(0) ? std::optional(p.text(0, "")) : std::nullopt;
  session.budget.charge(self.text().size());
  return Value::text(strip(self.text(), set, kSide != Side::kRight, kSide != Side::kLeft));
}

// Words between white space; `limit` cuts at most, from the left or the right.
Items split_at_space(std::string_view text, int64_t limit, bool from_right) {
  Items items;
  while (true) {
    text = from_right ? text.substr(0, start_of_trailing_space(text)) : text.substr(end_of_space(text, 0));
    if (text.empty()) break;
    const bool last = limit >= 0 && static_cast<int64_t>(items.size()) >= limit;
    size_t cut = from_right ? text.size() : 0;
    while (!last && (from_right ? cut > 0 : cut < text.size())) {
      if (from_right ? start_of_trailing_space(text.substr(0, cut)) < cut : end_of_space(text, cut) > cut) break;
      do from_right ? --cut : ++cut;
      while (cut > 0 && cut < text.size() && (text[cut] & 0xC0) == 0x80);
    }
    if (last) cut = from_right ? 0 : text.size();
    items.push_back(Value::text(from_right ? text.substr(cut) : text.substr(0, cut)));
    text = from_right ? text.substr(0, cut) : text.substr(cut);
  }
  return items;
}

Items split_at_text(std::string_view text, std::string_view separator, int64_t limit, bool from_right) {
  if (separator.empty()) refuse("a text is split at an empty separator");
  Items items;
  while (limit < 0 || static_cast<int64_t>(items.size()) < limit) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == text.npos) break;
    items.push_back(Value::text(from_right ? text.substr(at + separator.size()) : text.substr(0, at)));
    text = from_right ? text.substr(0, at) : text.substr(at + separator.size());
  }
  items.push_back(Value::text(text));
  return items;
}

template <bool kFromRight>
Value text_split(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "split", {"sep", "maxsplit"});
  const std::string& text = self.text();
  session.budget.charge(kElementWork * (text.size() + 1));
  const int64_t limit = p.integer(1, -1);
  Items items = p.given(0) ? split_at_text(text, p.text(0, ""), limit, kFromRight) : split_at_space(text, limit, kFromRight);
  if (kFromRight) std::reverse(items.begin(), items.end());
  return Value::list(std::move(items));
}

Value text_splitlines(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "splitlines", {"keepends"});
  const std::string& text = self.text();
  session.budget.charge(kElementWork * (text.size() + 1));
  Items items;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const CodeAt at = decode_utf8(text.data() + i, text.data() + text.size());
    const size_t end = i;
    i += static_cast<size_t>(at.bytes);
    const bool breaks = (at.code >= 0x0A && at.code <= 0x0D) || (at.code >= 0x1C && at.code <= 0x1E) || at.code == 0x85 ||
                        at.code == 0x2028 || at.code == 0x2029;
    if (!breaks) continue;
    if (at.code == '\r' && i < text.size() && text[i] == '\n') ++i;
    items.push_back(Value::text(text.substr(begin, (p.flag(0, false) ? i : end) - begin)));
    begin = i;
  }
  if (begin < text.size()) items.push_back(Value::text(text.substr(begin)));
  return Value::list(std::move(items));
}

template <bool kStart>
Value text_has_end(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, kStart ? "startswith" : "endswith", {"prefix"}, 1);
  const auto fits = [&](const Value& part) {
    if (!part.is_text()) refuse("startswith and endswith need text, not a {}", part.type_name());
    return kStart ? self.text().starts_with(part.text()) : self.text().ends_with(part.text());
  };
  if (!p[0]->is_sequence() || !p[0]->sequence()->is_tuple) return Value::boolean(fits(*p[0]));
  session.budget.charge_elements(p[0]->sequence()->items.size());
  return Value::boolean(std::any_of(p[0]->sequence()->items.begin(), p[0]->sequence()->items.end(), fits));
}

template <bool kStart>
Value text_without_end(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, kStart ? "removeprefix" : "removesuffix", {"part"}, 1);
  const std::string part = p.text(0, "");
  if (p[0]->is_none()) refuse("removeprefix and removesuffix need text");
  session.budget.charge(self.text().size());
  std::string_view text = self.text();
  if (kStart ? text.starts_with(part) : text.ends_with(part))
    text = kStart ? text.substr(part.size()) : text.substr(0, text.size() - part.size());
  return Value::text(text);
}

template <bool kFromRight>
Value text_partition(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "partition", {"sep"}, 1);
  Items parts = split_at_text(self.text(), p.text(0, ""), 1, kFromRight);
  session.budget.charge(self.text().size());
  if (parts.size() == 1) {
    parts.insert(kFromRight ? parts.begin() : parts.end(), 2, Value::text(""));
  } else {
    if (kFromRight) std::swap(parts[0], parts[1]);
    parts.insert(parts.begin() + 1, *p[0]);
  }
  return Value::list(std::move(parts), true);
}

Value text_replace(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "replace", {"old", "new", "count"}, 2);
  if (p[0]->is_none() || p[1]->is_none()) refuse("replace needs text");
  return Value::text(replaced(self.text(), p.text(0, ""), p.text(1, ""), p.integer(2, -1), session.budget));
}

// find, rfind, index and rindex: the position in characters.
template <bool kFromRight, bool kMust>
Value text_find(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "find", {"sub"}, 1);
  if (p[0]->is_none()) refuse("find needs text");
  session.budget.charge(2 * self.text().size());
  const std::string part = p.text(0, "");
  const size_t at = kFromRight ? self.text().rfind(part) : self.text().find(part);
  if (at == std::string::npos && kMust) refuse("the text does not hold \"{}\"", shortened(part));
  return Value::integer(
      at == std::string::npos ? -1 : static_cast<int64_t>(character_count(std::string_view(self.text()).substr(0, at))));
}

Value text_count(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "count", {"sub"}, 1);
  if (p[0]->is_none()) refuse("count needs text");
  const std::string part = p.text(0, "");
  session.budget.charge(self.text().size());
  if (part.empty()) return Value::integer(static_cast<int64_t>(character_count(self.text())) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = self.text().find(part, at)) != std::string::npos; at += part.size()) ++count;
  return Value::integer(count);
}

Value text_join(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "join", {"iterable"}, 1);
  std::string out;
  bool first = true;
  const SequencePtr all = items_of(*p[0], session);
  for (const Value& item : all->items) {
    if (!item.is_text()) refuse("join needs text, not a {}", item.type_name());
    session.budget.charge(self.text().size() + item.text().size() + kElementWork);
    if (!first) out += self.text();
    first = false;
    out += item.text();
  }
  return Value::text(std::move(out));
}

template <Case kCase>
Value text_case(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "upper", {});
  session.budget.charge(self.text().size());
  return Value::text(to_case(self.text(), kCase));
}

Value text_capitalize(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "capitalize", {});
  session.budget.charge(self.text().size());
  return Value::text(capitalised(self.text()));
}

void need_ascii(std::string_view text, std::string_view method) {
  if (std::any_of(text.begin(), text.end(), [](char c) { return (c & 0x80) != 0; }))
    refuse("unsupported: '{}' of text beyond ASCII", method);
}

bool is_letter(char c) {
  return static_cast<uint8_t>((c | 0x20) - 'a') < 26;
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Each run of letters begins with a capital.
Value text_title(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "title", {});
  need_ascii(self.text(), "title");
  session.budget.charge(self.text().size());
  std::string out = to_case(self.text(), Case::kLower);
  for (size_t i = 0; i < out.size(); ++i)
    if (is_letter(out[i]) && (i == 0 || !is_letter(out[i - 1]))) out[i] = static_cast<char>(out[i] - 32);
  return Value::text(std::move(out));
}

template <bool (*kIs)(char)>
Value text_all(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "isalpha", {});
  need_ascii(self.text(), "isalpha, isdigit or isalnum");
  session.budget.charge(self.text().size());
  return Value::boolean(!self.text().empty() && std::all_of(self.text().begin(), self.text().end(), kIs));
}

bool is_letter_or_digit(char c) {
  return is_letter(c) || is_digit(c);
}

Value text_isspace(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "isspace", {});
  session.budget.charge(self.text().size());
  return Value::boolean(!self.text().empty() && end_of_space(self.text(), 0) == self.text().size());
}

template <Case kCase>
Value text_is_case(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "isupper", {});
  return Value::boolean(apply_test(kCase == Case::kUpper ? "upper" : "lower", self, {}, session));
}

Value list_index(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "index", {"value"}, 1);
  const Items& items = self.sequence()->items;
  for (size_t i = 0; i < items.size(); ++i)
    if (equal(items[i], *p[0], session.budget)) return Value::integer(static_cast<int64_t>(i));
  refuse("the list does not hold the value");
}

Value list_count(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "count", {"value"}, 1);
  const Items& items = self.sequence()->items;
  return Value::integer(
      std::count_if(items.begin(), items.end(), [&](const Value& item) { return equal(item, *p[0], session.budget); }));
}

Value dict_get(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "get", {"key", "default"}, 1);
  if (p[0]->is_sequence() || p[0]->is_dict()) refuse("a {} cannot be the key of a dictionary", p[0]->type_name());
  if (const Value* found = self.dict().find(*p[0], session.budget)) return *found;
  return p[1] == nullptr ? Value::none() : *p[1];
}

enum class Part : uint8_t { kKeys, kValues, kItems };

template <Part kPart>
Value dict_parts(const Value& self, const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "items", {});
  Items items;
  session.budget.charge_elements(2 * self.dict().entries().size());
  for (const auto& [key, value] : self.dict().entries())
    items.push_back(kPart == Part::kKeys ? key : kPart == Part::kValues ? value : Value::list({key, value}, true));
  return Value::list(std::move(items));
}

constexpr std::array kTextMethods = {
    Row{"capitalize", text_capitalize},           Row{"count", text_count},
    Row{"endswith", text_has_end<false>},         Row{"find", text_find<false, false>},
    Row{"index", text_find<false, true>},         Row{"isalnum", text_all<is_letter_or_digit>},
    Row{"isalpha", text_all<is_letter>},          Row{"isdecimal", text_all<is_digit>},
    Row{"isdigit", text_all<is_digit>},           Row{"islower", text_is_case<Case::kLower>},
    Row{"isnumeric", text_all<is_digit>},         Row{"isspace", text_isspace},
    Row{"isupper", text_is_case<Case::kUpper>},   Row{"join", text_join},
    Row{"lower", text_case<Case::kLower>},        Row{"lstrip", text_strip<Side::kLeft>},
    Row{"partition", text_partition<false>},      Row{"removeprefix", text_without_end<true>},
    Row{"removesuffix", text_without_end<false>}, Row{"replace", text_replace},
    Row{"rfind", text_find<true, false>},         Row{"rindex", text_find<true, true>},
    Row{"rpartition", text_partition<true>},      Row{"rsplit", text_split<true>},
    Row{"rstrip", text_strip<Side::kRight>},      Row{"split", text_split<false>},
    Row{"splitlines", text_splitlines},           Row{"startswith", text_has_end<true>},
    Row{"strip", text_strip<Side::kBoth>},        Row{"title", text_title},
    Row{"upper", text_case<Case::kUpper>},
};
constexpr std::array kListMethods = {Row{"count", list_count}, Row{"index", list_index}};
constexpr std::array kDictMethods = {Row{"get", dict_get}, Row{"items", dict_parts<Part::kItems>},
                                     Row{"keys", dict_parts<Part::kKeys>}, Row{"values", dict_parts<Part::kValues>}};
// What Python has and this does not, so that its use is an error rather than undefined.
constexpr std::string_view kOtherTextMethods[] = {
    "casefold", "center",       "encode",      "expandtabs", "format", "format_map", "isascii",   "istitle",
    "ljust",    "isidentifier", "isprintable", "maketrans",  "rjust",  "swapcase",   "translate", "zfill"};
constexpr std::string_view kOtherListMethods[] = {"append", "clear",  "copy",    "extend", "insert",
                                                  "pop",    "remove", "reverse", "sort"};
constexpr std::string_view kOtherDictMethods[] = {"clear", "copy", "fromkeys", "pop", "popitem", "setdefault", "update"};

template <class Rows>
Method find_method(const Rows& rows, std::string_view name) {
  for (const Row& row : rows)
    if (row.first == name) return row.second;
  return nullptr;
}

Method method_of(const Value& self, std::string_view name) {
  if (self.is_text()) return find_method(kTextMethods, name);
  if (self.is_sequence()) return find_method(kListMethods, name);
  if (self.is_dict()) return find_method(kDictMethods, name);
  return nullptr;
}

template <size_t N>
bool is_among(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

Value loop_method(Loop* loop, std::string_view name, const Arguments& arguments, Session& session) {
  if (!arguments.named.empty()) refuse("loop.{} takes no named arguments", name);
  if (name == "cycle") {
    if (arguments.positional.empty()) refuse("loop.cycle needs a value");
    return arguments.positional[loop->index % arguments.positional.size()];
  }
  Value now = Value::list(arguments.positional, true);
  if (loop->changed.is_sequence() && equal(loop->changed, now, session.budget)) return Value::boolean(false);
  loop->changed = std::move(now);
  return Value::boolean(true);
}

Value function_range(const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "range", {"start", "stop", "step"}, 1);
  for (size_t i = 0; i < 3; ++i)
    if (p[i] != nullptr && p[i]->is_none()) refuse("range needs integers");
  const bool one = p[1] == nullptr;
  const int64_t start = one ? 0 : p.integer(0, 0), stop = p.integer(one ? 0 : 1, 0), step = p.integer(2, 1);
  if (step == 0) refuse("range has the step 0");
  constexpr size_t kMost = 100'000;  // the sandbox's own limit
  Items items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    session.budget.charge(kElementWork);
    if (items.size() >= kMost) refuse("range has more than {} elements", kMost);
    items.push_back(Value::integer(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return Value::list(std::move(items));
}

Value function_dict(const Arguments& arguments, Session& session) {
  Dict dict;
  if (arguments.positional.size() > 1) refuse("dict takes one argument without a name");
  if (!arguments.positional.empty()) {
    if (!arguments.positional[0].is_dict()) refuse("unsupported: dict of a {}", arguments.positional[0].type_name());
    session.budget.charge_elements(arguments.positional[0].dict().entries().size());
    dict = arguments.positional[0].dict();
  }
  for (const auto& [name, value] : arguments.named) dict.set(Value::text(name), value, session.budget);
  return Value::dict(std::move(dict));
}

Value function_namespace(const Arguments& arguments, Session& session) {
  const Value attributes = function_dict(arguments, session);
  Namespace& made = session.namespaces.emplace_back();
  for (const auto& [name, value] : attributes.dict().entries())
    if (name.is_text()) made.attributes.emplace_back(name.text(), value);
  return Value::Storage(&made);
}

Value function_raise(const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "raise_exception", {"message"}, 1);
  const std::string message = text_of(*p[0], session);
  refuse("raise_exception: {}", std::string_view(message).substr(0, 1000));
}

Value function_strftime(const Arguments& arguments, Session& session) {
  const Parameters p(arguments, "strftime_now", {"format"}, 1);
  const std::string format = p.text(0, "");
  if (format.size() > 200) refuse("unsupported: a format of more than 200 bytes for the time");
  const std::time_t now = session.now.value_or(std::time(nullptr));
  std::tm parts{};
  localtime_r(&now, &parts);
  char text[4096];
  return Value::text(std::string(text, std::strftime(text, sizeof(text), format.c_str(), &parts)));
}

constexpr std::array<std::pair<std::string_view, Value (*)(const Arguments&, Session&)>, 5> kFunctions = {{
    {"range", function_range},
    {"dict", function_dict},
    {"namespace", function_namespace},
    {"raise_exception", function_raise},
    {"strftime_now", function_strftime},
}};

}  // namespace

bool has_method(const Value& self, std::string_view name) {
  if (method_of(self, name) != nullptr) return true;
  return (self.is_text() && is_among(kOtherTextMethods, name)) || (self.is_sequence() && is_among(kOtherListMethods, name)) ||
         (self.is_dict() && is_among(kOtherDictMethods, name));
}

Value call_method(const Value& self, std::string_view name, const Arguments& arguments, Session& session) {
  if (self.is<Loop*>()) return loop_method(self.get<Loop*>(), name, arguments, session);
  const Method method = method_of(self, name);
  if (method == nullptr) refuse("unsupported method '{}' of a {}", shortened(name), self.type_name());
  return method(self, arguments, session);
}

bool is_function(std::string_view name) {
  return std::any_of(kFunctions.begin(), kFunctions.end(), [&](const auto& row) { return row.first == name; });
}

Value call_function(std::string_view name, const Arguments& arguments, Session& session) {
  for (const auto& [own, function] : kFunctions)
    if (own == name) return function(arguments, session);
  refuse("unsupported function '{}'", shortened(name));
}

}  // namespace rorqual::jinja
