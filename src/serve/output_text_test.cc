#include "serve/output_text.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/rng.h"

namespace rorqual {
namespace {

TEST(OutputText, ShowsWholeCharacters) {
  OutputText t({});
  t.add("a\xc3");
  EXPECT_EQ(t.take(false), "a");
  t.add("\xa9\xe2\x82");
  EXPECT_EQ(t.take(false), "\xc3\xa9");
  EXPECT_EQ(t.take(true), "\xEF\xBF\xBD\xEF\xBF\xBD") << "what never became whole";
  OutputText u({});
  u.add("\xff!");
  EXPECT_EQ(u.take(false), "\xEF\xBF\xBD!");
}

TEST(OutputText, HoldsBackWhatCouldStop) {
  OutputText t({"END", "\n\n"});
  EXPECT_FALSE(t.add("one\n"));
  EXPECT_EQ(t.take(false), "one");
  EXPECT_FALSE(t.add("two E"));
  EXPECT_EQ(t.take(false), "\ntwo ");
  EXPECT_FALSE(t.add("N"));
  EXPECT_EQ(t.take(false), "");
  EXPECT_TRUE(t.add("D of it END"));
  EXPECT_EQ(t.take(false), "");
  EXPECT_TRUE(t.add("more"));
  EXPECT_EQ(t.take(true), "");
  EXPECT_THROW(OutputText({""}), Error);
}

// However a text is cut into pieces, what is shown is the text before the first stop string.
TEST(OutputText, PiecesDoNotMatter) {
  const std::string text =
      "abababcabcab\xc3\xa9"
      "c\xe2\x82\xac"
      "bca";
  const std::vector<std::vector<std::string>> stops = {{},
                                                       {"abc"},
                                                       {"ca", "bab"},
                                                       {"\xa9"},
                                                       {"zz",
                                                        "\xe2\x82\xac"
                                                        "b"}};
  for (size_t which = 0; which < stops.size(); ++which) {
    size_t first = text.size();
    for (const std::string& s : stops[which]) first = std::min(first, text.find(s));
    for (uint64_t round = 0; round < 200; ++round) {
      OutputText t(stops[which]);
      std::string shown;
      bool stopped = false;
      for (size_t at = 0; at < text.size() && !stopped;) {
        const size_t n = 1 + random_below({.seed = round}, at, 4);
        stopped = t.add(std::string_view(text).substr(at, n));
        at += n;
        shown += t.take(false);
      }
      shown += t.take(true);
      EXPECT_EQ(stopped, first < text.size());
      EXPECT_EQ(shown, valid_utf8(text.substr(0, first)));
    }
  }
}

}  // namespace
}  // namespace rorqual
