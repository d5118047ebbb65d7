#include "grammar/json_schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "grammar/matcher_test_support.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

Matcher schema(const char* text) {
  return Matcher(json_schema_grammar(Json::parse(text)));
}

struct Case {
  const char* schema;
  std::vector<const char*> good, bad;
};

TEST(JsonSchema, TextsAreAcceptedAndRefused) {
  const std::vector<Case> cases = {
      {R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"],"additionalProperties":false})",
       {R"({"name":"A","age":3})", R"({ "name": "Zo\u00e9 \"x\" €",
  "age": -12 })"},
       {R"({"name":"A"})", R"({"age":3,"name":"A"})", R"({"name":"A","age":3,"b":1})", R"({"name":"A","age":3.5})",
        R"({"name":"A","age":03})", "{}", R"({"name":"A","age":3},)"}},
      {R"({"type":"object","properties":{"a":{"const":1},"b":{"const":2},"c":{"const":3}},"required":["b"]})",
       {R"({"b":2})", R"({"a":1,"b":2})", R"({"b":2,"c":3})", R"({"a":1,"b":2,"c":3})"},
       {"{}", R"({"a":1})", R"({,"b":2})", R"({"b":2,})", R"({"c":3,"b":2})", R"({"a":1"b":2})"}},
      {R"({"type":"object","properties":{"a":{"type":"null"}}})", {"{}", R"({"a":null})"}, {R"({"a":null,"a":null})", "{ , }"}},
      {R"({"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":3})",
       {"[true]", "[true, false,true]"},
       {"[]", "[true,true,true,true]", "[1]", "[true,]"}},
      {R"({"type":"array","items":{"type":"null"},"minItems":2})", {"[null,null]", "[null,null,null,null]"}, {"[null]", "[]"}},
      {R"({"type":"array","items":{"type":"null"},"maxItems":0})", {"[]", "[ ]"}, {"[null]"}},
      {R"({"prefixItems":[{"type":"integer"},{"type":"string"}],"items":false})",
       {R"([1,"a"])"},
       {"[1]", R"([1,"a",2])", R"(["a",1])"}},
      {R"({"enum":["red","gr\"een",3,null,{"a":[1]}]})",
       {R"("red")", R"("gr\"een")", "3", "null", R"({"a":[1]})"},
       {"red", "4", R"("blue")"}},
      {R"({"enum":["a",1],"type":"integer"})", {"1"}, {R"("a")"}},
      {R"({"type":["string","null"],"maxLength":2})", {"null", R"("")", R"("€\n")", R"("\u00e9x")"}, {R"("abc")", "1"}},
      {R"({"type":"string","minLength":2,"maxLength":3})", {R"("ab")", R"("a\"b")"}, {R"("a")", R"("abcd")"}},
      {R"({"type":"string","pattern":"^[a-c\"\\\\]+$"})",
       {R"("abc")", R"("a\"")", R"("\\")"},
       {R"("")", R"("d")", R"("a"b")", "\"\\\""}},
      {R"({"type":"string","pattern":"^\\d{4}-\\d{2}$"})", {R"("2026-11")"}, {R"("26-11")"}},
      {R"({"anyOf":[{"type":"integer"},{"type":"array","items":{"$ref":"#"}}]})",
       {"1", "[]", "[1,[2,[]]]"},
       {R"("a")", "[", "[1,[2]"}},
      {R"({"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{"left":{"$ref":"#/$defs/tree"},"v":{"type":"number"}},"required":["v"]}}})",
       {R"({"v":1})", R"({"left":{"left":{"v":-0.5e+10},"v":2},"v":3})"},
       {R"({"left":{},"v":1})", R"({"left":{"v":1}})"}},
      {R"({"type":"object","additionalProperties":{"type":"integer"}})",
       {"{}", R"({"x":1,"y":2})"},
       {R"({"x":"a"})", R"({x:1})"}},
      {R"({})",
       {"1", R"({"a":[1,2,{"b":null}]})", R"("x")", "-1.5E3", "true"},
       {"", "01", "1.", "tru", "[1,]", "{\"a\"}", "\"\t\""}},
      {R"({"allOf":[{"type":"null"}],"description":"nothing"})", {"null"}, {"0"}},
  };
  for (const Case& c : cases) {
    Matcher matcher = schema(c.schema);
    for (const char* text : c.good) {
      EXPECT_TRUE(Json::accept(text)) << text;
      EXPECT_TRUE(matches(matcher, text)) << c.schema << " should take " << text;
    }
    for (const char* text : c.bad) EXPECT_FALSE(matches(matcher, text)) << c.schema << " should refuse " << text;
  }
}

