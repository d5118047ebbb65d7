// The tests behind "is".
#include <algorithm>
#include <array>

#include "data/unicode.h"
#include "jinja/builtins.h"

namespace rorqual::jinja {
namespace {

using Test = bool (*)(const Value& value, const Parameters& arguments, Session& session);

struct Row {
  std::string_view name;
  size_t arguments;
  Test test;
};

bool is_iterable(const Value& value) {
  return value.is_text() || value.is_sequence() || value.is_dict() || value.is_undefined() || value.is<Loop*>();
}

// Python's isupper and islower: letters of one case, and at least one of them.
bool is_cased(const Value& value, Case wanted, Session& session) {
  const std::string text = text_of(value, session);
  const std::string upper = to_case(text, Case::kUpper), lower = to_case(text, Case::kLower);
  return upper != lower && text == (wanted == Case::kUpper ? upper : lower);
}

// Of numbers that are not whole neither is true.
bool has_remainder(const Value& value, double wanted, std::string_view test, Session& session) {
  if (!value.is_numeric()) refuse("'{}' needs a number, not a {}", test, value.type_name());
  return binary("%", value, Value(int64_t{2}), session).number() == wanted;
}

bool same(const Value& a, const Value& b, Session& session) {
  if (a.storage().index() != b.storage().index()) return false;
  if (a.is_sequence()) return a.sequence() == b.sequence();
  if (a.is_dict()) return &a.dict() == &b.dict();
  return equal(a, b, session.budget);
}

#define RORQUAL_TEST(expression) \
  [](const Value& v, [[maybe_unused]] const Parameters& a, [[maybe_unused]] Session& s) -> bool { return expression; }

constexpr std::array kTests = {
    Row{"defined", 0, RORQUAL_TEST(!v.is_undefined())},
    Row{"undefined", 0, RORQUAL_TEST(v.is_undefined())},
    Row{"none", 0, RORQUAL_TEST(v.is_none())},
    Row{"boolean", 0, RORQUAL_TEST(v.is<bool>())},
    Row{"true", 0, RORQUAL_TEST(v.is<bool>() && v.get<bool>())},
    Row{"false", 0, RORQUAL_TEST(v.is<bool>() && !v.get<bool>())},
    Row{"integer", 0, RORQUAL_TEST(v.is<int64_t>())},
    Row{"float", 0, RORQUAL_TEST(v.is<double>())},
    Row{"number", 0, RORQUAL_TEST(v.is_numeric())},
    Row{"string", 0, RORQUAL_TEST(v.is_text())},
    Row{"mapping", 0, RORQUAL_TEST(v.is_dict())},
    Row{"iterable", 0, RORQUAL_TEST(is_iterable(v))},
    Row{"sequence", 0, RORQUAL_TEST(v.is_text() || v.is_sequence() || v.is_dict() || v.is_undefined())},
    Row{"callable", 0, RORQUAL_TEST(v.is<std::shared_ptr<const Callable>>() || v.is_undefined())},
    Row{"odd", 0, RORQUAL_TEST(has_remainder(v, 1, "odd", s))},
    Row{"even", 0, RORQUAL_TEST(has_remainder(v, 0, "even", s))},
    Row{"divisibleby", 1, RORQUAL_TEST(binary("%", v, *a[0], s).number() == 0)},
    Row{"upper", 0, RORQUAL_TEST(is_cased(v, Case::kUpper, s))},
    Row{"lower", 0, RORQUAL_TEST(is_cased(v, Case::kLower, s))},
    Row{"in", 1, RORQUAL_TEST(contains(*a[0], v, s))},
    Row{"sameas", 1, RORQUAL_TEST(same(v, *a[0], s))},
    Row{"eq", 1, RORQUAL_TEST(equal(v, *a[0], s.budget))},
    Row{"equalto", 1, RORQUAL_TEST(equal(v, *a[0], s.budget))},
    Row{"==", 1, RORQUAL_TEST(equal(v, *a[0], s.budget))},
    Row{"ne", 1, RORQUAL_TEST(!equal(v, *a[0], s.budget))},
    Row{"!=", 1, RORQUAL_TEST(!equal(v, *a[0], s.budget))},
    Row{"lt", 1, RORQUAL_TEST(compare(v, *a[0], s.budget) < 0)},
    Row{"<", 1, RORQUAL_TEST(compare(v, *a[0], s.budget) < 0)},
    Row{"lessthan", 1, RORQUAL_TEST(compare(v, *a[0], s.budget) < 0)},
    Row{"le", 1, RORQUAL_TEST(compare(v, *a[0], s.budget) <= 0)},
    Row{"<=", 1, RORQUAL_TEST(compare(v, *a[0], s.budget) <= 0)},
    Row{"gt", 1, RORQUAL_TEST(compare(v, *a[0], s.budget) > 0)},
    Row{">", 1, RORQUAL_TEST(compare(v, *a[0], s.budget) > 0)},
    Row{"greaterthan", 1, RORQUAL_TEST(compare(v, *a[0], s.budget) > 0)},
    Row{"ge", 1, RORQUAL_TEST(compare(v, *a[0], s.budget) >= 0)},
    Row{">=", 1, RORQUAL_TEST(compare(v, *a[0], s.budget) >= 0)},
    Row{"filter", 0, RORQUAL_TEST(v.is_text() && is_filter(v.text()))},
    Row{"test", 0, RORQUAL_TEST(v.is_text() && is_test(v.text()))},
};

#undef RORQUAL_TEST

const Row* find_test(std::string_view name) {
  const auto found = std::find_if(kTests.begin(), kTests.end(), [&](const Row& row) { return row.name == name; });
  return found == kTests.end() ? nullptr : &*found;
}

}  // namespace

bool is_test(std::string_view name) {
  return find_test(name) != nullptr;
}

bool apply_test(std::string_view name, const Value& value, const Arguments& arguments, Session& session) {
  const Row* row = find_test(name);
  if (row == nullptr) refuse("unsupported test '{}'", shortened(name));
  if (row->arguments == 0) return row->test(value, Parameters(arguments, name, {}), session);
  return row->test(value, Parameters(arguments, name, {"other"}, 1), session);
}

}  // namespace rorqual::jinja
