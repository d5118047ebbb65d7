#include "data/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/rng.h"
#include "data/corpus_test_support.h"
#include "data/corpus_text.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::error_of;
using testing::gzip;
using ::testing::HasSubstr;
using testing::read_all;
using testing::TempDir;
using testing::texts;
using testing::Threads;
using ::testing::UnorderedElementsAreArray;
using testing::zstandard;

CorpusSource open(const fs::path& path) {
  return open_source({path, 1.0});
}

TEST(DataSpec, PathAndWeight) {
  EXPECT_EQ(parse_data_spec("a/b.txt").path, "a/b.txt");
  EXPECT_EQ(parse_data_spec("a/b.txt").weight, 1.0);
  EXPECT_EQ(parse_data_spec("a/b.txt=0.25").path, "a/b.txt");
  EXPECT_EQ(parse_data_spec("a/b.txt=0.25").weight, 0.25);
  EXPECT_EQ(parse_data_spec("a=b/c=3e1").path, "a=b/c");
  EXPECT_EQ(parse_data_spec("a=b/c=3e1").weight, 30);
}

TEST(DataSpec, ExistingPathWithEqualsWins) {
  const TempDir dir;
  const fs::path path = dir.write("corpus=2", "text");
  EXPECT_EQ(parse_data_spec(path.string()).path, path);
  EXPECT_EQ(parse_data_spec(path.string()).weight, 1.0);
  EXPECT_EQ(parse_data_spec(path.string() + "=7").path, path);
  EXPECT_EQ(parse_data_spec(path.string() + "=7").weight, 7.0);
}

