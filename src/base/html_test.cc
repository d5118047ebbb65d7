#include "base/html.h"

#include <gtest/gtest.h>

namespace rorqual {
namespace {

TEST(Html, TextCannotBecomeMarkup) {
  EXPECT_EQ(escape_html("<b a=\"1\">R&D</b>"), "&lt;b a=&quot;1&quot;&gt;R&amp;D&lt;/b&gt;");
  EXPECT_EQ(escape_html(std::string_view("a\0b\x1b\n\té", 8)), "a b \n\té");
}

TEST(Html, JsonCannotEndItsScript) {
  EXPECT_EQ(json_for_script(R"({"a":"</script><!--"})"), R"({"a":"\u003c/script>\u003c!--"})");
}

TEST(Html, FillsNamesOnce) {
  EXPECT_EQ(fill_template("{{a}}, {{b}}{{a}}.", {{"a", "{{b}}"}, {"b", "x"}}), "{{b}}, x{{b}}.");
  EXPECT_EQ(fill_template("plain", {}), "plain");
  EXPECT_DEATH(fill_template("{{c}}", {{"a", ""}}), "no value for \\{\\{c\\}\\}");
  EXPECT_DEATH(fill_template("{{a", {{"a", ""}}), "CHECK|close");
}

}  // namespace
}  // namespace rorqual
