#include "serve/token_constraint.h"

#include <gtest/gtest.h>

#include "data/tokenizer_test_util.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"

namespace rorqual {
namespace {

std::shared_ptr<const TokenTree> tree() {
  static const auto tree = std::make_shared<const TokenTree>(deepseek());
  return tree;
}
std::shared_ptr<TokenGrammar> grammar(std::string_view pattern) {
  return std::make_shared<TokenGrammar>(make_grammar({parse_regex(pattern)}), tree());
}
std::vector<uint64_t> allowed(const Constraint& c) {
  std::vector<uint64_t> mask((static_cast<size_t>(deepseek().vocab_size()) + 63) / 64, ~uint64_t{0});
  c.restrict_tokens(mask);
  return mask;
}
bool has(const std::vector<uint64_t>& mask, int32_t token) {
  return mask[static_cast<size_t>(token) / 64] >> (token % 64) & 1;
}

// The mask against following each entry's bytes on its own.
TEST(TokenConstraint, MaskHoldsJustTheEntriesThatMayFollow) {
  for (const char* pattern : {"(yes|no)!?", "[a-z]+ [0-9]{2,3}", "\\s*[A-Z]\\w*", "(€|\\n)+"}) {
    const auto g = grammar(pattern);
    Matcher truth(make_grammar({parse_regex(pattern)}));
    const auto mask = allowed(*make_constraint(g));
    int64_t count = 0;
    for (int32_t id = 0; id < deepseek().vocab_size(); ++id) {
      if (deepseek().is_added(id)) {
        ASSERT_FALSE(has(mask, id)) << deepseek().token(id);
        continue;
      }
      Matcher::State state = truth.start();
      for (const char c : deepseek().token(id)) state = truth.next(state, static_cast<uint8_t>(c));
      ASSERT_EQ(has(mask, id), state != Matcher::kDead) << pattern << ": " << deepseek().token(id);
      count += has(mask, id);
    }
    EXPECT_GT(count, 0) << pattern;
  }
}

TEST(TokenConstraint, TheEndIsAllowedWhereTheTextMayEnd) {
  const auto constraint = make_constraint(grammar("ab|abc"));
  const int32_t end = *deepseek().eos_id();
  EXPECT_FALSE(has(allowed(*constraint), end));
  for (const int32_t id : deepseek().encode("ab")) constraint->accept(id);
  EXPECT_TRUE(has(allowed(*constraint), end));
  EXPECT_FALSE(constraint->finished());
  const auto copy = constraint->clone();
  copy->accept(deepseek().encode("c").front());
  EXPECT_TRUE(copy->finished());
  EXPECT_FALSE(constraint->finished()) << "the copy goes its own way";
  copy->accept(end);
  EXPECT_EQ(allowed(*copy), std::vector<uint64_t>(allowed(*copy).size(), 0)) << "nothing follows what should not have come";
}

// Draws tokens at random among those allowed: the text is JSON whenever the end is reached.
TEST(TokenConstraint, RandomTokensMakeValidJson) {
  const auto schema = nlohmann::ordered_json::parse(
      R"({"type":"object","properties":{"title":{"type":"string","maxLength":12},"ok":{"type":"boolean"},"n":{"type":"array","items":{"type":"integer"},"maxItems":2}},"required":["title","n"]})");
  const auto g = std::make_shared<TokenGrammar>(json_schema_grammar(schema), tree());
  for (uint64_t sample = 0; sample < 20; ++sample) {
    Draws draws(sample);
    const auto constraint = make_constraint(g);
    std::string text;
    while (!constraint->finished()) {
      const auto mask = allowed(*constraint);
      std::vector<int32_t> choice;
      for (int32_t id = 0; id < deepseek().vocab_size(); ++id)
        if (has(mask, id)) choice.push_back(id);
      ASSERT_FALSE(choice.empty()) << text;
      const int32_t id = choice[draws.below(choice.size())];
      if (id == deepseek().eos_id()) break;
      text += deepseek().token(id);
      constraint->accept(id);
    }
    const auto value = nlohmann::json::parse(text, nullptr, false);
    ASSERT_TRUE(value.is_object()) << text;
    EXPECT_TRUE(value["title"].is_string() && value["n"].is_array() && value["n"].size() <= 2) << text;
  }
}

}  // namespace
}  // namespace rorqual
