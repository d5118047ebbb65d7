#include "data/bpe_trainer.h"

#include <algorithm>
#include <queue>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "data/pretokenizer.h"
#include "data/tokenizer_impl.h"

namespace rorqual {

namespace {

constexpr size_t kMaxWordBytes = 1024;

// Counts words; open addressing over views into the documents.
class WordCounter {
 public:
  WordCounter() { slots_.resize(1024); }

  void add(std::string_view word, int64_t count) {
    const uint64_t hash = hash_bytes(word.data(), static_cast<int64_t>(word.size()));
    add_hashed(word, hash, count);
  }

  void add_all(const WordCounter& other) {
    for (const Slot& slot : other.slots_) {
      if (slot.count > 0) add_hashed({slot.data, slot.size}, slot.hash, slot.count);
    }
  }

  std::vector<WordCount> words() const {
    std::vector<WordCount> list;
    list.reserve(used_);
    for (const Slot& slot : slots_) {
      if (slot.count > 0) list.push_back({{slot.data, slot.size}, slot.count});
    }
    return list;
  }

 private:
  struct Slot {
    const char* data = nullptr;
    uint64_t hash = 0;
    int64_t count = 0;
    uint32_t size = 0;
  };

  void add_hashed(std::string_view word, uint64_t hash, int64_t count) {
    if (2 * used_ >= slots_.size()) grow();
    Slot& slot = find(word, hash);
    if (slot.count == 0) {
      slot.data = word.data();
      slot.hash = hash;
      slot.size = static_cast<uint32_t>(word.size());
      ++used_;
    }
    slot.count += count;
  }

  Slot& find(std::string_view word, uint64_t hash) {
    const size_t mask = slots_.size() - 1;
    size_t i = hash & mask;
    while (slots_[i].count != 0 && (slots_[i].hash != hash || std::string_view(slots_[i].data, slots_[i].size) != word)) {
      i = (i + 1) & mask;
    }
    return slots_[i];
  }

  void grow() {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    const size_t mask = slots_.size() - 1;
    for (const Slot& slot : old) {
      if (slot.count == 0) continue;
      size_t i = slot.hash & mask;
      while (slots_[i].count != 0) i = (i + 1) & mask;
      slots_[i] = slot;
    }
  }

  std::vector<Slot> slots_;
  size_t used_ = 0;
};

class MergeTrainer {
 public:
  MergeTrainer(std::span<const WordCount> words, const std::vector<int32_t>& byte_tokens) {
    CHECK(words.size() < UINT32_MAX, "{} words", words.size());
    starts_.reserve(words.size() + 1);
    for (const WordCount& word : words) {
      if (word.word.size() < 2) continue;
      starts_.push_back(symbols_.size());
      sizes_.push_back(static_cast<uint32_t>(word.word.size()));
      counts_.push_back(word.count);
      for (const char byte : word.word) symbols_.push_back(byte_tokens[static_cast<uint8_t>(byte)]);
    }
    for (uint32_t word = 0; word < sizes_.size(); ++word) {
      const int32_t* symbols = &symbols_[starts_[word]];
      for (uint32_t i = 0; i + 1 < sizes_[word]; ++i) change(symbols[i], symbols[i + 1], counts_[word], word);
    }
    push_changed();
  }

  // The pair to merge next and its count; count 0 when there is none.
  struct Best {
    int32_t left, right;
    int64_t count;
  };
  Best best() {
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      Pair& pair = pairs_[top.index];
      if (pair.count == top.count) return {pair.left, pair.right, pair.count};
      // It went down since it was queued: queue it again where it belongs now.
      queue_.pop();
      if (pair.count > 0 && pair.count < top.count) queue_.push({pair.count, top.key, top.index});
    }
    return {0, 0, 0};
  }

  void merge(int32_t left, int32_t right, int32_t result) {
    const uint32_t index = pair_index_.at(key_of(left, right));
    const std::vector<uint32_t> words = std::move(pairs_[index].words);
    for (const uint32_t word : words) merge_in_word(word, left, right, result);
    CHECK(pairs_[index].count == 0, "{} of the pair ({}, {}) are left after its merge", pairs_[index].count, left, right);
    push_changed();
  }

