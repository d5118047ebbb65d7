#include "data/corpus_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <map>

#include "data/corpus_test_support.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using testing::byte_encoder;
using testing::error_of;
using testing::folder_bytes;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::Threads;

std::string text_of(int i) {
  std::string text = fmt::format("document {}:", i);
  for (int k = 0; k < i % 17; ++k) text += fmt::format(" word{}", k * i);
  return text;
}

// Documents as files and lines, some empty, some twice.
std::vector<CorpusSource> make_corpus(const TempDir& dir) {
  std::string lines;
  for (int i = 0; i < 200; ++i) {
    dir.write(fmt::format("files/{:03}.txt", i), text_of(i));
    lines += "{\"text\": \"" + text_of(i + 100) + "\"}\n";  // half of them copies of files
  }
  dir.write("files/empty", "");
  dir.write("lines.jsonl", lines);
  return open_sources({{dir.path() / "files", 1.0}, {dir.path() / "lines.jsonl", 2.0}});
}

std::string decode(const ShardSet& set, int64_t document) {
  std::vector<int32_t> ids(static_cast<size_t>(set.document_tokens(document)));
  set.copy_tokens(document, 0, ids);
  std::string text;
  for (const int32_t id : ids) text.push_back(static_cast<char>(id - testing::kByteBase));
  return text;
}

TEST(TokenizeCorpus, EveryDocumentOnceAndCopiesOnOneSide) {
  const TempDir dir;
  const Threads two(2);
  const auto sources = make_corpus(dir);
  TokenizeOptions options;
  options.heldout_fraction = 0.25;
  std::vector<int64_t> progress;
  options.progress = [&](int64_t bytes) { progress.push_back(bytes); };
  const TokenizedCorpus corpus = tokenize_corpus(sources, byte_encoder(), dir.path() / "run/data", options, two.stream);
  EXPECT_FALSE(corpus.reused);
  std::map<std::string, int> train, heldout;
  std::string heldout_text;
  const auto training = corpus.open_training(true);
  ASSERT_EQ(training.size(), 2u);
  EXPECT_EQ(training[0].name, "files");
  EXPECT_EQ(training[1].name, "lines.jsonl");
  EXPECT_EQ(training[1].weight, 2.0);
  int64_t bytes = 0;
  for (const TrainingSource& source : training) {
    for (int64_t d = 0; d < source.documents.documents(); ++d) ++train[decode(source.documents, d)];
    bytes += source.documents.bytes();
  }
  const ShardSet held = corpus.open_heldout(true);
  for (int64_t d = 0; d < held.documents(); ++d) {
    ++heldout[decode(held, d)];
    heldout_text += decode(held, d);
    EXPECT_EQ(held.document_bytes(d), held.document_tokens(d));  // a token is a byte
  }
  bytes += held.bytes();
  EXPECT_EQ(train.size() + heldout.size(), 300u);  // none on both sides
  EXPECT_GT(heldout.size(), 40u);
  for (int i = 0; i < 300; ++i) {
    const int expected = i >= 100 && i < 200 ? 2 : 1;
    EXPECT_EQ(train[text_of(i)] + heldout[text_of(i)], expected) << i;
    EXPECT_EQ(is_heldout(content_hash(text_of(i)), 0.25), heldout[text_of(i)] > 0) << i;
  }
  EXPECT_EQ(read_file(corpus.heldout_text()), heldout_text);
  EXPECT_EQ(progress.back(), bytes);
}

TEST(TokenizeCorpus, SameBytesForEveryNumberOfThreadsAndSplitIntoShards) {
  const TempDir dir;
  const auto sources = make_corpus(dir);
  TokenizeOptions options;
  options.heldout_fraction = 0.25;
  options.max_shard_bytes = 8192;
  std::vector<std::vector<std::pair<std::string, std::string>>> results;
  for (const int threads : {1, 2, 5}) {
    const Threads pool(threads);
    const fs::path out = dir.path() / fmt::format("out{}", threads);
    const TokenizedCorpus corpus = tokenize_corpus(sources, byte_encoder(), out, options, pool.stream);
    EXPECT_GT(corpus.sources[0].train.size(), 2u);
    for (const TokenizedSource& source : corpus.sources) {
      for (const fs::path& shard : source.train) EXPECT_LE(fs::file_size(shard), 8192u);
    }
    results.push_back(folder_bytes(out));
  }
  EXPECT_EQ(results[1], results[0]);
  EXPECT_EQ(results[2], results[0]);
  // Neither bytes nor names tell where the corpus lies.
  for (const auto& [name, bytes] : results[0]) EXPECT_EQ(bytes.find(dir.path().string()), std::string::npos) << name;
}