TEST(JsonSchema, AnyObjectTakesWhatAParserTakes) {
  Matcher matcher(json_object_grammar());
  EXPECT_TRUE(matches(matcher, R"({"a": {"b": [1, "x", null]}, "": -0.1})"));
  for (const char* text : {"[]", "1", "{", "{\"a\":1}}", "{'a':1}"}) EXPECT_FALSE(matches(matcher, text)) << text;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const std::string text = draw_text(matcher, seed, 1);
    const Json value = Json::parse(text, nullptr, false);
    ASSERT_TRUE(value.is_object()) << text;
  }
}

TEST(JsonSchema, DrawnTextsSatisfyTheSchema) {
  Matcher matcher = schema(
      R"({"type":"object","properties":{"id":{"type":"integer"},"tags":{"type":"array","items":{"type":"string","maxLength":5},"maxItems":3},
    "kind":{"enum":["a","b"]},"next":{"anyOf":[{"type":"null"},{"$ref":"#"}]}},"required":["id","kind"]})");
  const std::function<void(const Json&)> check = [&](const Json& v) {
    ASSERT_TRUE(v.is_object());
    for (const auto& [key, value] : v.items())
      ASSERT_TRUE(key == "id" || key == "tags" || key == "kind" || key == "next") << key;
    ASSERT_TRUE(v.contains("id") && v["id"].is_number_integer());
    ASSERT_TRUE(v.contains("kind") && (v["kind"] == "a" || v["kind"] == "b"));
    if (v.contains("tags")) {
      ASSERT_LE(v["tags"].size(), 3u);
      for (const Json& tag : v["tags"]) ASSERT_TRUE(tag.is_string());
    }
    if (v.contains("next") && !v["next"].is_null()) check(v["next"]);
  };
  size_t nested = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const std::string text = draw_text(matcher, seed, 1);
    const Json value = Json::parse(text, nullptr, false);
    ASSERT_FALSE(value.is_discarded()) << text;
    check(value);
    nested += value.contains("next") && value["next"].is_object();
  }
  EXPECT_GT(nested, 0u);
}

TEST(JsonSchema, NestingEndsWhereTheMatcherEnds) {
  Matcher matcher(json_object_grammar());
  std::string text = "{\"a\":";
  for (int i = 0; i < 2 * Matcher::kMostDepth; ++i) text += '[';
  Matcher::State state = matcher.start();
  for (const char c : text) state = matcher.next(state, static_cast<uint8_t>(c));
  EXPECT_EQ(state, Matcher::kDead);
}

TEST(JsonSchema, WhatIsNotSupportedIsNamed) {
  const auto message = [](const char* text) -> std::string {
    try {
      json_schema_grammar(Json::parse(text));
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kUsage);
      return e.what();
    }
    return "accepted";
  };
  EXPECT_THAT(message(R"({"type":"object","properties":{"a":{"type":"integer","minimum":3}}})"),
              testing::AllOf(testing::HasSubstr("minimum"), testing::HasSubstr("properties/a")));
  EXPECT_THAT(message(R"({"oneOf":[]})"), testing::HasSubstr("oneOf"));
  EXPECT_THAT(message(R"({"$ref":"#/$defs/none"})"), testing::HasSubstr("leads nowhere"));
  EXPECT_THAT(message(R"({"$ref":"#"})"), testing::HasSubstr("refers to itself"));
  EXPECT_THAT(message(R"({"anyOf":[{"$ref":"#"},{"type":"null"}]})"), testing::HasSubstr("refers to itself"));
  EXPECT_THAT(message(R"({"type":"object","required":["a"]})"), testing::HasSubstr("not declared"));
  for (const char* text :
       {"3", "false", R"({"type":"text"})", R"({"type":[]})", R"({"enum":[]})", R"({"enum":["a"],"type":"integer"})",
        R"({"type":"string","pattern":"a"})", R"({"type":"string","pattern":"^(?=a)$"})",
        R"({"type":"array","minItems":3,"maxItems":2})", R"({"type":"array","minItems":-1})",
        R"({"type":"string","maxLength":1e9})", R"({"const":1,"minLength":2})", R"({"$ref":"other.json"})",
        R"({"allOf":[{},{}]})", R"({"properties":[]})", R"({"type":"string","format":"date"})"})
    EXPECT_NE(message(text), "accepted") << text;
}

}  // namespace
}  // namespace rorqual
