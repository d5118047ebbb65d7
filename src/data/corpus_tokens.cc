#include "data/corpus_tokens.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kManifestVersion = 1;
constexpr std::string_view kManifestName = "manifest.json";
constexpr std::string_view kHeldoutName = "heldout.txt";

std::string hex(uint64_t value) {
  return fmt::format("{:016x}", value);
}

// What decides the shards' bytes: a manifest with the same is one of the same shards. Weights are no part of it.
Json describe_request(const std::vector<CorpusSource>& sources, const Encoder& encoder, const TokenizeOptions& options) {
  Json request;
  request["tokenizer_fingerprint"] = hex(encoder.fingerprint);
  request["vocab_size"] = encoder.vocab_size;
  request["heldout_fraction"] = options.heldout_fraction;
  request["max_shard_bytes"] = options.max_shard_bytes;
  for (const CorpusSource& source : sources) {
    request["sources"].push_back({{"description", source.description},
                                  {"files", source.files.size()},
                                  {"file_bytes", source.bytes()},
                                  {"listing_hash", hex(source.listing_hash())}});
  }
  return request;
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// Removes what an earlier or interrupted tokenisation left, and nothing else.
void remove_leftovers(const fs::path& directory, std::error_code& error) {
  // The manifest first: without it, what else is left counts for nothing.
  fs::remove(directory / kManifestName, error);
  std::vector<fs::path> leftovers;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const std::string whole = name.substr(0, name.find(".partial."));
    if (whole.ends_with(".rqs") || whole == kHeldoutName || whole == kManifestName) leftovers.push_back(entry->path());
  }
  for (size_t i = 0; i < leftovers.size() && !error; ++i) fs::remove(leftovers[i], error);
}

void make_empty_directory(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) fail("cannot make the folder {}: {}", directory.string(), error.message());
  remove_leftovers(directory, error);
  if (error) fail("cannot clear the folder {}: {}", directory.string(), error.message());
}

// The shards of one source and split.
class SplitWriter {
 public:
  SplitWriter(fs::path directory, size_t source, ShardSplit split, const CorpusSource& corpus, const Encoder& encoder,
              const TokenizeOptions& options)
      : directory_(std::move(directory)),
        source_(source),
        split_(split),
        corpus_(corpus),
        encoder_(encoder),
        options_(options) {}

  void add(std::span<const int32_t> tokens, int64_t text_bytes) {
    const int64_t bytes = static_cast<int64_t>(tokens.size()) * (encoder_.vocab_size <= 65536 ? 2 : 4) + 16;
    if (writer_ && writer_->file_bytes() + bytes > options_.max_shard_bytes) finish();
    if (!writer_) {
      const std::string name = fmt::format("{}-{}-{:05}.rqs", source_, shard_split_name(split_), shards_.size());
      writer_.emplace(directory_ / name, split_, encoder_.fingerprint, encoder_.vocab_size, corpus_.description);
    }
    writer_->add_document(tokens, text_bytes);
  }

  void finish() {
    if (!writer_) return;
    const ShardInfo info = writer_->commit();
    writer_.reset();
    documents_ += info.documents;
    shards_.push_back({{"file", fs::path(info.path).filename().string()},
                       {"bytes", info.file_bytes},
                       {"hash", hex(info.header_hash)},
                       {"documents", info.documents},
                       {"tokens", info.tokens},
                       {"text_bytes", info.text_bytes}});
  }

  const Json& shards() const { return shards_; }
  int64_t documents() const { return documents_; }

 private:
  fs::path directory_;
  size_t source_;
  ShardSplit split_;
  const CorpusSource& corpus_;
  const Encoder& encoder_;
  const TokenizeOptions& options_;
  std::optional<ShardWriter> writer_;
  Json shards_ = Json::array();
  int64_t documents_ = 0;
};

// Encodes a batch in parallel. Long documents are started first so that none is left over at the end.
std::vector<std::vector<int32_t>> encode_batch(const std::vector<Document>& batch, const Encoder& encoder,
                                               const Stream& stream) {
  std::vector<size_t> order(batch.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return batch[a].text.size() > batch[b].text.size(); });
  std::vector<std::vector<int32_t>> ids(batch.size());
  stream.parallel(static_cast<int64_t>(batch.size()), [&](int64_t i) {
    const size_t at = order[static_cast<size_t>(i)];
    ids[at] = encoder.encode(batch[at].text);
  });
  return ids;
}

void require_documents(const CorpusSource& source, const CorpusCounts& counts, int64_t train_documents,
                       double heldout_fraction) {
  if (counts.documents == 0) {
    fail(
        "the data {} is empty: {} files hold no document ({} empty documents and {} binary files are left out); give files "
        "with text",
        source.path.string(), counts.files, counts.empty_documents, counts.binary_files);
  }
  if (train_documents == 0) {
    fail(
        "the data {} has {} documents and all of them fall on the held-out side ({:.3g} of all by a hash of their content); "
        "give more "
        "documents or set the held-out fraction to 0",
        source.path.string(), counts.documents, heldout_fraction);
  }
}

