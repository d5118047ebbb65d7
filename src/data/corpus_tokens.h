// Tokenises a corpus once, in parallel, into shards under RUN/data (docs/formats/shards.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/corpus.h"
#include "data/dataset.h"
#include "data/shard.h"
#include "data/tokenizer.h"

namespace rorqual {

// What tokenising needs of a tokenizer. `encode` gives ordinary tokens (special strings in the text stay text), each in
// [0, vocab_size); it is called from several threads.
struct Encoder {
  std::function<std::vector<int32_t>(std::string_view)> encode;
  uint64_t fingerprint = 0;
  int64_t vocab_size = 0;
};

Encoder encoder_of(const Tokenizer& tokenizer);
// What TrainingSet and HeldoutSet need of a tokenizer and of the model's vocabulary (at least as large).
TokenIds token_ids(const Tokenizer& tokenizer, int64_t model_vocab_size);

struct TokenizeOptions {
  double heldout_fraction = kDefaultHeldoutFraction;  // [0, 1)
  int64_t max_shard_bytes = kDefaultShardBytes;       // a shard grows beyond it only by one document's tokens
  // Called now and then with the bytes of text done so far (all sources), from the calling thread.
  std::function<void(int64_t bytes)> progress;
};

struct TokenizedSource {
  std::string description;
  double weight = 1.0;
  std::vector<std::filesystem::path> train, heldout;  // shards, in order
};

struct TokenizedCorpus {
  std::filesystem::path directory;
  std::vector<TokenizedSource> sources;
  uint64_t tokenizer_fingerprint = 0;
  uint64_t content_hash = 0;  // of all shards: same hash, same training data
  bool reused = false;        // nothing was tokenised

  // Opens the shards; with `verify` every byte is checked.
  std::vector<TrainingSource> open_training(bool verify) const;
  ShardSet open_heldout(bool verify) const;  // of all sources, in order
  std::filesystem::path heldout_text() const { return directory / "heldout.txt"; }
};

// Writes <source>-train-00000.rqs, <source>-heldout-00000.rqs, ..., heldout.txt (the held-out documents' bytes, one after the
// other, in the order of the shards) and, last, manifest.json. If the manifest there is of the same sources, tokenizer and
// options, its shards are used as they are. The bytes written do not depend on the number of threads.
// Error: what reading meets (corpus.h), no document to train on, a full disk, a shard that is not as the manifest has it.
TokenizedCorpus tokenize_corpus(const std::vector<CorpusSource>& sources, const Encoder& encoder,
                                const std::filesystem::path& directory, const TokenizeOptions& options, const Stream& stream);

// What tokenize_corpus left in `directory`, without looking at the sources. Error (runtime): none there, or damaged.
TokenizedCorpus open_tokenized(const std::filesystem::path& directory);

}  // namespace rorqual