TEST(TokenizeCorpus, ReusedUnlessSomethingThatMattersChanged) {
  const TempDir dir;
  const Threads two(2);
  const fs::path out = dir.path() / "out";
  auto sources = make_corpus(dir);
  std::atomic<int> encoded{0};
  Encoder encoder = byte_encoder();
  encoder.encode = [&, inner = encoder.encode](std::string_view text) {
    ++encoded;
    return inner(text);
  };
  TokenizeOptions options;
  const auto again = [&] {
    encoded = 0;
    const TokenizedCorpus corpus = tokenize_corpus(sources, encoder, out, options, two.stream);
    EXPECT_EQ(corpus.reused, encoded == 0);
    return corpus;
  };
  const TokenizedCorpus first = again();
  EXPECT_FALSE(first.reused);
  sources[0].weight = 9;
  const TokenizedCorpus second = again();
  EXPECT_TRUE(second.reused);
  EXPECT_EQ(second.content_hash, first.content_hash);
  EXPECT_EQ(second.sources[0].weight, 9);
  EXPECT_EQ(second.sources[1].train, first.sources[1].train);
  EXPECT_EQ(open_tokenized(out).content_hash, first.content_hash);

  options.heldout_fraction = 0.5;
  EXPECT_FALSE(again().reused);
  EXPECT_TRUE(again().reused);
  encoder.fingerprint = 5;
  EXPECT_FALSE(again().reused);
  EXPECT_TRUE(again().reused);
  dir.write("files/007.txt", "changed");
  sources = open_sources({{dir.path() / "files", 1.0}, {dir.path() / "lines.jsonl", 2.0}});
  const TokenizedCorpus changed = again();
  EXPECT_FALSE(changed.reused);
  EXPECT_NE(changed.content_hash, first.content_hash);
}

TEST(TokenizeCorpus, LeftoversAreRemovedAndOtherFilesStay) {
  const TempDir dir;
  const Threads two(2);
  const auto sources = make_corpus(dir);
  const fs::path out = dir.path() / "out";
  tokenize_corpus(sources, byte_encoder(), out, {}, two.stream);
  const auto expected = folder_bytes(out);
  // As a kill in the middle leaves it: no manifest, shards of another run, a file half written.
  fs::remove(out / "manifest.json");
  dir.write("out/7-train-00003.rqs", "old");
  dir.write("out/0-train-00000.rqs.partial.aB3xYz", "half");
  dir.write("out/heldout.txt.partial.aB3xYz", "half");
  dir.write("out/notes.txt", "mine");
  EXPECT_FALSE(tokenize_corpus(sources, byte_encoder(), out, {}, two.stream).reused);
  auto files = folder_bytes(out);
  EXPECT_EQ(std::erase_if(files, [](const auto& file) { return file.first == "notes.txt"; }), 1u);
  EXPECT_EQ(files, expected);
}

TEST(TokenizeCorpus, NothingIsLeftBehindAnError) {
  const TempDir dir;
  const Threads two(2);
  const fs::path bad = dir.write("bad.jsonl", "{\"text\": \"fine\"}\nbroken\n");
  dir.write("files/a", "text");
  const auto sources = open_sources({{dir.path() / "files", 1.0}, {bad, 1.0}});
  TokenizeOptions options;
  options.heldout_fraction = 0;
  EXPECT_THAT(error_of([&] { tokenize_corpus(sources, byte_encoder(), dir.path() / "out", options, two.stream); }),
              HasSubstr("bad.jsonl, line 2"));
  EXPECT_FALSE(fs::exists(dir.path() / "out"));
}

TEST(TokenizeCorpus, WithATrainedTokenizer) {
  const TempDir dir;
  const Threads two(2);
  std::vector<std::string> documents;
  for (int i = 0; i < 40; ++i) {
    // Special strings in a text are text.
    documents.push_back(fmt::format("number {} of {}{}\xff", i, kFimBegin, kEndOfSentence));
    dir.write(fmt::format("d/{:02}", i), documents.back());
  }
  const auto sources = open_sources({{dir.path() / "d", 1.0}});
  const auto sample = sample_documents(sources, 1'000'000, 0.05, two.stream);
  const std::vector<std::string_view> views(sample.begin(), sample.end());
  const Tokenizer tokenizer = train_tokenizer({.vocab_size = 300}, views, two.stream);
  TokenizeOptions options;
  options.heldout_fraction = 0;
  const TokenizedCorpus corpus = tokenize_corpus(sources, encoder_of(tokenizer), dir.path() / "out", options, two.stream);
  EXPECT_EQ(corpus.tokenizer_fingerprint, tokenizer.fingerprint());
  const ShardSet set = corpus.open_training(true)[0].documents;
  ASSERT_EQ(set.documents(), 40);
  for (int64_t d = 0; d < 40; ++d) {
    std::vector<int32_t> ids(static_cast<size_t>(set.document_tokens(d)));
    set.copy_tokens(d, 0, ids);
    EXPECT_EQ(tokenizer.decode(ids), documents[static_cast<size_t>(d)]);
    for (const int32_t id : ids) EXPECT_FALSE(tokenizer.is_added(id));
  }
  const TokenIds ids = token_ids(tokenizer, 512);
  EXPECT_EQ(ids.bos, tokenizer.bos_id());
  EXPECT_EQ(ids.fim_hole, tokenizer.fim_hole_id());
  EXPECT_EQ(ids.vocab_size, 512);
  const TrainingSet training(corpus.open_training(false), {.seq_len = 16, .seed = 1, .fim_rate = 0.5, .ids = ids});
  EXPECT_EQ(training.bytes(), 40 * static_cast<int64_t>(documents[0].size()) + 30);
}

