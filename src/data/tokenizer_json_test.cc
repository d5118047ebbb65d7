// What tokenizer.json may hold and what it may not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/tokenizer_impl.h"
#include "data/tokenizer_test_util.h"

namespace rorqual {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

// Bytes only, "hello" merged, and the specials.
json small_json() {
  static const std::string text = [] {
    const std::vector<std::string_view> documents = {"hello hello"};
    ThreadPool pool(1);
    return train_tokenizer({.vocab_size = 300}, documents, Stream(pool)).tokenizer_json();
  }();
  return json::parse(text);
}

Tokenizer parse(const json& root, const std::string& config = "") {
  return Tokenizer::parse(root.dump(), config, "dir");
}
std::string refusal(const json& root, const std::string& config = "") {
  return message_of([&] { parse(root, config); });
}

TEST(TokenizerJson, ReadsBothFormsOfMerges) {
  json pairs = small_json();
  for (json& merge : pairs["model"]["merges"]) {
    const auto text = merge.get<std::string>();
    const size_t space = text.find(' ');
    merge = json::array({text.substr(0, space), text.substr(space + 1)});
  }
  ASSERT_GE(pairs["model"]["merges"].size(), 4u);
  EXPECT_EQ(parse(pairs).fingerprint(), parse(small_json()).fingerprint());
}

TEST(TokenizerJson, ReadsRolesAsStringsAndObjects) {
  EXPECT_EQ(parse(small_json(), R"({"bos_token": "<｜end▁of▁sentence｜>", "eos_token": null})").bos_id(), 1);
  EXPECT_EQ(parse(small_json(), R"({"bos_token": {"content": "<｜▁pad▁｜>"}, "eos_token": null})").bos_id(), 2);
  EXPECT_EQ(parse(small_json(), R"({"eos_token": null})").eos_id(), std::nullopt);
  EXPECT_THAT(refusal(small_json(), R"({"bos_token": "<s>"})"), AllOf(HasSubstr("bos_token"), HasSubstr("<s>")));
  EXPECT_THAT(refusal(small_json(), R"({"bos_token": 3})"), HasSubstr("dir/tokenizer_config.json: bos_token is 3"));
  EXPECT_THAT(refusal(small_json(), "[]"), HasSubstr("an object is needed"));
}

TEST(TokenizerJson, RefusesWhatItCannotReproduce) {
  const auto with = [](const char* pointer, const json& value) {
    json root = small_json();
    root[json::json_pointer(pointer)] = value;
    return refusal(root);
  };
  const char* const supported = "supported is DeepSeek-V3's";
  EXPECT_THAT(with("/pre_tokenizer", {{"type", "ByteLevel"}}), AllOf(HasSubstr("pre_tokenizer"), HasSubstr(supported)));
  EXPECT_THAT(with("/pre_tokenizer", nullptr), HasSubstr(supported));
  EXPECT_THAT(with("/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\p{N}"), AllOf(HasSubstr("step 1"), HasSubstr(supported)));
  EXPECT_THAT(with("/pre_tokenizer/pretokenizers/1/behavior", "Removed"), HasSubstr("step 2"));
  EXPECT_THAT(with("/pre_tokenizer/pretokenizers/2/invert", true), HasSubstr("step 3"));
  EXPECT_THAT(with("/pre_tokenizer/pretokenizers/3/use_regex", true), HasSubstr("step 4"));
  EXPECT_THAT(with("/pre_tokenizer/pretokenizers/0", 7), HasSubstr("step 1"));
  EXPECT_THAT(with("/normalizer", {{"type", "NFC"}}), AllOf(HasSubstr("normalizer"), HasSubstr("NFC")));
  EXPECT_THAT(with("/decoder", nullptr), HasSubstr("decoder"));
  EXPECT_THAT(with("/model/type", "Unigram"), HasSubstr("Unigram"));
  EXPECT_THAT(with("/model/dropout", 0.1), HasSubstr("dropout"));
  EXPECT_THAT(with("/model/byte_fallback", true), HasSubstr("byte_fallback"));
  EXPECT_THAT(with("/model/ignore_merges", true), HasSubstr("ignore_merges"));
  EXPECT_THAT(with("/model/end_of_word_suffix", "</w>"), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(with("/added_tokens/0/lstrip", true), HasSubstr("lstrip"));
}

TEST(TokenizerJson, RefusesMalformedFiles) {
  const auto with = [](const char* pointer, const json& value) {
    json root = small_json();
    root[json::json_pointer(pointer)] = value;
    return refusal(root);
  };
  EXPECT_THAT(message_of([] { Tokenizer::parse("{\"a\": ", "", "dir"); }), HasSubstr("dir/tokenizer.json: not valid JSON"));
  EXPECT_THAT(message_of([] { Tokenizer::parse("", "", "dir"); }), HasSubstr("not valid JSON"));
  EXPECT_THAT(message_of([] { Tokenizer::parse("[]", "", "dir"); }), HasSubstr("an object is needed"));
  EXPECT_THAT(message_of([] { Tokenizer::parse(std::string(100'000, '['), "", "dir"); }), HasSubstr("nested deeper"));
  EXPECT_THAT(with("/model", 3), HasSubstr("\"model\" is 3"));
  EXPECT_THAT(with("/model/vocab", json::array()), HasSubstr("\"vocab\" is []"));
  EXPECT_THAT(with("/model/vocab", json::object()), HasSubstr("out of range"));
  EXPECT_THAT(with("/model/merges", "x"), HasSubstr("\"merges\""));
  EXPECT_THAT(with("/model/merges/0", "x"), HasSubstr("merges[0]"));
  EXPECT_THAT(with("/model/merges/0", "h qqq"), AllOf(HasSubstr("merges[0]"), HasSubstr("qqq")));
  EXPECT_THAT(with("/model/merges/0", "x y"), AllOf(HasSubstr("merges[0]"), HasSubstr("\"xy\"")));
  EXPECT_THAT(with("/model/merges/1", small_json()["model"]["merges"][0]), HasSubstr("repeats"));
  EXPECT_THAT(with("/model/vocab/h", 9), HasSubstr("another token"));
  EXPECT_THAT(with("/model/vocab/h", 100000), HasSubstr("out of range"));
  EXPECT_THAT(with("/model/vocab/h", -1), HasSubstr("out of range"));
  EXPECT_THAT(with("/model/vocab/h", 18446744073709551615u), HasSubstr("out of range"));
  EXPECT_THAT(with("/model/vocab/h", 1.5), HasSubstr("integer"));
  EXPECT_THAT(with("/model/vocab/h", "1"), HasSubstr("integer"));
  EXPECT_THAT(with("/model/vocab/ ", 5), HasSubstr("byte-level alphabet"));
  EXPECT_THAT(with("/added_tokens", 1), HasSubstr("\"added_tokens\""));
  EXPECT_THAT(with("/added_tokens/0", 1), HasSubstr("added_tokens[0]"));
  EXPECT_THAT(with("/added_tokens/0/id", 1), HasSubstr("model.vocab gives it 0"));
  EXPECT_THAT(with("/added_tokens/4/id", 259), HasSubstr("another token"));
  EXPECT_THAT(with("/added_tokens/0/content", ""), HasSubstr("empty content"));
  EXPECT_THAT(with("/added_tokens/0/content", "Ġ"), HasSubstr("Ġ"));
  EXPECT_THAT(with("/added_tokens/0/content", std::string(kEndOfSentence)), HasSubstr("repeats the content"));
  EXPECT_THAT(with("/added_tokens/0/special", "yes"), HasSubstr("special"));
  EXPECT_THAT(with("/post_processor", 1), HasSubstr("post_processor"));
}

TEST(TokenizerJson, RefusesAVocabularyWithoutAByte) {
  json root = small_json();
  json& vocab = root["model"]["vocab"];
  const int id = vocab["~"];
  vocab.erase("~");
  vocab["aa"] = id;
  EXPECT_THAT(refusal(root), AllOf(HasSubstr("0x7e"), HasSubstr("\"~\"")));
}

// Two of a kind: those that are not normalized are cut out of the whole text before the others are looked for.
TEST(TokenizerJson, FindsAddedTokensAsTheRustLibraryDoes) {
  json root = small_json();
  int next = static_cast<int>(parse(root).vocab_size());
  const auto add = [&](const char* content, bool normalized) {
    root["added_tokens"].push_back({{"id", next++}, {"content", content}, {"special", false}, {"normalized", normalized}});
  };
  add("[a]", true);      // 1st
  add("[a][b]", true);   // longer at the same place wins
  add("b][c", false);    // found first, though it starts later
  add("[a][b]x", true);  // a cut candidate must fall back to the shorter one
  const Tokenizer t = parse(root);
  const auto spell = [&](std::string_view text) {
    std::string out;
    for (const int32_t id : t.encode(text))
      out += std::string(t.is_added(id) ? "{" : "") + std::string(t.token(id)) + (t.is_added(id) ? "}" : "");
    return out;
  };
  EXPECT_EQ(spell("[a]z"), "{[a]}z");
  EXPECT_EQ(spell("[a][b]y"), "{[a][b]}y");
  EXPECT_EQ(spell("[a][b]x[a][b"), "{[a][b]x}{[a]}[b");
  EXPECT_EQ(spell("[a][b][c"), "{[a]}[{b][c}");
}

}  // namespace
}  // namespace rorqual