// Tokenises one source; returns its entry in the manifest.
Json tokenize_source(const CorpusSource& source, size_t index, const Encoder& encoder, const fs::path& directory,
                     const TokenizeOptions& options, const Stream& stream, AtomicFile& heldout_text, int64_t& done_bytes) {
  SplitWriter train(directory, index, ShardSplit::kTrain, source, encoder, options);
  SplitWriter heldout(directory, index, ShardSplit::kHeldout, source, encoder, options);
  CorpusReader reader(source, stream);
  std::vector<Document> batch;
  while (reader.next(batch)) {
    const auto ids = encode_batch(batch, encoder, stream);
    for (size_t i = 0; i < batch.size(); ++i) {
      const auto bytes = static_cast<int64_t>(batch[i].text.size());
      if (is_heldout(batch[i].hash, options.heldout_fraction)) {
        heldout.add(ids[i], bytes);
        heldout_text.write(batch[i].text);
      } else {
        train.add(ids[i], bytes);
      }
      done_bytes += bytes;
    }
    if (options.progress) options.progress(done_bytes);
  }
  train.finish();
  heldout.finish();
  const CorpusCounts& counts = reader.counts();
  warn_about(source, counts);
  require_documents(source, counts, train.documents(), options.heldout_fraction);
  return {{"description", source.description},
          {"weight", source.weight},
          {"documents", counts.documents},
          {"bytes", counts.bytes},
          {"empty_documents", counts.empty_documents},
          {"binary_files", counts.binary_files},
          {"not_utf8_documents", counts.not_utf8_documents},
          {"train", train.shards()},
          {"heldout", heldout.shards()}};
}

// Writes shards, held-out text and, last, the manifest.
Json write_corpus(const Json& request, const std::vector<CorpusSource>& sources, const Encoder& encoder,
                  const fs::path& directory, const TokenizeOptions& options, const Stream& stream) {
  Json manifest;
  manifest["version"] = kManifestVersion;
  manifest["request"] = request;
  AtomicFile heldout_text(directory / kHeldoutName);
  int64_t done_bytes = 0;
  for (size_t i = 0; i < sources.size(); ++i) {
    manifest["sources"].push_back(
        tokenize_source(sources[i], i, encoder, directory, options, stream, heldout_text, done_bytes));
  }
  manifest["heldout_bytes"] = heldout_text.position();
  heldout_text.commit();
  write_file_atomically(directory / kManifestName, manifest.dump(1) + "\n");
  return manifest;
}

uint64_t parse_hex(const Json& value) {
  return std::stoull(value.get<std::string>(), nullptr, 16);
}

// The corpus of a manifest. Exceptions of the JSON library say what is missing.
TokenizedCorpus read_corpus(const Json& manifest, const fs::path& directory) {
  TokenizedCorpus corpus;
  corpus.directory = directory;
  corpus.tokenizer_fingerprint = parse_hex(manifest.at("request").at("tokenizer_fingerprint"));
  std::string hashes;
  for (const Json& entry : manifest.at("sources")) {
    TokenizedSource& source = corpus.sources.emplace_back();
    source.description = entry.at("description").get<std::string>();
    source.weight = entry.at("weight").get<double>();
    for (const char* split : {"train", "heldout"}) {
      auto& paths = split == std::string_view("train") ? source.train : source.heldout;
      for (const Json& shard : entry.at(split)) {
        paths.push_back(directory / shard.at("file").get<std::string>());
        hashes += shard.at("hash").get<std::string>();
      }
      hashes += '/';
    }
  }
  corpus.content_hash = hash_bytes(hashes.data(), static_cast<int64_t>(hashes.size()));
  return corpus;
}

constexpr std::string_view kRemedy = "delete the folder, and the data is tokenised again";

// Each shard must be the one that the manifest names. Its header is enough here: it covers the checksums of the rest.
void check_shards_of_manifest(const Json& manifest, const fs::path& directory) {
  for (const Json& source : manifest.at("sources")) {
    for (const char* split : {"train", "heldout"}) {
      for (const Json& shard : source.at(split)) {
        const fs::path path = directory / shard.at("file").get<std::string>();
        if (!is_there(path)) fail("the token shard {} is missing; {}", path.string(), kRemedy);
        const ShardInfo info = describe_shard(path);
        if (info.header_hash != parse_hex(shard.at("hash"))) {
          fail("the token shard {} is not the one that {} names; {}", path.string(), (directory / kManifestName).string(),
               kRemedy);
        }
      }
    }
  }
  const fs::path text = directory / kHeldoutName;
  std::error_code error;
  const auto size = fs::file_size(text, error);
  if (error || static_cast<int64_t>(size) != manifest.at("heldout_bytes").get<int64_t>()) {
    fail("{} is missing or does not have the {} bytes that the manifest gives it; {}", text.string(),
         manifest.at("heldout_bytes").get<int64_t>(), kRemedy);
  }
}

