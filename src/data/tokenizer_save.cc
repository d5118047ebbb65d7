// Writes tokenizer.json and tokenizer_config.json as the Rust `tokenizers` library and transformers read them, and the
// byte-level spelling of tokens.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "data/pretokenizer.h"
#include "data/tokenizer_impl.h"
#include "data/unicode.h"

namespace rorqual {

namespace {

bool is_printable(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr int kByteCodes = 324;

struct ByteAlphabet {
  std::array<char32_t, 256> codes;
  std::array<int16_t, kByteCodes> bytes;
  std::array<uint8_t, 256> order;

  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      codes[byte] = is_printable(byte) ? static_cast<char32_t>(byte) : next++;
      bytes[codes[byte]] = static_cast<int16_t>(byte);
      order[byte] = static_cast<uint8_t>(byte);
    }
    std::sort(order.begin(), order.end(), [&](uint8_t a, uint8_t b) { return codes[a] < codes[b]; });
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet instance;
  return instance;
}

std::string json_string(std::string_view text) {
  return nlohmann::json(text).dump();
}
const char* json_bool(bool value) {
  return value ? "true" : "false";
}

std::string pre_tokenizer_json() {
  std::string text = "{\n    \"type\": \"Sequence\",\n    \"pretokenizers\": [\n";
  for (const std::string_view pattern : {kSplitNumber, kSplitCjk, kSplitWord}) {
    text += fmt::format(
        "      {{\"type\": \"Split\", \"pattern\": {{\"Regex\": {}}}, \"behavior\": \"Isolated\", \"invert\": false}},\n",
        json_string(pattern));
  }
  text +=
      "      {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}\n    ]\n  }";
  return text;
}

std::string added_tokens_json(const std::vector<AddedToken>& added) {
  std::string text = "[";
  for (const AddedToken& token : added) {
    text += fmt::format(
        "{}\n    {{\"id\": {}, \"content\": {}, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": "
        "{}, "
        "\"special\": {}}}",
        text.size() == 1 ? "" : ",", token.id, json_string(token.content), json_bool(token.normalized),
        json_bool(token.special));
  }
  return text + (added.empty() ? "]" : "\n  ]");
}

}  // namespace

char32_t byte_code(uint8_t byte) {
  return alphabet().codes[byte];
}
const std::array<uint8_t, 256>& bytes_by_code() {
  return alphabet().order;
}

std::string to_byte_level(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) append_utf8(byte_code(static_cast<uint8_t>(byte)), text);
  return text;
}

std::optional<std::string> from_byte_level(std::string_view text) {
  std::string bytes;
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    const CodeAt at = decode_utf8(p, end);
    if (at.bytes == 0 || at.code >= kByteCodes || alphabet().bytes[at.code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(alphabet().bytes[at.code]));
    p += at.bytes;
  }
  return bytes;
}

std::string Tokenizer::tokenizer_json() const {
  const TokenizerParts& parts = impl_->parts;
  std::string text = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": ";
  text += added_tokens_json(parts.added);
  text += ",\n  \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": []},\n  \"pre_tokenizer\": " + pre_tokenizer_json();
  text += ",\n  \"post_processor\": " + parts.post_processor;
  text +=
      ",\n  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}";
  text +=
      ",\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
      "    \"byte_fallback\": false,\n    \"vocab\": {";
  const char* separator = "\n";
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    if (parts.places[id] == TokenPlace::kAddedOnly) continue;
    const bool as_text = parts.places[id] == TokenPlace::kModelText;
    text +=
        fmt::format("{}      {}: {}", separator, json_string(as_text ? parts.tokens[id] : to_byte_level(parts.tokens[id])), id);
    separator = ",\n";
  }
  text += "\n    },\n    \"merges\": [";
  separator = "\n";
  for (const BpeMerge& merge : parts.merges) {
    // The old form, which every version reads: byte-level spellings hold no space.
    text += separator;
    text += "      " + json_string(to_byte_level(parts.tokens[merge.left]) + " " + to_byte_level(parts.tokens[merge.right]));
    separator = ",\n";
  }
  text += parts.merges.empty() ? "]\n  }\n}\n" : "\n    ]\n  }\n}\n";
  return text;
}

std::string Tokenizer::config_json() const {
  if (!impl_->parts.config.empty()) return impl_->parts.config;
  nlohmann::ordered_json config;
  const auto role = [](const std::string& content) {
    return content.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(content);
  };
  config["add_bos_token"] = true;
  config["add_eos_token"] = false;
  config["bos_token"] = role(impl_->parts.bos);
  config["eos_token"] = role(impl_->parts.eos);
  if (pad_id()) config["pad_token"] = kPadding;
  config["unk_token"] = nullptr;
  config["clean_up_tokenization_spaces"] = false;
  // Not LlamaTokenizerFast: transformers 5 gives that class a pre-tokenizer of its own, which drops spaces.
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  return config.dump(2) + "\n";
}

void Tokenizer::save(const std::filesystem::path& dir) const {
  std::filesystem::create_directories(dir);
  write_file_atomically(dir / "tokenizer.json", tokenizer_json());
  write_file_atomically(dir / "tokenizer_config.json", config_json());
}

}  // namespace rorqual
