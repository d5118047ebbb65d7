// What the tests of the tokenizer share.
#pragma once

#include <zstd.h>

#include <ctime>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "data/tokenizer.h"
#include "data/unicode.h"

namespace rorqual {

inline constexpr const char* kGoldenFolder = "tests/golden/tokenizer/";

inline const std::string& deepseek_json() {
  static const std::string text = [] {
    const std::string packed = read_file(std::string(kGoldenFolder) + "deepseek_v3_tokenizer.json.zst");
    std::string out(16 << 20, '\0');
    const size_t size = ZSTD_decompress(out.data(), out.size(), packed.data(), packed.size());
    CHECK(ZSTD_isError(size) == 0, "{}", ZSTD_getErrorName(size));
    out.resize(size);
    return out;
  }();
  return text;
}

inline const Tokenizer& deepseek() {
  static const Tokenizer tokenizer = Tokenizer::parse(
      deepseek_json(), read_file(std::string(kGoldenFolder) + "deepseek_v3_tokenizer_config.json"), "deepseek");
  return tokenizer;
}

// For bounds on time: the process's own, whatever else the machine does. Sanitizers make it several times longer.
inline double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr double kSlowdown = 20;
#else
inline constexpr double kSlowdown = 1;
#endif

// Draws for tests: draw number `index` of case `index_of_case`.
class Draws {
 public:
  explicit Draws(uint64_t index_of_case) : key_{11, RandomPurpose::kTest, index_of_case, 0} {}
  uint64_t below(uint64_t n) { return random_below(key_, position_++, n); }

 private:
  RandomKey key_;
  uint64_t position_ = 0;
};

inline std::string random_bytes(Draws& draws, size_t size) {
  std::string text;
  while (text.size() < size) text.push_back(static_cast<char>(draws.below(256)));
  return text;
}

// Characters of all kinds, those that the patterns tell apart often.
inline std::string random_text(Draws& draws, size_t characters) {
  static constexpr char32_t kOften[] =
      U"aZ é  \t\n\r\u0085\u00A0\u3000\uFEFF'.,<|{1٣Ⅷ中ー・ぁ\u0301\u00AD€😀\u0000\u0001";  // an array: a NUL is among them
  std::string text;
  for (size_t i = 0; i < characters; ++i) {
    if (draws.below(4) > 0) {
      append_utf8(kOften[draws.below(std::size(kOften) - 1)], text);
    } else {
      const auto code = static_cast<char32_t>(draws.below(draws.below(2) ? 0x3000 : 0x110000));
      append_utf8(code >= 0xD800 && code <= 0xDFFF ? U'?' : code, text);
    }
  }
  return text;
}

inline std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace rorqual