TEST(DataSpec, BadWeightsAreUsageErrors) {
  for (const char* text : {"x=0", "x=-1", "x=nan", "x=inf", "x=1e999", "x=", "x=1 ", "x=abc", "", "=1", "x=0x1"}) {
    try {
      parse_data_spec(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << text;
    }
  }
}

TEST(Corpus, EveryKindOfFile) {
  const TempDir dir;
  const std::string lines =
      "{\"text\": \"one\"}\n\n  \r\n{\"id\": 3, \"text\": \"zw\\u00f6lf\\n\"}\r\n{\"text\": \"\"}\n{\"text\":\"last\"}";
  dir.write("data/a.txt", "plain");
  dir.write("data/b.rst.gz", gzip("zipped"));
  dir.write("data/c.md.zst", zstandard("standard"));
  dir.write("data/d.jsonl", lines);
  dir.write("data/e.jsonl.gz", gzip(lines));
  dir.write("data/f.JSONL.ZST", zstandard(lines));
  dir.write("data/g", "no extension");
  CorpusCounts counts;
  const CorpusSource source = open(dir.path() / "data");
  const auto documents = read_all(source, 2, &counts);
  EXPECT_THAT(texts(documents), ElementsAre("plain", "zipped", "standard", "one", "zwölf\n", "last", "one", "zwölf\n", "last",
                                            "one", "zwölf\n", "last", "no extension"));
  EXPECT_EQ(documents[0].line, 0);
  EXPECT_EQ(documents[3].line, 1);
  EXPECT_EQ(documents[4].line, 4);
  EXPECT_EQ(documents[5].line, 6);
  EXPECT_EQ(counts.files, 7);
  EXPECT_EQ(counts.documents, 13);
  EXPECT_EQ(counts.bytes, 5 + 6 + 8 + 3 * (3 + 7 + 4) + 12);
  EXPECT_EQ(counts.empty_documents, 3);
  EXPECT_EQ(source.description, "data");
}

TEST(Corpus, OneFileIsASource) {
  const TempDir dir;
  const CorpusSource source = open(dir.write("x.jsonl.gz", gzip("{\"text\":\"t\"}\n")));
  EXPECT_THAT(texts(read_all(source)), ElementsAre("t"));
  EXPECT_EQ(source.description, "x.jsonl.gz");
}

TEST(Corpus, FoldersAreSortedHiddenFilesSkippedAndLoopsSafe) {
  const TempDir dir;
  dir.write("d/b/x", "b/x");
  dir.write("d/b.txt", "b.txt");
  dir.write("d/b-", "b-");
  dir.write("d/a/deep/er", "a/deep/er");
  dir.write("d/.hidden", "no");
  dir.write("d/.git/config", "no");
  dir.write("elsewhere/y", "linked");
  dir.write("single", "linked file");
  fs::create_directory_symlink("..", dir.path() / "d/a/up");
  fs::create_directory_symlink(dir.path() / "d", dir.path() / "d/b/self");
  fs::create_directory_symlink(dir.path() / "elsewhere", dir.path() / "d/link");
  fs::create_symlink(dir.path() / "single", dir.path() / "d/link.txt");
  fs::create_symlink(dir.path() / "nowhere", dir.path() / "d/broken");
  const CorpusSource source = open(dir.path() / "d");
  std::vector<std::string> names;
  for (const CorpusFile& file : source.files) names.push_back(file.name);
  EXPECT_THAT(names, ElementsAre("a/deep/er", "b-", "b.txt", "b/x", "link.txt", "link/y"));  // by bytes: '-' < '.' < '/'
  EXPECT_THAT(texts(read_all(source)), ElementsAre("a/deep/er", "b-", "b.txt", "b/x", "linked file", "linked"));
}

TEST(Corpus, BinaryFilesAreSkippedAndNotUtf8Counted) {
  const TempDir dir;
  dir.write("d/a.bin", std::string("x\0y", 3));
  dir.write("d/b.txt", "caf\xe9");
  dir.write("d/c.txt", "caf\xc3\xa9");
  dir.write("d/d.jsonl", "{\"text\": \"ok\"}\n{\"text\": \"caf\xe9 \\u00e9 \xc3\xa9 \xff\"}\n");
  const CorpusSource source = open(dir.path() / "d");
  CorpusCounts counts;
  EXPECT_THAT(texts(read_all(source, 2, &counts)),
              ElementsAre("caf\xe9", "caf\xc3\xa9", "ok", "caf\xe9 \xc3\xa9 \xc3\xa9 \xff"));
  EXPECT_EQ(counts.binary_files, 1);
  EXPECT_EQ(counts.binary_example, "a.bin");
  EXPECT_EQ(counts.not_utf8_documents, 2);
  EXPECT_EQ(counts.not_utf8_example, "b.txt");
  ::testing::internal::CaptureStderr();
  warn_about(source, counts);
  const std::string warning = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(warning, HasSubstr("2 of 4 documents are not valid UTF-8"));
  EXPECT_THAT(warning, HasSubstr("b.txt"));
  EXPECT_EQ(std::count(warning.begin(), warning.end(), '\n'), 2);
}

TEST(Corpus, BadLinesNameFileAndLine) {
  const TempDir dir;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{\"text\": \"a\"", "no valid JSON"},
      {"{\"text\": \"a\"} x", "no valid JSON"},
      {"[1]", "instead of an object"},
      {"{\"txt\": \"a\"}", "has no \"text\""},
      {"{\"text\": 3}", "\"text\" is number"},
      {"{\"text\": null}", "\"text\" is null"},
      {std::string("{\"text\": \"a\0b\"}", 15), "no valid JSON"},
      {"{\"text\": \"\\ud800\"}", "no valid JSON"},
      {"{\"text\": \"\xff \xf4\x8f\xb9\xa9\"}", "not UTF-8"},
  };
  for (const auto& [line, expected] : cases) {
    const fs::path path = dir.write("bad.jsonl", "{\"text\": \"fine\"}\n\n" + line + "\n{broken too");
    const std::string message = error_of([&] { read_all(open(path)); });
    EXPECT_THAT(message, HasSubstr(path.string() + ", line 3: "));
    EXPECT_THAT(message, HasSubstr(expected));
  }
}

TEST(Corpus, MissingUnreadableAndEmptyData) {
  const TempDir dir;
  EXPECT_THAT(error_of([&] { open(dir.path() / "nothing"); }), HasSubstr("No such file"));
  fs::create_directory(dir.path() / "empty");
  EXPECT_THAT(error_of([&] { open(dir.path() / "empty"); }), HasSubstr("holds no file"));
  EXPECT_THAT(error_of([&] { open("/dev/null"); }), HasSubstr("neither a file nor a folder"));
  const fs::path gone = dir.write("gone", "x");
  const CorpusSource source = open(gone);
  fs::remove(gone);
  EXPECT_THAT(error_of([&] { read_all(source); }), HasSubstr(gone.string()));
  if (::geteuid() != 0) {
    const fs::path locked = dir.write("locked", "x");
    fs::permissions(locked, fs::perms::none);
    EXPECT_THAT(error_of([&] { read_all(open(locked)); }), HasSubstr("Permission denied"));
  }
}

// A text that does not compress to nothing.
std::string noise(int64_t bytes, uint64_t seed) {
  std::string text;
  for (int64_t i = 0; i < bytes; ++i) {
    text.push_back(static_cast<char>('a' + random_below({.seed = seed, .step = 1}, static_cast<uint64_t>(i), 20)));
  }
  return text;
}

