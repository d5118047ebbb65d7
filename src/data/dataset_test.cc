#include "data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "data/corpus_test_support.h"
#include "data/dataset_packing.h"
#include "data/fim.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using testing::byte_ids;
using testing::error_of;
using ::testing::HasSubstr;
using testing::kByteBase;
using testing::kByteFingerprint;
using testing::kByteVocab;
using testing::TempDir;

using Ids = std::vector<int32_t>;

// Document d of a source: its number and source, then d % 13 more tokens, so that each can be told from its tokens.
Ids document_ids(int source, int d) {
  Ids ids = {kByteBase + source, kByteBase + d / 200, kByteBase + d % 200};
  for (int k = 0; k < d % 13; ++k) ids.push_back(kByteBase + (d * 7 + k) % 256);
  return ids;
}

ShardSet make_set(const TempDir& dir, int source, int documents, int per_shard = 1'000'000,
                  ShardSplit split = ShardSplit::kTrain) {
  std::vector<std::shared_ptr<const ShardReader>> shards;
  for (int d = 0; d < documents;) {
    const fs::path path = dir.path() / fmt::format("{}-{}.rqs", source, shards.size());
    ShardWriter writer(path, split, kByteFingerprint, kByteVocab, "x");
    for (int k = 0; k < per_shard && d < documents; ++k, ++d) writer.add_document(document_ids(source, d), 10 + d);
    writer.commit();
    shards.push_back(std::make_shared<ShardReader>(path, true));
  }
  return ShardSet(std::move(shards));
}

TrainingOptions make_options(int64_t seq_len, double fim_rate = 0, uint64_t seed = 1) {
  return {.seq_len = seq_len, .seed = seed, .fim_rate = fim_rate, .ids = byte_ids()};
}

Ids sequence(const TrainingSet& set, int64_t index) {
  Ids out(static_cast<size_t>(set.seq_len()) + 1, -1);
  set.sequence(index, out);
  return out;
}

// The packed stream of one epoch, put together again from its windows; checks that neighbours share their token.
Ids epoch_stream(const TrainingSet& set, int64_t first, int64_t epoch) {
  const int64_t count = set.sequences_in_epoch(0, epoch);
  std::map<int64_t, Ids> windows;
  for (int64_t i = 0; i < count; ++i) {
    const TrainingSet::Position at = set.position(first + i);
    EXPECT_EQ(at.epoch, epoch);
    EXPECT_EQ(at.sequence_in_epoch, i);
    EXPECT_TRUE(windows.emplace(at.window, sequence(set, first + i)).second) << "window twice";
  }
  Ids stream;
  for (const auto& [window, ids] : windows) {
    EXPECT_EQ(window * set.seq_len(), static_cast<int64_t>(stream.empty() ? 0 : stream.size() - 1));
    if (!stream.empty()) {
      EXPECT_EQ(stream.back(), ids.front());
      stream.pop_back();
    }
    stream.insert(stream.end(), ids.begin(), ids.end());
  }
  return stream;
}

// Cuts a stream behind each EOS; what follows the last one is dropped.
std::vector<Ids> split_documents(const Ids& stream) {
  std::vector<Ids> documents(1);
  for (const int32_t id : stream) {
    documents.back().push_back(id);
    if (id == byte_ids().eos) documents.emplace_back();
  }
  documents.pop_back();
  return documents;
}

// The number of a document from its tokens without specials.
int number_of(const Ids& ids) {
  return (ids[1] - kByteBase) * 200 + ids[2] - kByteBase;
}

// Puts a document together again if it was cut for fill-in-the-middle.
Ids unpack(const Ids& packed, bool* fim) {
  const TokenIds ids = byte_ids();
  EXPECT_EQ(packed.front(), ids.bos);
  EXPECT_EQ(packed.back(), ids.eos);
  *fim = packed.size() > 1 && packed[1] == ids.fim_begin;
  if (!*fim) return {packed.begin() + 1, packed.end() - 1};
  const auto hole = std::find(packed.begin(), packed.end(), ids.fim_hole);
  const auto end = std::find(packed.begin(), packed.end(), ids.fim_end);
  EXPECT_TRUE(hole < end && end < packed.end());
  Ids text(packed.begin() + 2, hole);
  text.insert(text.end(), end + 1, packed.end() - 1);
  text.insert(text.end(), hole + 1, end);
  return text;
}

