#include "base/svg.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rorqual {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Svg, WritesWhatIsDrawn) {
  Svg svg(200, 100.5, "loads <before> & after");
  svg.rect({.x = 1, .y = 2.25, .width = 30.126, .height = 4, .fill = "#123456", .radius = 2, .tooltip = "a<b"});
  svg.rect({.x = -0.001, .width = 1, .height = 1, .stroke = "#fff"});
  svg.line(0, 1, 2, 3, SvgColor::kGrid, 0.5);
  svg.text({.x = 5, .y = 6, .anchor = "end", .bold = true}, "F0.3&B1.1");
  const std::string text = svg.finish();
  EXPECT_THAT(text, HasSubstr(R"(width="200" height="100.5" viewBox="0 0 200 100.5")"));
  EXPECT_THAT(text, HasSubstr("<title>loads &lt;before&gt; &amp; after</title>"));
  EXPECT_THAT(text, HasSubstr(R"(<rect x="1" y="2.25" width="30.13" height="4" fill="#123456" rx="2"><title>a&lt;b</title>)"));
  EXPECT_THAT(text, HasSubstr(R"(<rect x="0" y="0" width="1" height="1" fill="#4c8dd6" stroke="#fff"/>)"));
  EXPECT_THAT(text, HasSubstr(R"(<line x1="0" y1="1" x2="2" y2="3" stroke="#dfe4ea" stroke-width="0.5"/>)"));
  EXPECT_THAT(text, HasSubstr(R"(text-anchor="end" font-weight="600">F0.3&amp;B1.1</text>)"));
  EXPECT_TRUE(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
  EXPECT_THAT(text, Not(HasSubstr("F0.3&B")));
}

TEST(AxisStep, IsTheLeastRoundOneThatIsNotTooMany) {
  EXPECT_DOUBLE_EQ(axis_step(10, 10), 1);
  EXPECT_DOUBLE_EQ(axis_step(10.1, 10), 2);
  EXPECT_DOUBLE_EQ(axis_step(21, 10), 5);
  EXPECT_DOUBLE_EQ(axis_step(51, 10), 10);
  EXPECT_DOUBLE_EQ(axis_step(0.0099, 12), 0.001);
  for (double length = 1e-7; length < 1e7; length *= 1.37) {
    EXPECT_LE(length / axis_step(length, 6), 6 * (1 + 1e-12));
    EXPECT_GT(length / axis_step(length, 6), 6 / 2.5 * (1 - 1e-12));
  }
  EXPECT_DEATH(axis_step(0, 3), "0 in 3 parts");
}

}  // namespace
}  // namespace rorqual
