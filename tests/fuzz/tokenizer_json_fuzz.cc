// Parses arbitrary bytes as tokenizer.json. What is accepted must round-trip text and its own saved form; what is not must be
// an Error. The first byte of the input says how much of the rest is tokenizer_config.json.
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "data/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rorqual;
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t config_bytes = text.size() * data[0] / 256;
  std::optional<Tokenizer> tokenizer;
  try {
    tokenizer = Tokenizer::parse(text.substr(config_bytes), text.substr(0, config_bytes), "fuzz");
  } catch (const Error&) {
    return 0;
  }
  if (tokenizer->decode(tokenizer->encode(text)) != text) std::abort();
  if (tokenizer->decode(tokenizer->encode_ordinary(text)) != text) std::abort();
  const Tokenizer again = Tokenizer::parse(tokenizer->tokenizer_json(), tokenizer->config_json(), "saved");
  if (again.fingerprint() != tokenizer->fingerprint()) std::abort();
  return 0;
}