 private:
  struct Pair {
    int32_t left, right;
    int64_t count = 0;
    bool changed = false;
    std::vector<uint32_t> words;  // in which it occurs or has occurred
  };
  struct Candidate {
    int64_t count;
    uint64_t key;
    uint32_t index;
    bool operator<(const Candidate& other) const { return count != other.count ? count < other.count : key > other.key; }
  };

  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  void change(int32_t left, int32_t right, int64_t by, uint32_t word) {
    const auto [found, fresh] = pair_index_.try_emplace(key_of(left, right), static_cast<uint32_t>(pairs_.size()));
    if (fresh) pairs_.push_back({left, right, 0, false, {}});
    Pair& pair = pairs_[found->second];
    pair.count += by;
    if (by <= 0) return;
    if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(word);
    if (!pair.changed) {
      pair.changed = true;
      changed_.push_back(found->second);
    }
  }

  void merge_in_word(uint32_t word, int32_t left, int32_t right, int32_t result) {
    int32_t* const symbols = &symbols_[starts_[word]];
    const uint32_t size = sizes_[word];
    const int64_t count = counts_[word];
    uint32_t i = 0;
    while (i + 1 < size && !(symbols[i] == left && symbols[i + 1] == right)) ++i;
    if (i + 1 >= size) return;
    uint32_t out = i;
    while (i < size) {
      if (i + 1 < size && symbols[i] == left && symbols[i + 1] == right) {
        change(left, right, -count, word);
        if (out > 0) {
          change(symbols[out - 1], left, -count, word);
          change(symbols[out - 1], result, count, word);
        }
        if (i + 2 < size) {
          change(right, symbols[i + 2], -count, word);
          change(result, symbols[i + 2], count, word);
        }
        symbols[out++] = result;
        i += 2;
      } else {
        symbols[out++] = symbols[i++];
      }
    }
    sizes_[word] = out;
  }

  void push_changed() {
    for (const uint32_t index : changed_) {
      Pair& pair = pairs_[index];
      pair.changed = false;
      if (pair.count > 0) queue_.push({pair.count, key_of(pair.left, pair.right), index});
    }
    changed_.clear();
  }

  std::vector<int32_t> symbols_;
  std::vector<size_t> starts_;   // by word
  std::vector<uint32_t> sizes_;  // by word; shrink
  std::vector<int64_t> counts_;  // by word
  std::vector<Pair> pairs_;
  std::unordered_map<uint64_t, uint32_t> pair_index_;
  std::priority_queue<Candidate> queue_;
  std::vector<uint32_t> changed_;
};

}  // namespace

std::vector<WordCount> count_words(std::span<const std::string_view> documents, const Stream& stream) {
  // Tasks of about equal bytes; their number does not show in the result.
  size_t total = 0;
  for (const std::string_view document : documents) total += document.size();
  const auto tasks = static_cast<int64_t>(std::clamp<size_t>(total >> 20, 1, static_cast<size_t>(4 * stream.threads())));
  std::vector<size_t> first(static_cast<size_t>(tasks) + 1, documents.size());
  first[0] = 0;
  size_t seen = 0, task = 1;
  for (size_t i = 0; i < documents.size() && task < static_cast<size_t>(tasks); ++i) {
    seen += documents[i].size();
    while (task < static_cast<size_t>(tasks) && seen >= total / static_cast<size_t>(tasks) * task) first[task++] = i + 1;
  }
  std::vector<WordCounter> counters(static_cast<size_t>(tasks));
  stream.parallel(tasks, [&](int64_t t) {
    for (size_t i = first[t]; i < first[t + 1]; ++i) {
      for_each_piece(documents[i], [&](std::string_view piece) {
        for (; piece.size() > kMaxWordBytes; piece.remove_prefix(kMaxWordBytes))
          counters[t].add(piece.substr(0, kMaxWordBytes), 1);
        counters[t].add(piece, 1);
      });
    }
  });
  for (size_t t = 1; t < counters.size(); ++t) {
    counters[0].add_all(counters[t]);
    counters[t] = WordCounter();
  }
  return counters[0].words();
}