TEST(TrainingSet, EpochsVisitEachDocumentOnceInAnotherOrder) {
  const TempDir dir;
  for (const int per_shard : {1'000'000, 7}) {
    const TrainingSet set({{"x", 1, make_set(dir, 0, 150, per_shard)}}, make_options(10));
    EXPECT_EQ(set.documents(), 150);
    std::vector<std::vector<int>> orders;
    int64_t first = 0;
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      const Ids stream = epoch_stream(set, first, epoch);
      const int64_t packed = set.tokens() + 2 * 150;
      EXPECT_EQ(set.sequences_in_epoch(0, epoch), (packed - 1) / 10);
      EXPECT_EQ(static_cast<int64_t>(stream.size()), (packed - 1) / 10 * 10 + 1);
      std::vector<int> order;
      for (const Ids& packed_document : split_documents(stream)) {
        bool fim = true;
        const Ids text = unpack(packed_document, &fim);
        EXPECT_FALSE(fim);
        order.push_back(number_of(text));
        EXPECT_EQ(text, document_ids(0, order.back()));
      }
      EXPECT_EQ(std::set<int>(order.begin(), order.end()).size(), order.size());
      EXPECT_GE(order.size(), 148u);  // the remainder may cut the last one or, with its EOS alone, leave it
      orders.push_back(order);
      first += set.sequences_in_epoch(0, epoch);
    }
    EXPECT_NE(orders[0], orders[1]);
    EXPECT_NE(orders[1], orders[2]);
    EXPECT_FALSE(std::is_sorted(orders[0].begin(), orders[0].end()));
  }
}

TEST(TrainingSet, SequencesAreShuffledInTheEpoch) {
  const TempDir dir;
  const TrainingSet set({{"x", 1, make_set(dir, 0, 150)}}, make_options(10));
  std::vector<int64_t> windows[2];
  const int64_t count = set.sequences_in_epoch(0, 0);
  for (int64_t i = 0; i < 2 * count; ++i) windows[i / count].push_back(set.position(i).window);
  EXPECT_NE(windows[0], windows[1]);
  int64_t fixed = 0;
  for (int64_t i = 0; i < count; ++i) fixed += windows[0][static_cast<size_t>(i)] == i;
  EXPECT_LE(fixed, 8);  // Poisson with mean 1: above 8 once in a million
}

TEST(TrainingSet, ResultDoesNotDependOnShardsOrderOfAccessOrThreads) {
  const TempDir dir;
  const auto make = [&](int per_shard) {
    std::vector<TrainingSource> sources;
    sources.push_back({"a", 2, make_set(dir, 0, 90, per_shard)});
    sources.push_back({"b", 1, make_set(dir, 1, 40, per_shard)});
    return std::make_unique<TrainingSet>(std::move(sources), make_options(16, 0.3));
  };
  const auto whole = make(1'000'000), pieces = make(11), threads = make(13);
  const int64_t n = 2500;  // many epochs
  std::vector<Ids> expected;
  for (int64_t i = 0; i < n; ++i) expected.push_back(sequence(*whole, i));
  for (int64_t k = 0; k < n; ++k) {
    const int64_t i = (k * 1699 + 5) % n;
    ASSERT_EQ(sequence(*pieces, i), expected[static_cast<size_t>(i)]) << i;
  }
  std::vector<Ids> found(static_cast<size_t>(n));
  {
    std::vector<std::jthread> workers;
    for (int t = 0; t < 5; ++t) {
      workers.emplace_back([&, t] {
        for (int64_t i = t; i < n; i += 5) found[static_cast<size_t>(i)] = sequence(*threads, i);
      });
    }
  }
  EXPECT_EQ(found, expected);
  // A late start, as after a resume, is the same.
  EXPECT_EQ(sequence(*make(50), n - 1), expected.back());
}

TEST(TrainingSet, SeedsDiffer) {
  const TempDir dir;
  const TrainingSet a({{"x", 1, make_set(dir, 0, 150)}}, make_options(10, 0, 1));
  const TrainingSet b({{"x", 1, make_set(dir, 0, 150)}}, make_options(10, 0, 2));
  int same = 0;
  for (int64_t i = 0; i < 100; ++i) same += sequence(a, i) == sequence(b, i);
  EXPECT_LE(same, 2);
}

TEST(TrainingSet, FillInTheMiddleAtItsRateAndReassembles) {
  const TempDir dir;
  const int n = 2000;
  const TrainingSet set({{"x", 1, make_set(dir, 0, n)}}, make_options(64, 0.1));
  int64_t first = 0;
  std::set<int> cut[2];
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    int documents = 0, moved = 0;
    for (const Ids& packed : split_documents(epoch_stream(set, first, epoch))) {
      bool fim = false;
      const Ids text = unpack(packed, &fim);
      const int number = number_of(text);
      ASSERT_EQ(text, document_ids(0, number));
      ++documents;
      if (!fim) continue;
      cut[epoch].insert(number);
      const auto middle = packed.end() - std::find(packed.begin(), packed.end(), byte_ids().fim_end) - 2;
      moved += middle > 0;
      EXPECT_TRUE(fim_applies(1, epoch, 0, number, 0.1));
      const FimSplit split = fim_split(1, epoch, 0, number, static_cast<int64_t>(text.size()));
      EXPECT_EQ(split.second - split.first, middle);
    }
    EXPECT_GE(documents, n - 20);
    EXPECT_NEAR(static_cast<double>(cut[epoch].size()), 200, 67);  // binomial, deviation 13.4, 5 deviations
    EXPECT_GT(moved, 100);
    first += set.sequences_in_epoch(0, epoch);
  }
  EXPECT_NE(cut[0], cut[1]);
}