TEST(TokenizeCorpus, FullDiskIsAnErrorAndLeavesNothing) {
  const TempDir dir;
  const Threads two(2);
  const auto sources = make_corpus(dir);
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  for (const rlim_t limit : {rlim_t{0}, rlim_t{5000}, rlim_t{12000}}) {
    const rlimit small{limit, old.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    const std::string message = error_of([&] { tokenize_corpus(sources, byte_encoder(), dir.path() / "out", {}, two.stream); });
    ::setrlimit(RLIMIT_FSIZE, &old);
    EXPECT_THAT(message, HasSubstr("cannot write " + (dir.path() / "out").string()));
    EXPECT_FALSE(fs::exists(dir.path() / "out")) << limit;
  }
  std::signal(SIGXFSZ, old_handler);
}

TEST(TokenizeCorpus, EmptyAndWhollyHeldoutCorpora) {
  const TempDir dir;
  const Threads two(2);
  const fs::path out = dir.path() / "out";
  const auto tokenize = [&](const fs::path& path, double fraction) {
    TokenizeOptions options;
    options.heldout_fraction = fraction;
    return error_of([&] { tokenize_corpus(open_sources({{path, 1.0}}), byte_encoder(), out, options, two.stream); });
  };
  dir.write("empty/a", "");
  dir.write("empty/b.bin", std::string(3, '\0'));
  EXPECT_THAT(tokenize(dir.path() / "empty", 0.05),
              HasSubstr("is empty: 2 files hold no document (1 empty documents and 1 binary"));
  EXPECT_THAT(tokenize(dir.write("blank.jsonl", "\n\n"), 0.05), HasSubstr("is empty"));
  EXPECT_THAT(tokenize(dir.write("one.txt", "one document"), 1 - 1e-9), HasSubstr("all of them fall on the held-out side"));
  EXPECT_THAT(tokenize(dir.path() / "one.txt", 1.0), HasSubstr("not in [0, 1)"));
}

TEST(TokenizeCorpus, DamagedShardsAndManifestsAreNamed) {
  const TempDir dir;
  const Threads two(2);
  const auto sources = make_corpus(dir);
  const fs::path out = dir.path() / "out";
  const TokenizedCorpus corpus = tokenize_corpus(sources, byte_encoder(), out, {}, two.stream);
  const auto reopen = [&] { return tokenize_corpus(sources, byte_encoder(), out, {}, two.stream); };
  const auto with = [&](const std::string& name, const std::function<std::string(std::string)>& change, auto&& body) {
    const std::string bytes = read_file(out / name);
    dir.write("out/" + name, change(bytes));
    const std::string message = error_of(body);
    EXPECT_THAT(message, HasSubstr((out / name).string()));
    EXPECT_THAT(message, HasSubstr("tokenised again"));
    dir.write("out/" + name, bytes);
  };
  const auto flip = [](size_t at) {
    return [at](std::string bytes) {
      bytes[at] = static_cast<char>(bytes[at] ^ 4);
      return bytes;
    };
  };
  const auto half = [](const std::string& bytes) { return bytes.substr(0, bytes.size() / 2); };
  with("0-train-00000.rqs", half, reopen);
  with("0-train-00000.rqs", flip(200), reopen);
  with("0-train-00000.rqs", flip(5000), [&] { reopen().open_training(true); });
  with("1-heldout-00000.rqs", flip(4100), [&] { reopen().open_heldout(true); });
  with("heldout.txt", half, reopen);
  with("manifest.json", half, reopen);
  with("manifest.json", flip(0), [&] { open_tokenized(out); });
  with(
      "0-train-00000.rqs", [&](const std::string&) { return read_file(out / "1-train-00000.rqs"); }, reopen);
  EXPECT_TRUE(reopen().reused);
  fs::remove(out / "1-train-00000.rqs");
  EXPECT_THAT(error_of(reopen), HasSubstr("1-train-00000.rqs is missing"));
  EXPECT_THAT(error_of([&] { open_tokenized(dir.path()); }), HasSubstr("no tokenised data"));
}

}  // namespace
}  // namespace rorqual
