#include "serve/tool_calls.h"

#include <gtest/gtest.h>

namespace rorqual {
namespace {

const std::string kV3Text =
    "Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"Bergen\"}\n"
    "```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>time\n```json\n{}\n```<｜tool▁call▁end｜><"
    "｜tool▁calls▁end｜>";
const std::string kV31Text =
    "Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Bergen\"}<｜tool▁call▁end｜>"
    "<｜tool▁call▁begin｜>time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";

ToolCallParser::Output parse(const std::string& text, size_t piece) {
  ToolCallParser parser;
  ToolCallParser::Output all;
  for (size_t i = 0; i < text.size(); i += piece) {
    const auto out = parser.add(std::string_view(text).substr(i, piece), i + piece >= text.size());
    all.content += out.content;
    all.calls.insert(all.calls.end(), out.calls.begin(), out.calls.end());
  }
  return all;
}

TEST(ToolCalls, BothFormsInPiecesOfAnySize) {
  for (const std::string& text : {kV3Text, kV31Text}) {
    for (size_t piece = 1; piece <= text.size(); ++piece) {
      const auto out = parse(text, piece);
      ASSERT_EQ(out.content, "Let me look.") << piece;
      ASSERT_EQ(out.calls.size(), 2U) << piece;
      EXPECT_EQ(out.calls[0].name, "weather");
      EXPECT_EQ(out.calls[0].arguments, "{\"city\": \"Bergen\"}");
      EXPECT_EQ(out.calls[1].name, "time");
      EXPECT_EQ(out.calls[1].arguments, "{}");
    }
  }
}

TEST(ToolCalls, TextThatOnlyLooksLikeACallIsContent) {
  EXPECT_EQ(parse("a <｜tool▁", 3).content, "a <｜tool▁");
  EXPECT_EQ(parse("plain", 2).content, "plain");
  const auto cut = parse("x<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"ci", 4);
  EXPECT_TRUE(cut.calls.empty());
  EXPECT_EQ(cut.content, "x<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"ci");
  const auto nameless = parse("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>", 5);
  EXPECT_TRUE(nameless.calls.empty());
  EXPECT_EQ(nameless.content, "<｜tool▁call▁begin｜>{}<｜tool▁call▁end｜>");
}

TEST(ToolCalls, AForcedCallIsParsedFromItsPrefixOn) {
  for (const ToolFormat format : {ToolFormat::kV3, ToolFormat::kV31}) {
    ToolCallParser parser;
    const auto nothing = parser.add(forced_tool_call(format, "weather"), false);
    EXPECT_TRUE(nothing.content.empty() && nothing.calls.empty());
    const auto out = parser.add("{}" + end_of_tool_call(format), true);
    ASSERT_EQ(out.calls.size(), 1U);
    EXPECT_EQ(out.calls[0].name, "weather");
    EXPECT_EQ(out.calls[0].arguments, "{}");
  }
}

}  // namespace
}  // namespace rorqual
