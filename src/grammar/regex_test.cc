#include "grammar/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "base/error.h"
#include "grammar/matcher_test_support.h"

namespace rorqual {
namespace {

Matcher matcher_of(std::string_view pattern) {
  return Matcher(make_grammar({parse_regex(pattern)}));
}

// Every text of up to `length` letters of the alphabet.
std::vector<std::string> all_texts(std::string_view alphabet, int length) {
  std::vector<std::string> out = {""};
  for (size_t begin = 0; length > 0; --length) {
    const size_t end = out.size();
    for (size_t i = begin; i < end; ++i)
      for (const char c : alphabet) out.push_back(out[i] + c);
    begin = end;
  }
  return out;
}

TEST(Regex, AgreesWithTheStandardLibrary) {
  const std::vector<std::string> texts = all_texts("ab1.", 6);
  for (const char* pattern :
       {"",          "a",    "ab|b",       "(a|b)*1",        "a{2}b{0,2}", "a{1,}",        "(ab){2,3}",     "[ab]+",
        "[^ab]",     "a.*",  "a.b",        "\\d+(\\.\\d+)?", "(a*)*b",     "(a|ab)(b|)",   "((a?b){2}|1)*", "\\w*\\W",
        "[a-b1]{3}", "a??b", "(?:a|b)+?1", "^a*$",           "[.]|\\.\\.", "(|a)(b|1){2}", "[^1]*1[^1]*"}) {
    Matcher matcher = matcher_of(pattern);
    const std::regex truth(pattern);
    size_t count = 0;
    for (const std::string& text : texts) {
      const bool expected = std::regex_match(text, truth);
      count += expected;
      ASSERT_EQ(matches(matcher, text), expected) << pattern << " on '" << text << "'";
    }
    EXPECT_GT(count, 0u) << pattern;
    EXPECT_LT(count, texts.size()) << pattern;
  }
}

TEST(Regex, CharactersAreUnicode) {
  Matcher any = matcher_of("^.$");
  for (const char* text : {"a", "é", "€", "𝄞", "\x7f", "\u0800", "\uffff", "\U0010ffff"})
    EXPECT_TRUE(matches(any, text)) << text;
  // A lone continuation, an overlong sequence, a surrogate, beyond the last character, two characters, a line feed.
  for (const char* text :
       {"\x80", "\xc0\xaf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "aa", "\n", "\xc3"})
    EXPECT_FALSE(matches(any, text)) << text;
  Matcher greek = matcher_of("[α-ω]+\\u20ac");
  EXPECT_FALSE(matches(greek, "λόγος€")) << "ό lies beyond ω";
  EXPECT_TRUE(matches(greek, "λγσ€"));
  EXPECT_FALSE(matches(greek, "Λ€"));
}

// Each range of code points, against encoding every character of it.
TEST(Regex, RangesHoldJustTheirCharacters) {
  const auto encode = [](char32_t c) {
    std::string out;
    const auto add = [&](char32_t b) { out += static_cast<char>(b); };
    if (c < 0x80) return add(c), out;
    if (c < 0x800) return add(0xc0 | c >> 6), add(0x80 | (c & 63)), out;
    if (c < 0x10000) return add(0xe0 | c >> 12), add(0x80 | (c >> 6 & 63)), add(0x80 | (c & 63)), out;
    return add(0xf0 | c >> 18), add(0x80 | (c >> 12 & 63)), add(0x80 | (c >> 6 & 63)), add(0x80 | (c & 63)), out;
  };
  for (const CharacterRange r : {CharacterRange{0x7e, 0x81},
                                 {0x7ff, 0x801},
                                 {0x3c, 0x7a1},
                                 {0xd7fe, 0xe001},
                                 {0x1234, 0x5678},
                                 {0xfffe, 0x10401},
                                 {0x10000, 0x10ffff}}) {
    Matcher matcher(make_grammar({characters({r})}));
    const char32_t step = (r.last - r.first) / 4000 + 1;
    for (char32_t c = r.first > 70 ? r.first - 70 : 0; c <= std::min<char32_t>(r.last + 70, kLastCharacter);
         c += c + 70 > r.first && c < r.first + 70 ? 1 : step) {
      const bool expected = c >= r.first && c <= r.last && (c < 0xd800 || c > 0xdfff);
      ASSERT_EQ(matches(matcher, encode(c)), expected) << std::hex << static_cast<uint32_t>(c);
    }
  }
}

TEST(Regex, DrawnTextsMatch) {
  for (const char* pattern : {"(\\d{1,3}\\.){3}\\d{1,3}", "[A-Z][a-z]+( [A-Z]\\.)?", "(yes|no|maybe)(, (yes|no))*"}) {
    Matcher matcher = matcher_of(pattern);
    const std::regex truth(pattern);
    for (uint64_t seed = 0; seed < 50; ++seed) {
      const std::string text = draw_text(matcher, seed, 3);
      EXPECT_TRUE(std::regex_match(text, truth)) << pattern << " drew '" << text << "'";
    }
  }
}

TEST(Regex, WhatIsNotKnownIsRefusedWithItsColumn) {
  const auto message = [](const std::string& pattern) -> std::string {
    try {
      make_grammar({parse_regex(pattern)});
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kUsage);
      return e.what();
    }
    return "accepted";
  };
  EXPECT_THAT(message("a(?=b)"), testing::HasSubstr("column 4"));
  for (const char* pattern : {"(a",      "a)",       "[a",          "*a",     "a**",     "a{2",  "a{3,2}",
                              "a\\",     "\\b",      "(a)\\1",      "\\p{L}", "a$b",     "a^",   "[z-a]",
                              "[\\d-z]", "a{99999}", "[[:alpha:]]", "\\xg0",  "(?<n>a)", "\xff", "((((a{1000}){1000}){10}))"})
    EXPECT_NE(message(pattern), "accepted") << pattern;
  EXPECT_THAT(message(std::string(100, '(') + "a" + std::string(100, ')')), testing::HasSubstr("nested"));
}

}  // namespace
}  // namespace rorqual