TEST(TrainingSet, MixesByWeightInEveryCycle) {
  const TempDir dir;
  std::vector<TrainingSource> sources;
  sources.push_back({"a", 5, make_set(dir, 0, 300)});
  sources.push_back({"b", 3, make_set(dir, 1, 20)});
  sources.push_back({"c", 0.01, make_set(dir, 2, 20)});
  const TrainingSet set(std::move(sources), make_options(8));
  // 1024 · (5, 3, 0.01) / 8.01 = 639.2, 383.5, 1.278
  EXPECT_EQ(set.quotas(), (std::vector<int64_t>{639, 384, 1}));
  std::vector<int64_t> next(3);
  std::vector<std::vector<int64_t>> order(2);
  for (int64_t cycle = 0; cycle < 2; ++cycle) {
    std::vector<int64_t> count(3);
    for (int64_t i = 0; i < 1024; ++i) {
      const auto at = set.position(cycle * 1024 + i);
      ++count[static_cast<size_t>(at.source)];
      order[static_cast<size_t>(cycle)].push_back(at.source);
      // Each source is consumed in its own order without gaps.
      int64_t consumed = at.sequence_in_epoch;
      for (int64_t e = 0; e < at.epoch; ++e) consumed += set.sequences_in_epoch(at.source, e);
      ASSERT_EQ(consumed, next[static_cast<size_t>(at.source)]++);
    }
    EXPECT_EQ(count, set.quotas());
  }
  EXPECT_NE(order[0], order[1]);
  // Even the first 128 hold both large sources in about their shares: hypergeometric, mean 79.9, deviation below 5.4.
  EXPECT_NEAR(static_cast<double>(std::count(order[0].begin(), order[0].begin() + 128, 0)), 80, 27);
}

TEST(TrainingSet, LargestRemaindersFillTheCycle) {
  const TempDir dir;
  for (const int count : {3, 7, 11}) {
    std::vector<TrainingSource> sources;
    for (int s = 0; s < count; ++s) sources.push_back({"s", 0.1 + s, make_set(dir, s, 20)});
    const TrainingSet set(std::move(sources), make_options(8));
    EXPECT_EQ(std::accumulate(set.quotas().begin(), set.quotas().end(), int64_t{0}), 1024);
    double sum = 0;
    for (int s = 0; s < count; ++s) sum += 0.1 + s;
    for (int s = 0; s < count; ++s)
      EXPECT_NEAR(static_cast<double>(set.quotas()[static_cast<size_t>(s)]), (0.1 + s) / sum * 1024, 1.0);
  }
}

TEST(TrainingSet, TheShortestCorpusIsOneSequence) {
  const TempDir dir;
  // One document of 3 tokens with BOS and EOS: 5.
  const TrainingSet set({{"x", 1, make_set(dir, 0, 1)}}, make_options(4));
  EXPECT_EQ(set.sequences_in_epoch(0, 0), 1);
  const Ids expected = {0, kByteBase, kByteBase, kByteBase, 1};
  EXPECT_EQ(sequence(set, 0), expected);
  EXPECT_EQ(sequence(set, 1'000'000), expected);
}

TEST(TrainingSet, ErrorsOfUsers) {
  const TempDir dir;
  const auto make = [&](const TrainingOptions& options, double weight = 1) {
    return error_of([&] {
      std::vector<TrainingSource> sources;
      sources.push_back({"docs", weight, make_set(dir, 0, 1)});
      sources.push_back({"more", 1, make_set(dir, 1, 10)});
      TrainingSet(std::move(sources), options);
    });
  };
  EXPECT_THAT(make(make_options(5)),
              HasSubstr("does not fit the data: docs has 5 training tokens in 1 documents, less than one sequence of 5 + 1"));
  EXPECT_THAT(make(make_options(4), 1e-4), HasSubstr("too small"));
  TrainingOptions options = make_options(4);
  options.ids.tokenizer_fingerprint ^= 1;
  EXPECT_THAT(make(options), HasSubstr("another tokenizer"));
  options = make_options(4);
  options.ids.vocab_size = 265;
  EXPECT_THAT(make(options), HasSubstr("vocabulary of 266, the model only 265"));
  options = make_options(4, 0.1);
  options.ids.fim_hole = -1;
  EXPECT_THAT(make(options), HasSubstr("no fill-in-the-middle hole"));
  options = make_options(4);
  options.ids.bos = 266;
  EXPECT_THAT(make(options), HasSubstr("raise the model's vocab_size"));
}

