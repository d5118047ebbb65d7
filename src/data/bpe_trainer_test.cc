#include "data/bpe_trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "data/pretokenizer.h"
#include "data/tokenizer_impl.h"
#include "data/tokenizer_test_util.h"

namespace rorqual {
namespace {

using testing::HasSubstr;

// Words drawn from a small set of syllables, so that there is something to merge, with ties.
std::vector<std::string> random_documents(uint64_t seed, size_t count, size_t words) {
  static const char* const kSyllables[] = {"ba", "an", "na", "aa", "a", "er", "the", "in", "é", "中", "1", "\xFF"};
  Draws draws(seed);
  std::vector<std::string> documents(count);
  for (std::string& document : documents) {
    for (size_t i = 0; i < words; ++i) {
      for (uint64_t n = 1 + draws.below(5); n > 0; --n) document += kSyllables[draws.below(std::size(kSyllables))];
      document += draws.below(8) ? " " : "\n";
    }
  }
  return documents;
}

std::vector<std::string_view> views(const std::vector<std::string>& documents) {
  return {documents.begin(), documents.end()};
}

Tokenizer train(const std::vector<std::string>& documents, int32_t vocab_size, int threads) {
  ThreadPool pool(threads);
  return train_tokenizer({.vocab_size = vocab_size}, views(documents), Stream(pool));
}

// The definition: count all pairs afresh before every merge.
std::vector<std::pair<std::string, std::string>> train_naively(const std::vector<std::string>& documents, size_t merges) {
  std::map<std::string, int64_t> counts;
  for (const std::string& document : documents) {
    for_each_piece(document, [&](std::string_view piece) { ++counts[std::string(piece)]; });
  }
  std::map<std::string, int32_t> ids;
  for (const uint8_t byte : bytes_by_code())
    ids.emplace(std::string(1, static_cast<char>(byte)), static_cast<int32_t>(ids.size()));
  std::vector<std::pair<std::vector<std::string>, int64_t>> words;
  for (const auto& [word, count] : counts) {
    words.push_back({{}, count});
    for (const char byte : word) words.back().first.emplace_back(1, byte);
  }
  std::vector<std::pair<std::string, std::string>> list;
  while (list.size() < merges) {
    std::map<std::pair<int32_t, int32_t>, std::pair<int64_t, std::pair<std::string, std::string>>> pairs;
    for (const auto& [word, count] : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        auto& entry = pairs[{ids.at(word[i]), ids.at(word[i + 1])}];
        entry.first += count;
        entry.second = {word[i], word[i + 1]};
      }
    }
    int64_t best = 1;
    std::pair<std::string, std::string> chosen;
    for (const auto& [key, entry] : pairs) {
      if (entry.first > best) best = entry.first, chosen = entry.second;
    }
    if (best < 2) break;
    list.push_back(chosen);
    ids.emplace(chosen.first + chosen.second, static_cast<int32_t>(ids.size()));
    for (auto& [word, count] : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        if (word[i] != chosen.first || word[i + 1] != chosen.second) continue;
        word[i] += word[i + 1];
        word.erase(word.begin() + static_cast<int64_t>(i) + 1);
      }
    }
  }
  return list;
}

TEST(BpeTrainer, ChoosesTheMergesOfTheDefinition) {
  for (const uint64_t seed : {1, 2, 3}) {
    const std::vector<std::string> documents = random_documents(seed, 3, 200);
    const Tokenizer tokenizer = train(documents, 262 + 100, 1);
    std::vector<std::pair<std::string, std::string>> merges;
    for (const BpeMerge& merge : tokenizer.impl().parts.merges) {
      merges.emplace_back(tokenizer.token(merge.left), tokenizer.token(merge.right));
    }
    EXPECT_EQ(merges, train_naively(documents, merges.size())) << "seed " << seed;
    EXPECT_GE(merges.size(), 100u);
  }
}

TEST(BpeTrainer, ThreadsAndOrderDoNotShow) {
  std::vector<std::string> documents = random_documents(9, 40, 20'000);  // several MB: several tasks
  const Tokenizer one = train(documents, 700, 1);
  EXPECT_EQ(one.vocab_size(), 700);
  for (const int threads : {2, 5}) EXPECT_EQ(train(documents, 700, threads).tokenizer_json(), one.tokenizer_json());
  std::reverse(documents.begin(), documents.end());
  EXPECT_EQ(train(documents, 700, 2).tokenizer_json(), one.tokenizer_json());
}

TEST(BpeTrainer, LaysOutTheVocabularyLikeDeepseek) {
  const Tokenizer t = train({"the the the\n"}, 264, 1);
  ASSERT_EQ(t.vocab_size(), 264);
  EXPECT_EQ(t.bos_id(), 0);
  EXPECT_EQ(t.eos_id(), 1);
  EXPECT_EQ(t.pad_id(), 2);
  for (int32_t id = 0; id < 259; ++id) EXPECT_EQ(t.token(id), deepseek().token(id)) << id;
  EXPECT_EQ(t.token(259), "he");  // as often as "th", and "h" has the smaller id
  EXPECT_EQ(t.token(260), "the");
  EXPECT_EQ(t.fim_hole_id(), 261);
  EXPECT_EQ(t.fim_begin_id(), 262);
  EXPECT_EQ(t.fim_end_id(), 263);
  for (const int32_t id : {0, 1, 2, 261, 262, 263}) EXPECT_EQ(t.is_special(id), id < 3) << id;
  const Tokenizer again = Tokenizer::parse(t.tokenizer_json(), t.config_json(), "saved");
  EXPECT_EQ(again.fingerprint(), t.fingerprint());
  EXPECT_EQ(again.tokenizer_json(), t.tokenizer_json());
}

TEST(BpeTrainer, DocumentsThatSpellSpecialTokensAreOrdinaryText) {
  const std::string spelled(kFimBegin);
  const Tokenizer t = train({spelled + spelled + spelled + spelled}, 400, 1);
  EXPECT_EQ(t.decode(t.encode_ordinary(spelled)), spelled);
  EXPECT_GT(t.encode_ordinary(spelled).size(), 1u);
  EXPECT_EQ(t.encode(spelled), (std::vector<int32_t>{*t.fim_begin_id()}));
}

TEST(BpeTrainer, SmallCorporaGiveSmallVocabularies) {
  testing::internal::CaptureStderr();
  const Tokenizer t = train({"ab ab"}, 1000, 1);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("too small for a vocabulary of 1000"));
  EXPECT_EQ(t.vocab_size(), 263);
}

TEST(BpeTrainer, RefusesWhatCannotBe) {
  EXPECT_THAT(message_of([] { train({"abc"}, 261, 1); }), HasSubstr("at least 262"));
  EXPECT_THAT(message_of([] { train({"", ""}, 300, 1); }), HasSubstr("no text"));
  EXPECT_THAT(message_of([] { train({}, 300, 1); }), HasSubstr("no text"));
}

TEST(BpeTrainer, LongRunsDoNotHurt) {
  std::string long_run;
  Draws draws(4);
  while (long_run.size() < 1'000'000) long_run.push_back(static_cast<char>('a' + draws.below(20)));
  const double start_s = cpu_seconds();
  const Tokenizer t = train({long_run, std::string(1'000'000, 'a')}, 600, 1);
  EXPECT_EQ(t.vocab_size(), 600);
  EXPECT_LT(cpu_seconds() - start_s, 10 * kSlowdown);
}

}  // namespace
}  // namespace rorqual
