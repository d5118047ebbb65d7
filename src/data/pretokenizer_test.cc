#include "data/pretokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "data/tokenizer_test_util.h"
#include "data/unicode.h"

namespace rorqual {
namespace {

using testing::ElementsAre;

std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> list;
  for_each_piece(text, [&](std::string_view piece) { list.emplace_back(piece); });
  return list;
}

TEST(Pretokenizer, TakesNumbersInThrees) {
  EXPECT_THAT(pieces("1234567"), ElementsAre("123", "456", "7"));
  EXPECT_THAT(pieces("1٣Ⅷ½2"), ElementsAre("1٣Ⅷ", "½2"));
  EXPECT_THAT(pieces("a12b"), ElementsAre("a", "12", "b"));
}

TEST(Pretokenizer, KeepsHanAndKanaApart) {
  EXPECT_THAT(pieces("a中文ー・ぁb"), ElementsAre("a", "中文ー", "・", "ぁ", "b"));  // the third split cuts again
  EXPECT_THAT(pieces("・゠\nぁ\u3040\u3040ぁ\u3040"), ElementsAre("・゠", "\n", "ぁ", "\u3040", "\u3040ぁ", "\u3040"));
  EXPECT_THAT(pieces(" 中"), ElementsAre(" ", "中"));
  EXPECT_THAT(pieces("龦龥"), ElementsAre("龦", "龥"));  // the range ends at U+9FA5
}

TEST(Pretokenizer, GivesWordsTheCharacterBeforeThem) {
  EXPECT_THAT(pieces("Hello world"), ElementsAre("Hello", " world"));
  EXPECT_THAT(pieces("\tfoo"), ElementsAre("\tfoo"));
  EXPECT_THAT(pieces(std::string_view("\0\0a", 3)), ElementsAre(std::string(1, '\0'), std::string("\0a", 2)));
  EXPECT_THAT(pieces("e\u0301a"), ElementsAre("e\u0301a"));
  EXPECT_THAT(pieces("\u0301"), ElementsAre("\u0301"));
  EXPECT_THAT(pieces("\u00ADx\u00AD\u00AD"), ElementsAre("\u00ADx", "\u00AD\u00AD"));
}

TEST(Pretokenizer, SignsTakeAsciiLettersOrNewlines) {
  EXPECT_THAT(pieces("don't"), ElementsAre("don", "'t"));
  EXPECT_THAT(pieces(".caf\u00E9"), ElementsAre(".caf", "\u00E9"));
  EXPECT_THAT(pieces(".\u00E9"), ElementsAre(".", "\u00E9"));
  EXPECT_THAT(pieces("--x"), ElementsAre("--", "x"));
  EXPECT_THAT(pieces("a !\n\r\nb"), ElementsAre("a", " !\n\r\n", "b"));
  EXPECT_THAT(pieces("  !"), ElementsAre(" ", " !"));
  EXPECT_THAT(pieces("\t!"), ElementsAre("\t", "!"));
  EXPECT_THAT(pieces("«x"), ElementsAre("«", "x"));
}

TEST(Pretokenizer, WhiteSpaceGivesTheLastCharacterToTheWord) {
  EXPECT_THAT(pieces("a   b"), ElementsAre("a", "  ", " b"));
  EXPECT_THAT(pieces("a   "), ElementsAre("a", "   "));
  EXPECT_THAT(pieces("a   1"), ElementsAre("a", "   ", "1"));  // the first split ends the text there
  EXPECT_THAT(pieces("a \n \n  b"), ElementsAre("a", " \n \n", " ", " b"));
  EXPECT_THAT(pieces(" \t!"), ElementsAre(" ", "\t", "!"));
}

TEST(Pretokenizer, WhiteSpaceIsUnicodesOwn) {
  EXPECT_THAT(pieces("\u0085\u0085!"), ElementsAre("\u0085", "\u0085", "!"));
  EXPECT_THAT(pieces("\uFEFF\uFEFF!"), ElementsAre("\uFEFF\uFEFF", "!"));  // matches nothing: one piece
  EXPECT_THAT(pieces("\u3000\u3000\n"), ElementsAre("\u3000\u3000\n"));
}

TEST(Pretokenizer, BytesThatAreNoUtf8StandAlone) {
  EXPECT_THAT(pieces("a\xFF\xC3 b"), ElementsAre("a", "\xFF", "\xC3", " b"));
  EXPECT_THAT(pieces("\xC0\x80"), ElementsAre("\xC0", "\x80"));                          // overlong
  EXPECT_THAT(pieces("\xED\xA0\x80"), ElementsAre("\xED", "\xA0", "\x80"));              // a surrogate
  EXPECT_THAT(pieces("\xF4\x90\x80\x80"), ElementsAre("\xF4", "\x90", "\x80", "\x80"));  // above U+10FFFF
  EXPECT_THAT(pieces("\xE4\xB8"), ElementsAre("\xE4", "\xB8"));                          // cut
}

TEST(Pretokenizer, PiecesAreTheTextAndNeverEmpty) {
  for (uint64_t i = 0; i < 500; ++i) {
    Draws draws(i);
    const std::string text = i % 2 ? random_text(draws, 60) : random_bytes(draws, 60);
    std::string joined;
    for_each_piece(text, [&](std::string_view piece) {
      EXPECT_FALSE(piece.empty());
      joined += piece;
    });
    EXPECT_EQ(joined, text) << "case " << i;
  }
}

TEST(Unicode, ClassesHoldTheEdgesOfTheTables) {
  EXPECT_EQ(kUnicodeVersion, "16.0.0");
  EXPECT_EQ(char_class(U'\u0085'), CharClass::kSpace);
  EXPECT_EQ(char_class(U'\uFEFF'), CharClass::kOther);
  EXPECT_EQ(char_class(U'\u180E'), CharClass::kOther);
  EXPECT_EQ(char_class(0x1C89), CharClass::kLetterMark);  // new in Unicode 16
  EXPECT_EQ(char_class(0x10FFFF), CharClass::kOther);
  EXPECT_EQ(char_class(0x3040), CharClass::kCjk);  // unassigned, but inside the range
  char32_t last = 0;
  for (const CharRange& range : unicode_ranges()) {
    EXPECT_LE(range.first, range.last);
    EXPECT_TRUE(last == 0 || range.first > last);
    last = range.last;
  }
  EXPECT_LT(last, char32_t{0x110000});
}

TEST(Unicode, Utf8RoundTripsEveryCodePoint) {
  for (char32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code <= 0xDFFF) continue;
    std::string text;
    append_utf8(code, text);
    const CodeAt at = decode_utf8(text.data(), text.data() + text.size());
    ASSERT_EQ(at.code, code);
    ASSERT_EQ(at.bytes, static_cast<int>(text.size()));
    ASSERT_TRUE(text.size() == 1 || decode_utf8(text.data(), text.data() + text.size() - 1).bytes == 0);
  }
}

}  // namespace
}  // namespace rorqual