TEST(HeldoutSet, WindowsInDocumentOrder) {
  const TempDir dir;
  Ids stream;
  for (int d = 0; d < 50; ++d) {
    const Ids ids = document_ids(0, d);
    stream.push_back(0);
    stream.insert(stream.end(), ids.begin(), ids.end());
    stream.push_back(1);
  }
  for (const int per_shard : {1'000'000, 7}) {
    const HeldoutSet set(make_set(dir, 0, 50, per_shard, ShardSplit::kHeldout), 9, byte_ids());
    EXPECT_EQ(set.documents(), 50);
    EXPECT_EQ(set.bytes(), 50 * 10 + 49 * 50 / 2);
    EXPECT_EQ(set.packed_tokens(), static_cast<int64_t>(stream.size()));
    EXPECT_EQ(set.tokens(), set.packed_tokens() - 100);
    EXPECT_DOUBLE_EQ(set.predictions_per_byte(), static_cast<double>(stream.size() - 1) / static_cast<double>(set.bytes()));
    ASSERT_EQ(set.count(), static_cast<int64_t>(stream.size() - 1) / 9);
    for (int64_t i = 0; i < set.count(); ++i) {
      Ids out(10);
      set.sequence(i, out);
      EXPECT_EQ(out, Ids(stream.begin() + 9 * i, stream.begin() + 9 * i + 10)) << i;
    }
  }
}

TEST(HeldoutSet, LimitSpreadsAndSmallSetsAreEmpty) {
  const TempDir dir;
  const HeldoutSet all(make_set(dir, 0, 50), 9, byte_ids()), some(make_set(dir, 0, 50), 9, byte_ids(), 4);
  ASSERT_EQ(some.count(), 4);
  for (int64_t i = 0; i < 4; ++i) {
    Ids a(10), b(10);
    some.sequence(i, a);
    all.sequence(i * all.count() / 4, b);
    EXPECT_EQ(a, b);
  }
  EXPECT_EQ(HeldoutSet(make_set(dir, 0, 50), 9, byte_ids(), 1'000'000).count(), all.count());
  EXPECT_EQ(HeldoutSet(make_set(dir, 0, 50), 9, byte_ids(), all.count()).count(), all.count());
  EXPECT_EQ(HeldoutSet(ShardSet(), 9, byte_ids()).count(), 0);
  EXPECT_EQ(HeldoutSet(ShardSet(), 9, byte_ids()).predictions_per_byte(), 0);
  EXPECT_EQ(HeldoutSet(make_set(dir, 0, 1), 5, byte_ids()).count(), 0);
  EXPECT_EQ(HeldoutSet(make_set(dir, 0, 1), 4, byte_ids()).count(), 1);
  TokenIds other = byte_ids();
  other.tokenizer_fingerprint = 0;
  EXPECT_THAT(error_of([&] { HeldoutSet(make_set(dir, 0, 1), 5, other); }), HasSubstr("another tokenizer"));
}

TEST(PackedDocument, AnyRangeEqualsTheWhole) {
  const TempDir dir;
  const ShardSet set = make_set(dir, 0, 13);
  const Ids text = document_ids(0, 12);
  const auto n = static_cast<int64_t>(text.size());
  for (int64_t first = -1; first <= n; ++first) {
    for (int64_t second = first; second <= n; ++second) {
      std::optional<FimSplit> split;
      if (first >= 0) split = FimSplit{first, second};
      Ids whole = {0};
      if (split) {
        whole.push_back(2);
        whole.insert(whole.end(), text.begin(), text.begin() + first);
        whole.push_back(3);
        whole.insert(whole.end(), text.begin() + second, text.end());
        whole.push_back(4);
        whole.insert(whole.end(), text.begin() + first, text.begin() + second);
      } else {
        whole.insert(whole.end(), text.begin(), text.end());
      }
      whole.push_back(1);
      for (size_t begin = 0; begin <= whole.size(); ++begin) {
        for (size_t size = 0; begin + size <= whole.size(); ++size) {
          Ids out(size, -1);
          copy_packed(set, 12, split, byte_ids(), static_cast<int64_t>(begin), out);
          ASSERT_TRUE(std::equal(out.begin(), out.end(), whole.begin() + static_cast<ptrdiff_t>(begin)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace rorqual
