#include "base/config_file.h"

#include <gtest/gtest.h>

#include "base/edit_distance.h"
#include "base/error.h"

namespace rorqual {
namespace {

struct Config {
  int64_t count = 1;
  double rate = 0.1;
  bool on = false;
  std::string word = "a";
  std::vector<std::string> words;
};

ConfigKeys keys_of(Config& c) {
  return config_keys(c, [](Config& config, auto&& visit) {
    visit("count", config.count, "how many");
    visit("table.rate", config.rate, "how fast");
    visit("table.inner.on", config.on, "whether");
    visit("table.word", config.word, "which");
    visit("table.words", config.words, "which ones");
  });
}

template <class Run>
std::string message_of(const Run& run) {
  try {
    run();
    return "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    return e.what();
  }
}

TEST(ConfigFile, ReadsWhatItPrints) {
  Config c{7, 1.0 / 3, true, "quote \" and ü\n", {"x", "y z"}};
  const std::string text = print_config(keys_of(c));
  Config again;
  read_config(text, "printed", keys_of(again), "");
  EXPECT_EQ(print_config(keys_of(again)), text);
  EXPECT_EQ(again.rate, c.rate);
  EXPECT_EQ(again.word, c.word);
  EXPECT_EQ(again.words, c.words);
  EXPECT_NE(text.find("[table]\nrate = "), std::string::npos) << text;
  EXPECT_NE(text.find("inner.on = true"), std::string::npos) << text;
}

TEST(ConfigFile, KeepsWhatTheTextDoesNotName) {
  Config c;
  c.count = 9;
  read_config("[table]\nrate = 2", "t", keys_of(c), "");
  set_config("table.word=bare", keys_of(c), "");
  EXPECT_EQ(c.count, 9);
  EXPECT_EQ(c.rate, 2);
  EXPECT_EQ(c.word, "bare");
}

TEST(ConfigFile, MistakesAreNamed) {
  Config c;
  const ConfigKeys keys = keys_of(c);
  const auto read = [&](const std::string& text) {
    return message_of([&] { read_config(text, "f.toml", keys, "See there."); });
  };
  EXPECT_EQ(read("count = 1\n[table]\nrat = 1"), "f.toml:3: unknown key 'table.rat'; did you mean 'table.rate'? See there.");
  EXPECT_EQ(read("\ncount = 1.5"), "f.toml:2: key 'count' takes an integer");
  EXPECT_EQ(read("table.rate = inf"), "f.toml:1: key 'table.rate' takes a number");
  EXPECT_EQ(read("table.words = [\"a\", 1]"), "f.toml:1: key 'table.words' takes a list of strings");
  EXPECT_TRUE(read("count = ").starts_with("f.toml:1: not valid TOML")) << read("count = ");
  EXPECT_EQ(message_of([&] { set_config("count", keys, ""); }), "--set count: write key=value");
  EXPECT_EQ(c.count, 1);
  EXPECT_EQ(c.rate, 0.1);
  EXPECT_TRUE(c.words.empty());
}

TEST(EditDistance, CountsChangesAdditionsAndLosses) {
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("flaw", "lawn"), 2u);
  EXPECT_EQ(edit_distance("same", "same"), 0u);
}

}  // namespace
}  // namespace rorqual
