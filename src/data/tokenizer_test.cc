#include "data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "data/pretokenizer.h"
#include "data/tokenizer_impl.h"
#include "data/tokenizer_test_util.h"

namespace rorqual {
namespace {

using nlohmann::json;
using testing::HasSubstr;

TEST(Tokenizer, AgreesWithTheRustLibraryOnEveryGolden) {
  const json golden = json::parse(read_file(std::string(kGoldenFolder) + "deepseek_v3_cases.json"));
  ASSERT_EQ(golden["cases"].size(), 66u);
  for (const json& item : golden["cases"]) {
    const auto text = item["text"].get<std::string>();
    const auto ids = item["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(deepseek().encode(text), ids) << item["category"] << ": " << item["text"];
    EXPECT_EQ(deepseek().decode(ids), text) << item["category"];
  }
}

TEST(Tokenizer, KnowsDeepseeksSpecialTokens) {
  const Tokenizer& t = deepseek();
  EXPECT_EQ(t.vocab_size(), 128815);
  EXPECT_EQ(t.bos_id(), 0);
  EXPECT_EQ(t.eos_id(), 1);
  EXPECT_EQ(t.pad_id(), 2);
  EXPECT_EQ(t.fim_hole_id(), 128800);
  EXPECT_EQ(t.fim_begin_id(), 128801);
  EXPECT_EQ(t.fim_end_id(), 128802);
  EXPECT_EQ(t.id_of("<｜User｜>"), 128803);
  EXPECT_EQ(t.id_of("nothing"), std::nullopt);
  EXPECT_TRUE(t.is_special(0));
  EXPECT_FALSE(t.is_special(128801));
  EXPECT_TRUE(t.is_added(128801));
  EXPECT_FALSE(t.is_added(259));
  EXPECT_EQ(t.token(259), " t");
  EXPECT_EQ(t.token(1), kEndOfSentence);
}

TEST(Tokenizer, RecognisesAddedTokensOnlyWhenAsked) {
  const Tokenizer& t = deepseek();
  const std::string text = "a" + std::string(kFimBegin) + "b" + std::string(kEndOfSentence);
  const std::vector<int32_t> ids = t.encode(text);
  EXPECT_EQ(ids, (std::vector<int32_t>{67, 128801, 68, 1}));
  EXPECT_EQ(t.decode(ids, true), "a" + std::string(kFimBegin) + "b");
  const std::vector<int32_t> ordinary = t.encode_ordinary(text);
  for (const int32_t id : ordinary) EXPECT_FALSE(t.is_added(id)) << id;
  EXPECT_EQ(t.decode(ordinary), text);
}

TEST(Tokenizer, DecodingAnUnknownIdNamesIt) {
  for (const int32_t id : {-1, 128815}) {
    const std::string message = message_of([&] { deepseek().decode(std::vector<int32_t>{5, id}); });
    EXPECT_THAT(message, HasSubstr(std::to_string(id)));
    EXPECT_THAT(message, HasSubstr("128815 tokens"));
  }
  EXPECT_THROW(deepseek().token(-1), Error);
  EXPECT_THROW(deepseek().is_special(128815), Error);
}

TEST(Tokenizer, RoundTripsRandomBytesAndText) {
  for (uint64_t i = 0; i < 400; ++i) {
    Draws draws(1000 + i);
    const std::string text = i % 2 ? random_text(draws, 200) : random_bytes(draws, 200);
    EXPECT_EQ(deepseek().decode(deepseek().encode(text)), text) << "case " << i;
    EXPECT_EQ(deepseek().decode(deepseek().encode_ordinary(text)), text) << "case " << i;
  }
}

// A direct reading of BPE's definition: again and again the lowest rank, leftmost.
std::vector<int32_t> merge_naively(const BpeModel& bpe, std::string_view piece) {
  std::map<std::pair<int32_t, int32_t>, size_t> ranks;
  static std::map<const BpeModel*, std::map<std::pair<int32_t, int32_t>, size_t>> cache;
  auto& known = cache[&bpe];
  if (known.empty()) {
    for (size_t r = 0; r < bpe.merges().size(); ++r) known[{bpe.merges()[r].left, bpe.merges()[r].right}] = r;
  }
  std::vector<int32_t> ids;
  for (const char byte : piece) ids.push_back(bpe.byte_token(static_cast<uint8_t>(byte)));
  while (true) {
    size_t best = SIZE_MAX, at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = known.find({ids[i], ids[i + 1]});
      if (found != known.end() && found->second < best) best = found->second, at = i;
    }
    if (best == SIZE_MAX) return ids;
    ids[at] = bpe.merges()[best].result;
    ids.erase(ids.begin() + static_cast<int64_t>(at) + 1);
  }
}

TEST(Bpe, ShortAndLongPiecesMergeAsDefined) {
  const BpeModel& bpe = deepseek().impl().bpe;
  for (uint64_t i = 0; i < 300; ++i) {
    Draws draws(5000 + i);
    std::string piece;
    const size_t size = 1 + draws.below(i % 10 == 0 ? 400 : 70);  // both sides of the bound between the two ways
    const uint64_t letters = 1 + draws.below(26);
    while (piece.size() < size) piece.push_back(static_cast<char>('a' + draws.below(letters)));
    std::vector<int32_t> ids;
    bpe.encode(piece, ids);
    EXPECT_EQ(ids, merge_naively(bpe, piece)) << piece;
  }
}

TEST(Tokenizer, AHundredKilobytesOfOneLetterAreFast) {
  for (const char* unit : {"a", " ", "\n", "!", "é", "中", "1", "\xFF", "<", "ab", "ー・"}) {
    std::string text;
    while (text.size() < 100'000) text += unit;
    const Tokenizer& tokenizer = deepseek();  // read before the clock starts
    const double start_s = cpu_seconds();
    const std::vector<int32_t> ids = tokenizer.encode(text);
    EXPECT_LT(cpu_seconds() - start_s, kSlowdown) << unit;
    EXPECT_EQ(tokenizer.decode(ids), text) << unit;
  }
}

TEST(Tokenizer, CachedPiecesEncodeAlike) {
  // The second time all short pieces come out of the thread's cache; another tokenizer in between empties it.
  const std::vector<std::string_view> documents = {"hello hello hello hello"};
  ThreadPool pool(1);
  const Tokenizer other = train_tokenizer({.vocab_size = 270}, documents, Stream(pool));
  Draws draws(77);
  const std::string text = random_text(draws, 500) + " hello hello world" + std::string(30, 'x');
  const std::vector<int32_t> first = deepseek().encode(text);
  EXPECT_EQ(deepseek().encode(text), first);
  const std::vector<int32_t> others = other.encode(text);
  EXPECT_EQ(deepseek().encode(text), first);
  EXPECT_EQ(other.encode(text), others);
  std::vector<int32_t> direct;
  for_each_piece(text, [&](std::string_view piece) { deepseek().impl().bpe.encode(piece, direct); });
  EXPECT_EQ(first, direct);
}

class Saved : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(dir_); }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  const std::filesystem::path dir_ =
      std::filesystem::temp_directory_path() /
      ("rorqual_tokenizer_" + std::to_string(getpid()) + "_" + testing::UnitTest::GetInstance()->current_test_info()->name());
};

void expect_same(const Tokenizer& a, const Tokenizer& b) {
  EXPECT_EQ(a.fingerprint(), b.fingerprint());
  ASSERT_EQ(a.vocab_size(), b.vocab_size());
  for (int32_t id = 0; id < a.vocab_size(); ++id) {
    ASSERT_EQ(a.token(id), b.token(id));
    ASSERT_EQ(a.is_special(id), b.is_special(id));
    ASSERT_EQ(a.is_added(id), b.is_added(id));
  }
  EXPECT_EQ(a.impl().parts.merges, b.impl().parts.merges);
  EXPECT_EQ(a.bos_id(), b.bos_id());
  EXPECT_EQ(a.eos_id(), b.eos_id());
  EXPECT_EQ(a.tokenizer_json(), b.tokenizer_json());
  EXPECT_EQ(a.config_json(), b.config_json());
}

TEST_F(Saved, LoadsTheSame) {
  deepseek().save(dir_ / "new");
  expect_same(deepseek(), Tokenizer::load(dir_ / "new"));
  const json config = json::parse(read_file(dir_ / "new/tokenizer_config.json"));
  EXPECT_TRUE(config.contains("chat_template"));
}

TEST_F(Saved, WithoutAConfigDeepseeksNamesHold) {
  write_file_atomically(dir_ / "tokenizer.json", deepseek().tokenizer_json());
  EXPECT_EQ(Tokenizer::load(dir_).bos_id(), 0);
  EXPECT_EQ(Tokenizer::load(dir_).eos_id(), 1);
}

TEST_F(Saved, MissingFilesAreNamed) {
  EXPECT_THAT(message_of([&] { Tokenizer::load(dir_); }), HasSubstr("tokenizer.json"));
}

}  // namespace
}  // namespace rorqual