TEST(Corpus, DamagedArchivesAreErrors) {
  const TempDir dir;
  const std::string text = noise(2000, 1);
  for (const bool zst : {false, true}) {
    const std::string whole = zst ? zstandard(text) : gzip(text);
    const std::string name = zst ? "x.zst" : "x.gz";
    for (size_t cut = 0; cut < whole.size(); cut += cut < 40 || cut + 40 > whole.size() ? 1 : 37) {
      const fs::path path = dir.write(name, whole.substr(0, cut));
      EXPECT_THAT(error_of([&] { read_all(open(path)); }), HasSubstr(path.string() + " is damaged")) << "cut at " << cut;
    }
    // Flips: an Error, or (in header fields that carry no data, such as gzip's time stamp) the text unharmed.
    int unharmed = 0;
    for (size_t at = 0; at < whole.size(); at += at < 40 || at + 40 > whole.size() ? 1 : 17) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ 0x10);
      const fs::path path = dir.write(name, flipped);
      try {
        const auto documents = read_all(open(path));
        EXPECT_THAT(texts(documents), ElementsAre(text)) << name << " flipped at " << at;
        ++unharmed;
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr(path.string()));
      }
    }
    EXPECT_LE(unharmed, 7) << name;  // gzip: time (4), flags of speed (1), system (1), text flag
    EXPECT_THAT(error_of([&] { read_all(open(dir.write(name, whole + "junk behind"))); }), HasSubstr("is damaged"));
  }
}