std::vector<BpeMerge> train_merges(std::span<const WordCount> words, int32_t vocab_size, int64_t min_frequency,
                                   const std::vector<int32_t>& byte_tokens, std::vector<std::string>& tokens) {
  MergeTrainer trainer(words, byte_tokens);
  std::unordered_map<std::string, int32_t> ids;
  for (const int32_t id : byte_tokens) ids.emplace(tokens[id], id);
  std::set<std::pair<int32_t, int32_t>> known;
  std::vector<BpeMerge> merges;
  while (static_cast<int32_t>(tokens.size()) < vocab_size) {
    const MergeTrainer::Best best = trainer.best();
    if (best.count == 0 || best.count < min_frequency) break;
    std::string bytes = tokens[best.left] + tokens[best.right];
    const auto [found, fresh] = ids.try_emplace(bytes, static_cast<int32_t>(tokens.size()));
    if (fresh) tokens.push_back(std::move(bytes));
    // Two merges may make the same token, so a pair can come back after it was merged; encoding merges it by its old rank.
    if (known.emplace(best.left, best.right).second) merges.push_back({best.left, best.right, found->second});
    trainer.merge(best.left, best.right, found->second);
  }
  return merges;
}

Tokenizer train_tokenizer(const TokenizerTrainer& options, std::span<const std::string_view> documents, const Stream& stream) {
  constexpr std::string_view kFirst[] = {kBeginOfSentence, kEndOfSentence, kPadding};
  constexpr std::string_view kLast[] = {kFimHole, kFimBegin, kFimEnd};
  constexpr int32_t kFixed = 3 + 256 + 3;
  if (options.vocab_size < kFixed) {
    fail_usage("a vocabulary of {} is too small: 256 bytes and 6 special tokens need at least {}", options.vocab_size, kFixed);
  }
  const std::vector<WordCount> words = count_words(documents, stream);
  if (words.empty()) fail("no text to train a tokenizer on: {} documents, all empty", documents.size());

  TokenizerParts parts;
  for (const std::string_view content : kFirst) {
    parts.added.push_back({static_cast<int32_t>(parts.tokens.size()), std::string(content), true, false});
    parts.tokens.emplace_back(content);
    parts.places.push_back(TokenPlace::kModelText);
  }
  std::vector<int32_t> byte_tokens(256);
  for (const uint8_t byte : bytes_by_code()) {
    byte_tokens[byte] = static_cast<int32_t>(parts.tokens.size());
    parts.tokens.emplace_back(1, static_cast<char>(byte));
  }
  parts.merges = train_merges(words, options.vocab_size - 3, options.min_frequency, byte_tokens, parts.tokens);
  parts.places.resize(parts.tokens.size(), TokenPlace::kModel);
  if (static_cast<int32_t>(parts.tokens.size()) < options.vocab_size - 3) {
    warn("the corpus is too small for a vocabulary of {}: no pair occurs {} times any more; the tokenizer has {} tokens",
         options.vocab_size, options.min_frequency, parts.tokens.size() + 3);
  }
  for (const std::string_view content : kLast) {
    // As in DeepSeek-V3's file, these three are not marked special: decoding shows them.
    parts.added.push_back({static_cast<int32_t>(parts.tokens.size()), std::string(content), false, true});
    parts.tokens.emplace_back(content);
    parts.places.push_back(TokenPlace::kAddedOnly);
  }
  parts.bos = kBeginOfSentence;
  parts.eos = kEndOfSentence;
  parts.post_processor = "{\"add_prefix_space\":true,\"trim_offsets\":false,\"type\":\"ByteLevel\",\"use_regex\":true}";
  return make_tokenizer(std::move(parts), "the trained tokenizer");
}

}  // namespace rorqual
