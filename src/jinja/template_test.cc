#include "jinja/template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;
using testing::AllOf;
using testing::HasSubstr;

std::string render(std::string_view text, const Json& variables = Json::object(), const JinjaOptions& options = {}) {
  return JinjaTemplate::parse(text, "test").render(variables, options);
}

std::string error_of(std::string_view text, const Json& variables = Json::object(), const JinjaOptions& options = {}) {
  try {
    return "no error but: " + render(text, variables, options);
  } catch (const Error& error) {
    return error.what();
  }
}

// Every case of the golden file: the text of Python's Jinja2, or an error that names the line where it has one.
TEST(JinjaTemplate, AgreesWithJinja2OnEveryGolden) {
  setenv("TZ", "UTC", 1);
  tzset();
  const Json golden = Json::parse(read_file("tests/golden/jinja/cases.json"));
  ASSERT_GT(golden["cases"].size(), 1000u);
  JinjaOptions options;
  options.now = golden["now"].get<std::time_t>();
  for (const Json& item : golden["cases"]) {
    const auto text = item["template"].get<std::string>();
    const Json& variables = item.contains("variables") ? item["variables"] : golden["variables"];
    if (item.contains("text")) {
      try {
        EXPECT_EQ(render(text, variables, options), item["text"].get<std::string>()) << text;
      } catch (const Error& error) {
        ADD_FAILURE() << text << "\n  " << error.what() << "\n  but Jinja2 renders " << item["text"];
      }
    } else {
      EXPECT_THAT(error_of(text, variables, options), testing::StartsWith("test:")) << text << "\n  Jinja2: " << item["error"];
    }
  }
}

TEST(JinjaTemplate, NamesLineAndConstruct) {
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"a\n{% include 'x' %}", {"test:2:", "unsupported statement 'include'"}},
      {"{% extends 'x' %}", {"test:1:", "'extends'"}},
      {"\n\n{{ 1|urlize }}", {"test:3:", "unsupported filter 'urlize'"}},
      {"{{ 1 is escaped }}", {"unsupported test 'escaped'"}},
      {"{{ 'a'.format(1) }}", {"unsupported method 'format' of a str"}},
      {"{{ '%s' % 1 }}", {"unsupported: formatting"}},
      {"{% for x in [] recursive %}{% endfor %}", {"unsupported: a recursive loop"}},
      {"{{ 0x1F }}", {"unsupported number"}},
      {"{{ 9223372036854775807 + 1 }}", {"unsupported: an integer beyond 64 bits"}},
      {"{{ 9223372036854775808 }}", {"unsupported: the integer"}},
      {"{{ '\xC3\x9F'|upper }}", {"unsupported: upper case", "U+00DF"}},
      {"{% if 1 %}\n{{ 'a' }\n", {"test:2:"}},
      {"{% if 1 %}\n\nx", {"test:1:", "endif"}},
      {"{{\n\nmissing.x }}", {"test:3:", "'missing' is undefined"}},
      {"\n{{ d.b.c }}", {"test:2:", "no attribute 'b'"}},
      {"{{ 1\n+ 'a' }}", {"'+' has no meaning between int and str"}},
      {"{{ raise_exception('roles must alternate') }}", {"test:1:", "roles must alternate"}},
      {"{{ joiner() }}", {"'joiner' is undefined"}},
      {"a\xFF", {"test:1:", "UTF-8", "0xff"}},
  };
  for (const auto& [text, words] : cases)
    for (const char* word : words) EXPECT_THAT(error_of(text, {{"d", Json::object()}}), HasSubstr(word)) << text;
}

TEST(JinjaTemplate, BoundsItsWork) {
  JinjaOptions little;
  little.work = 1 << 20;
  const std::string deep = "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}";
  const std::string wide = "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
  const std::pair<std::string, const char*> cases[] = {
      {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "more work"},
      {"{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "more work"},
      {"{{ 'a' * 1000000000000 }}", "more work"},
      {"{{ ([1] * 1000000000)|length }}", "more work"},
      {"{{ 'aaaa'|replace('', 'b' * 500000) }}", "more work"},
      {"{{ 'a' * 9223372036854775807 * 9 }}", "more work"},
      {"{{ 'ab' * 9223372036854775807 }}", "repeated"},
      {"{{ [1, 2] * 9223372036854775807 }}", "repeated"},
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deep"},
      {deep, "nested deeper"},
      {wide + "{{ ns.x }}", "more work"},
      {wide + "{{ ns.x|tojson }}", "more work"},
      {wide + "{{ ns.x == ns.x + [] }}{{ [ns.x] == [ns.x] }}", "more work"},
      {"{{ " + std::string(100'000, '(') + "1" + std::string(100'000, ')') + " }}", "nested deeper"},
      {"{{ " + std::string(100'000, '-') + "1 }}", "nested deeper"},
      {"{{ 1" +
           [] {
             std::string all;
             for (int i = 0; i < 10'000; ++i) all += " + 1";
             return all;
           }() +
           " }}",
       "steps in a row"},
  };
  for (const auto& [text, word] : cases)
    EXPECT_THAT(error_of(text, Json::object(), little), HasSubstr(word)) << text.substr(0, 100);
  std::string blocks;
  for (int i = 0; i < 10'000; ++i) blocks += "{% if 1 %}";
  EXPECT_THAT(error_of(blocks), HasSubstr("nested deeper"));
  EXPECT_EQ(render(wide + "{{ ns.x is defined }}", Json::object(), little), "True");
}

TEST(JinjaTemplate, TakesNamespacesAndMacrosThatHoldEachOther) {
  EXPECT_EQ(render("{% set a = namespace() %}{% set a.b = a %}{% macro m() %}{{ a.b.b is defined }}{% endmacro %}"
                   "{% set a.m = m %}{{ a.m() }}"),
            "True");
  EXPECT_EQ(render("{% set ns = namespace() %}{% for x in [1, 2] %}{% set ns.l = loop %}{% set ns.s = 'a'.upper %}{% endfor %}"
                   "{{ ns.l.index }}{{ ns.s() }}"),
            "3A");
}

TEST(JinjaTemplate, RefusesVariablesThatAreNoJson) {
  EXPECT_THAT(error_of("", {{"x", 18446744073709551615u}}), HasSubstr("above 2^63"));
  EXPECT_THAT(error_of("", {{"x", "\xFF"}}), HasSubstr("UTF-8"));
  Json deep = 1;
  for (int i = 0; i < 1000; ++i) deep = Json::array({deep});
  EXPECT_THAT(error_of("", {{"x", deep}}), HasSubstr("nested deeper"));
}

}  // namespace
}  // namespace rorqual