TEST(Corpus, ArchivesOfSeveralParts) {
  const TempDir dir;
  const std::string a = noise(300'000, 2), b = noise(1000, 3);
  EXPECT_THAT(texts(read_all(open(dir.write("x.gz", gzip(a) + gzip("") + gzip(b))))), ElementsAre(a + b));
  EXPECT_THAT(texts(read_all(open(dir.write("y.gz", gzip(a) + std::string(512, '\0'))))), ElementsAre(a));
  EXPECT_THAT(texts(read_all(open(dir.write("x.zst", zstandard(a) + zstandard("") + zstandard(b))))), ElementsAre(a + b));
  // Compresses a thousandfold: output is pending when the input is used up.
  const std::string zeros(5'000'000, 'z');
  EXPECT_THAT(texts(read_all(open(dir.write("z.zst", zstandard(zeros))))), ElementsAre(zeros));
  EXPECT_THAT(texts(read_all(open(dir.write("z.gz", gzip(zeros))))), ElementsAre(zeros));
}

TEST(Corpus, LargeJsonLinesAreReadInParts) {
  const TempDir dir;
  std::string file;
  std::vector<std::string> expected;
  const std::string filler(9'000, '-');
  for (int i = 0; i < 4'000; ++i) {
    expected.push_back(fmt::format("{} {}", i, filler));
    file += "{\"text\":\"" + expected.back() + "\"}\n";
  }
  ASSERT_GT(file.size(), size_t{33} << 20);  // more than one part
  const CorpusSource source = open(dir.write("large.jsonl", file));
  const auto documents = read_all(source);
  ASSERT_EQ(documents.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(documents[i].text, expected[i]);
    ASSERT_EQ(documents[i].line, static_cast<int64_t>(i) + 1);
  }
  // A line longer than a part, and an error behind it.
  const std::string longest(size_t{40} << 20, 'x');
  const fs::path path = dir.write("longest.jsonl", "{\"text\":\"" + longest + "\"}\n{\"text\":\"next\"}\n{");
  EXPECT_THAT(error_of([&] { read_all(open(path)); }), HasSubstr("longest.jsonl, line 3"));
}

TEST(Corpus, SameForEveryNumberOfThreads) {
  const TempDir dir;
  for (int i = 0; i < 60; ++i) dir.write(fmt::format("d/{:03}.txt.gz", i), gzip(noise(100 + 37 * i, static_cast<uint64_t>(i))));
  const CorpusSource source = open(dir.path() / "d");
  const auto expected = texts(read_all(source, 1));
  EXPECT_EQ(expected.size(), 60u);
  EXPECT_EQ(texts(read_all(source, 2)), expected);
  EXPECT_EQ(texts(read_all(source, 5)), expected);
}

TEST(Corpus, TheFirstBadFileIsReported) {
  const TempDir dir;
  for (int i = 0; i < 40; ++i) dir.write(fmt::format("d/{:03}.gz", i), i % 2 == 1 ? "no gzip" : gzip("fine"));
  for (int round = 0; round < 5; ++round) {
    EXPECT_THAT(error_of([&] { read_all(open(dir.path() / "d"), 5); }), HasSubstr("001.gz"));
  }
}

TEST(HeldoutSplit, IsAFunctionOfContentAndHasItsFraction) {
  int heldout = 0;
  const int n = 20'000;
  for (int i = 0; i < n; ++i) heldout += is_heldout(content_hash(fmt::format("document {}", i)), 0.05);
  // Binomial: mean 1000, deviation sqrt(20000 · 0.05 · 0.95) = 30.8; 5 deviations.
  EXPECT_NEAR(heldout, 1000, 155);
  EXPECT_FALSE(is_heldout(content_hash("x"), 0.0));
  // Larger fractions hold the smaller ones, so that changing the fraction moves few documents.
  for (int i = 0; i < 1000; ++i) {
    const uint64_t hash = content_hash(fmt::format("document {}", i));
    EXPECT_TRUE(!is_heldout(hash, 0.05) || is_heldout(hash, 0.1));
  }
  EXPECT_EQ(content_hash("The held-out split hangs on this value."), 0xb81fab3819704449u);
}

TEST(Sample, IsLimitedDeterministicAndLeavesHeldoutOut) {
  const TempDir dir;
  std::set<std::string> training;
  for (int i = 0; i < 300; ++i) {
    const std::string text = noise(100, static_cast<uint64_t>(i));
    dir.write(fmt::format("d/{}", i), text);
    dir.write(fmt::format("renamed/{}", 1000 - i), text);
    dir.write(fmt::format("renamed/copy {}", i), text);
    if (!is_heldout(content_hash(text), 0.2)) training.insert(text);
  }
  ASSERT_LT(training.size(), 290u);
  const Threads two(2), one(1);
  const std::vector<CorpusSource> sources = {open(dir.path() / "d")}, renamed = {open(dir.path() / "renamed")};
  const auto all = sample_documents(sources, 1'000'000, 0.2, two.stream);
  EXPECT_THAT(all, UnorderedElementsAreArray(training));
  EXPECT_EQ(sample_documents(renamed, 1'000'000, 0.2, two.stream), all);  // other order, copies: the same sample
  const auto some = sample_documents(sources, 5'050, 0.2, two.stream);
  ASSERT_EQ(some.size(), 51u);
  EXPECT_EQ(some.back().size(), 50u);
  for (size_t i = 0; i < 50; ++i) EXPECT_EQ(some[i], all[i]);
  EXPECT_EQ(sample_documents(sources, 5'050, 0.2, one.stream), some);
  EXPECT_EQ(sample_documents(renamed, 5'050, 0.2, one.stream), some);
}

TEST(Sample, SharesByWeightAndRefills) {
  const TempDir dir;
  for (int i = 0; i < 100; ++i) {
    dir.write(fmt::format("a/{}", i), "a" + noise(99, static_cast<uint64_t>(i)));
    dir.write(fmt::format("b/{}", i), "b" + noise(99, static_cast<uint64_t>(i)));
  }
  dir.write("c/x", "c" + noise(99, 5));
  const Threads two(2);
  const std::vector<CorpusSource> sources = {open_source({dir.path() / "a", 3}), open_source({dir.path() / "b", 1}),
                                             open_source({dir.path() / "c", 4})};
  int64_t bytes[3] = {};
  for (const std::string& text : sample_documents(sources, 4'100, 0, two.stream))
    bytes[text[0] - 'a'] += static_cast<int64_t>(text.size());
  EXPECT_EQ(bytes[2], 100);  // has no more; the rest is shared 3 to 1
  EXPECT_EQ(bytes[0], 3'000);
  EXPECT_EQ(bytes[1], 1'000);
}

TEST(Sample, CutsBetweenCharacters) {
  const TempDir dir;
  const Threads one(1);
  std::string text;
  for (int i = 0; i < 100; ++i) text += "\xe2\x82\xac";  // 3 bytes each
  const std::vector<CorpusSource> sources = {open(dir.write("x", text))};
  for (int64_t limit = 10; limit < 13; ++limit) {
    EXPECT_EQ(sample_documents(sources, limit, 0, one.stream)[0], text.substr(0, static_cast<size_t>(limit / 3 * 3)));
  }
  const std::vector<CorpusSource> empty = {open(dir.write("empty", ""))};
  EXPECT_THAT(error_of([&] { sample_documents(empty, 10, 0, one.stream); }), HasSubstr("no text"));
}

TEST(Utf8, ValidAndNot) {
  for (const char* valid :
       {"", "ascii only, longer than eight", "caf\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x90\x8b whale", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(is_utf8(valid)) << valid;
  }
  for (const char* invalid :
       {"\xff", "12345678\x80", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "a\xf0\x9f\x90"}) {
    EXPECT_FALSE(is_utf8(invalid)) << invalid;
    std::string escaped;
    ASSERT_TRUE(escape_invalid_utf8(invalid, escaped));
    EXPECT_TRUE(is_utf8(escaped));
    EXPECT_EQ(unescape_invalid_utf8(escaped), invalid);
  }
}

}  // namespace
}  // namespace rorqual
