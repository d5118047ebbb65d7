// Learns BPE merges from counted words.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/threads.h"
#include "data/bpe.h"

namespace rorqual {

struct WordCount {
  std::string_view word;
  int64_t count;
};

// Pre-tokens of the documents with their counts, each once, in no order that means anything. Views into the documents.
std::vector<WordCount> count_words(std::span<const std::string_view> documents, const Stream& stream);

// Merges the most frequent pair of neighbours (the smaller pair of ids among equals) until `tokens` holds `vocab_size` entries
// or no pair occurs `min_frequency` times. `tokens` starts with the specials and the bytes; new tokens are appended to it. A
// merge whose bytes are a token already leads to that token.
std::vector<BpeMerge> train_merges(std::span<const WordCount> words, int32_t vocab_size, int64_t min_frequency,
                                   const std::vector<int32_t>& byte_tokens, std::vector<std::string>& tokens);

}  // namespace rorqual
