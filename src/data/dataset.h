// From token shards to sequences: packing, shuffling, fill-in-the-middle and mixing as pure functions of one integer.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "data/shard.h"

namespace rorqual {

// The documents of several shards as one list; shards stay mapped.
class ShardSet {
 public:
  ShardSet() = default;
  explicit ShardSet(std::vector<std::shared_ptr<const ShardReader>> shards);

  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }  // ordinary tokens, without BOS and EOS
  int64_t bytes() const { return bytes_; }    // of the original text
  const std::vector<std::shared_ptr<const ShardReader>>& shards() const { return shards_; }

  int64_t document_tokens(int64_t document) const;
  int64_t document_bytes(int64_t document) const;
  // Copies tokens [begin, begin + out.size()) of a document.
  void copy_tokens(int64_t document, int64_t begin, std::span<int32_t> out) const;

 private:
  std::pair<const ShardReader*, int64_t> locate(int64_t document) const;

  std::vector<std::shared_ptr<const ShardReader>> shards_;
  std::vector<int64_t> first_document_;  // of each shard
  int64_t documents_ = 0, tokens_ = 0, bytes_ = 0;
};

// Ids and sizes of the tokenizer and the model that the shards must fit.
struct TokenIds {
  int32_t bos = -1, eos = -1;
  int32_t fim_begin = -1, fim_hole = -1, fim_end = -1;  // needed where fim_rate > 0
  int64_t vocab_size = 0;                               // the model's
  uint64_t tokenizer_fingerprint = 0;
};

struct TrainingSource {
  std::string name;
  double weight = 1.0;
  ShardSet documents;
};

struct TrainingOptions {
  int64_t seq_len = 0;  // T
  uint64_t seed = 0;
  double fim_rate = 0;  // probability per (epoch, document)
  TokenIds ids;
};

// The endless list of training sequences; docs/formats/shards.md states the order.
// Packed document: [BOS] tokens [EOS], or with fill-in-the-middle [BOS] <fim_begin> prefix <fim_hole> suffix <fim_end> middle
// [EOS].
class TrainingSet {
 public:
  // Error: a source without T+1 tokens ("a recipe that does not fit the data"), shards of another tokenizer or with ids
  // beyond the model's vocabulary, a weight too small to get one sequence in 1024, fill-in-the-middle without its ids.
  TrainingSet(std::vector<TrainingSource> sources, const TrainingOptions& options);
  ~TrainingSet();
  TrainingSet(const TrainingSet&) = delete;
  TrainingSet& operator=(const TrainingSet&) = delete;

  // The index-th sequence of the run, index >= 0 counting sequences consumed since its start; out has T+1 ids: inputs are
  // out[0..T), targets out[1..T]. A pure function of the shards, the options and the index; thread-safe, in any order.
  void sequence(int64_t index, std::span<int32_t> out) const;

  // Where a sequence comes from: for tests, reports and the progress line.
  struct Position {
    int64_t source = 0, epoch = 0;
    int64_t sequence_in_epoch = 0;  // in the order of consumption
    int64_t window = 0;             // tokens [window·T, window·T + T] of the epoch's packed stream
  };
  Position position(int64_t index) const;
  int64_t sequences_in_epoch(int64_t source, int64_t epoch) const;

  int64_t seq_len() const;
  int64_t sources() const;
  const TrainingSource& source(int64_t source) const;
  int64_t tokens() const;  // totals over the sources, ordinary tokens
  int64_t documents() const;
  int64_t bytes() const;
  // Shares of the sources in 1024 sequences.
  const std::vector<int64_t>& quotas() const;

  static constexpr int64_t kCycle = 1024;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Fixed windows of T+1 ids over the held-out documents, packed as [BOS] tokens [EOS] in document order, without
// fill-in-the-middle; neighbours share one token and the remainder is dropped, as in training.
class HeldoutSet {
 public:
  // `limit` > 0 keeps that many windows, spread evenly. No document, or less than T+1 tokens: count() is 0.
  // Error: as TrainingSet for tokenizer and vocabulary.
  HeldoutSet(ShardSet documents, int64_t seq_len, const TokenIds& ids, int64_t limit = 0);

  int64_t count() const { return count_; }
  void sequence(int64_t index, std::span<int32_t> out) const;  // thread-safe

  int64_t documents() const { return documents_.documents(); }
  int64_t bytes() const { return documents_.bytes(); }      // of the original text of all held-out documents
  int64_t tokens() const { return documents_.tokens(); }    // ordinary tokens of all held-out documents
  int64_t packed_tokens() const { return starts_.back(); }  // with BOS and EOS
  // Bits per byte from a mean loss over the windows: nats_per_token · predictions_per_byte() / ln 2. Every packed token but the
  // first is predicted once, EOS and BOS included.
  double predictions_per_byte() const;

 private:
  ShardSet documents_;
  int64_t seq_len_;
  TokenIds ids_;
  std::vector<int64_t> starts_;  // of each packed document, [documents + 1]
  int64_t windows_ = 0, count_ = 0;
};

}  // namespace rorqual
