// Byte-level BPE tokenizer with DeepSeek-V3's pre-tokenizer, kept as a Hugging Face tokenizer.json (docs/formats/tokenizer.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/threads.h"

namespace rorqual {

// DeepSeek-V3's own spellings (fullwidth bars U+FF5C, lower one eighth blocks U+2581).
inline constexpr std::string_view kBeginOfSentence = "<｜begin▁of▁sentence｜>";
inline constexpr std::string_view kEndOfSentence = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view kPadding = "<｜▁pad▁｜>";
inline constexpr std::string_view kFimHole = "<｜fim▁hole｜>";
inline constexpr std::string_view kFimBegin = "<｜fim▁begin｜>";
inline constexpr std::string_view kFimEnd = "<｜fim▁end｜>";

// Immutable and cheap to copy; const use is safe from any number of threads.
class Tokenizer {
 public:
  struct Impl;

  // Reads tokenizer.json and, if it is there, tokenizer_config.json. What we cannot reproduce exactly (another pre-tokenizer,
  // normalizer, decoder or model, …) is an Error that names the file, the construct and what is supported.
  static Tokenizer load(const std::filesystem::path& dir);
  // The same from the texts of the two files (`config_json` may be empty); `name` stands for the directory in messages.
  static Tokenizer parse(std::string_view tokenizer_json, std::string_view config_json, const std::string& name);

  // Writes the two files, each atomically, into an existing or new directory. The bytes depend on the tokenizer alone.
  void save(const std::filesystem::path& dir) const;
  std::string tokenizer_json() const;
  std::string config_json() const;

  // Adds no special tokens, but recognises added tokens that the text spells: leftmost first, the longest at one position.
  // decode(encode(text)) == text for all bytes, valid UTF-8 or not.
  std::vector<int32_t> encode(std::string_view text) const;
  void encode(std::string_view text, std::vector<int32_t>& append_to) const;
  // Recognises no added tokens: for text that is not to be trusted with them, such as training documents.
  std::vector<int32_t> encode_ordinary(std::string_view text) const;
  void encode_ordinary(std::string_view text, std::vector<int32_t>& append_to) const;

  // The exact bytes; they may end inside a UTF-8 sequence. `skip_special` leaves out tokens marked special. An id out of range
  // is an Error.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // Ids are 0 .. vocab_size() - 1, added tokens included.
  int32_t vocab_size() const;
  // The bytes that a token stands for; Error out of range.
  std::string_view token(int32_t id) const;
  // The id of an added token.
  std::optional<int32_t> id_of(std::string_view added_token) const;
  bool is_special(int32_t id) const;  // Error out of range
  bool is_added(int32_t id) const;    // special or not; Error out of range

  // As tokenizer_config.json names them, without one by DeepSeek-V3's spellings.
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  // By DeepSeek-V3's spellings.
  std::optional<int32_t> pad_id() const;
  std::optional<int32_t> fim_hole_id() const;
  std::optional<int32_t> fim_begin_id() const;
  std::optional<int32_t> fim_end_id() const;

  // Hash of all that affects encoding, and of the ids of BOS and EOS; stored with everything that holds token ids.
  uint64_t fingerprint() const;

  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  const Impl& impl() const { return *impl_; }

 private:
  std::shared_ptr<const Impl> impl_;
};

struct TokenizerTrainer {
  // All tokens: 256 bytes, the 6 of DeepSeek-V3 named above, and merges.
  int32_t vocab_size = 8192;
  // A pair that occurs less often is not merged; if nothing else is left, the vocabulary stays smaller (with a warning).
  int64_t min_frequency = 2;
};

// Learns merges from documents (bytes; valid UTF-8 or not; added tokens in them are ordinary text). The result depends on the
// multiset of documents alone: equal counts go to the smaller pair of ids. Pre-tokens longer than 1 KiB are counted in parts.
// Errors: a vocabulary too small for bytes and specials, no text at all.
Tokenizer train_tokenizer(const TokenizerTrainer& options, std::span<const std::string_view> documents, const Stream& stream);

}  // namespace rorqual
