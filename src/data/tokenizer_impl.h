// The inside of Tokenizer, for the files that build and save it.
#pragma once

#include <array>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/bpe.h"
#include "data/tokenizer.h"

namespace rorqual {

// An added token; its content is text, not byte-level spelling.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;
};

// Finds added tokens in text.
class AddedMatcher {
 public:
  explicit AddedMatcher(std::vector<std::pair<std::string, int32_t>> contents);
  struct Match {
    size_t begin, length;  // length 0: none
    int32_t id;
  };
  // The leftmost match at or after `from`, the longest there.
  Match find(std::string_view text, size_t from) const;

 private:
  Match match_at(std::string_view text, size_t at) const;

  std::vector<std::pair<std::string, int32_t>> sorted_;
  std::array<bool, 256> first_bytes_{};
  int only_first_ = -1;  // the one first byte of all, or -1
};

// Where a token is listed.
enum class TokenPlace : uint8_t {
  kAddedOnly,  // among the added tokens alone
  kModel,      // in model.vocab, spelled in the byte-level alphabet; perhaps added as well
  kModelText,  // an added token that model.vocab holds too, spelled as text: no merge makes it
};

// What a tokenizer consists of, checked by make_tokenizer.
struct TokenizerParts {
  std::vector<std::string> tokens;  // bytes by id; of added tokens the content
  std::vector<TokenPlace> places;   // by id
  std::vector<BpeMerge> merges;
  std::vector<AddedToken> added;  // ascending ids
  std::string bos, eos;           // contents; empty for none
  std::string post_processor;     // JSON; kept for saving, adds nothing here
  std::string config;             // tokenizer_config.json, as it will be saved
};

// `name` stands for the tokenizer in messages.
Tokenizer make_tokenizer(TokenizerParts parts, const std::string& name);

struct Tokenizer::Impl {
  Impl(TokenizerParts parts_in, BpeModel bpe_in);

  TokenizerParts parts;
  BpeModel bpe;
  std::vector<uint8_t> special, is_added;  // by id
  std::unordered_map<std::string, int32_t> added_ids;
  // As in the Rust library, tokens that are not normalized are cut out of the whole text first.
  AddedMatcher raw_matcher, normalized_matcher;
  std::optional<int32_t> bos, eos;
  uint64_t fingerprint = 0;
  uint64_t instance = 0;  // unique in the process; whose pieces a thread's cache holds
};

// The byte-level alphabet of GPT-2: every byte as a printable character. All codes are below 324.
char32_t byte_code(uint8_t byte);
// The 256 bytes in the order of their characters, which is the order of their ids in a new vocabulary.
const std::array<uint8_t, 256>& bytes_by_code();
std::string to_byte_level(std::string_view bytes);
// Nothing where a character is not of the alphabet.
std::optional<std::string> from_byte_level(std::string_view text);

}  // namespace rorqual