std::optional<Json> read_manifest(const fs::path& directory) {
  const fs::path path = directory / kManifestName;
  if (!is_there(path)) return std::nullopt;
  try {
    Json manifest = Json::parse(read_file(path));
    if (manifest.at("version").get<int>() != kManifestVersion) {
      fail("{} has version {}, this program reads version {}; {}", path.string(), manifest.at("version").dump(),
           kManifestVersion, kRemedy);
    }
    read_corpus(manifest, directory);
    manifest.at("heldout_bytes").get<int64_t>();
    return manifest;
  } catch (const nlohmann::json::exception& error) {
    fail("{} is damaged ({}); {}", path.string(), error.what(), kRemedy);
  } catch (const std::logic_error& error) {  // std::stoull
    fail("{} is damaged ({}); {}", path.string(), error.what(), kRemedy);
  }
}

ShardSet open_shards(const std::vector<fs::path>& paths, bool verify) {
  std::vector<std::shared_ptr<const ShardReader>> shards;
  for (const fs::path& path : paths) shards.push_back(std::make_shared<ShardReader>(path, verify));
  return ShardSet(std::move(shards));
}

}  // namespace

Encoder encoder_of(const Tokenizer& tokenizer) {
  return {.encode = [tokenizer](std::string_view text) { return tokenizer.encode_ordinary(text); },
          .fingerprint = tokenizer.fingerprint(),
          .vocab_size = tokenizer.vocab_size()};
}

TokenIds token_ids(const Tokenizer& tokenizer, int64_t model_vocab_size) {
  return {.bos = tokenizer.bos_id().value_or(-1),
          .eos = tokenizer.eos_id().value_or(-1),
          .fim_begin = tokenizer.fim_begin_id().value_or(-1),
          .fim_hole = tokenizer.fim_hole_id().value_or(-1),
          .fim_end = tokenizer.fim_end_id().value_or(-1),
          .vocab_size = model_vocab_size,
          .tokenizer_fingerprint = tokenizer.fingerprint()};
}

std::vector<TrainingSource> TokenizedCorpus::open_training(bool verify) const {
  std::vector<TrainingSource> training;
  for (const TokenizedSource& source : sources) {
    training.push_back({source.description, source.weight, open_shards(source.train, verify)});
  }
  return training;
}

ShardSet TokenizedCorpus::open_heldout(bool verify) const {
  std::vector<fs::path> paths;
  for (const TokenizedSource& source : sources) paths.insert(paths.end(), source.heldout.begin(), source.heldout.end());
  return open_shards(paths, verify);
}

TokenizedCorpus tokenize_corpus(const std::vector<CorpusSource>& sources, const Encoder& encoder, const fs::path& directory,
                                const TokenizeOptions& options, const Stream& stream) {
  CHECK(!sources.empty() && encoder.encode && encoder.vocab_size > 0);
  if (!(options.heldout_fraction >= 0 && options.heldout_fraction < 1)) {
    fail_usage("the held-out fraction {} is not in [0, 1)", options.heldout_fraction);
  }
  const Json request = describe_request(sources, encoder, options);
  if (const std::optional<Json> manifest = read_manifest(directory); manifest && manifest->at("request") == request) {
    check_shards_of_manifest(*manifest, directory);
    TokenizedCorpus corpus = read_corpus(*manifest, directory);
    for (size_t i = 0; i < sources.size(); ++i) corpus.sources[i].weight = sources[i].weight;
    corpus.reused = true;
    return corpus;
  }
  const bool is_new = !is_there(directory);
  make_empty_directory(directory);
  try {
    return read_corpus(write_corpus(request, sources, encoder, directory, options, stream), directory);
  } catch (...) {
    std::error_code ignored;
    remove_leftovers(directory, ignored);  // no half corpus stays behind
    if (is_new) fs::remove(directory, ignored);
    throw;
  }
}

TokenizedCorpus open_tokenized(const fs::path& directory) {
  const std::optional<Json> manifest = read_manifest(directory);
  if (!manifest) fail("there is no tokenised data in {}: manifest.json is missing; {}", directory.string(), kRemedy);
  check_shards_of_manifest(*manifest, directory);
  TokenizedCorpus corpus = read_corpus(*manifest, directory);
  corpus.reused = true;
  return corpus;
}

}  // namespace rorqual
