// DeepSeek-V3's pre-tokenizer: cuts text into the pieces inside which BPE merges. Written by hand in place of a regex engine:
// one pass, no backtracking, no stack, linear for every input.
//
// It stands for three splits in a row (behaviour "isolated"), after the Rust `tokenizers` library:
//   1. \p{N}{1,3}
//   2. [一-龥぀-ゟ゠-ヿ]+
//   3. [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+
//      |\s+(?!\S)|\s+
// Each works on the pieces of those before it, so the third cuts runs of Han and kana again (at ・, say). What the third leaves
// unmatched is a piece of its own. A byte that is no valid UTF-8 is a piece of its own, and ends the text before it as the end
// of the file would.
#pragma once

#include <string_view>

namespace rorqual {

// The end of the piece that starts at `p` < `end`, where `p` is the start of the text or the end of its previous piece.
const char* next_piece(const char* p, const char* end);

// Calls body(std::string_view piece) for each piece; together they are the text.
template <class Body>
void for_each_piece(std::string_view text, Body&& body) {
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    const char* const next = next_piece(p, end);
    body(std::string_view(p, static_cast<size_t>(next - p)));
    p = next;
  }
}

// The regular expressions of the three splits as tokenizer.json spells them.
extern const std::string_view kSplitNumber, kSplitCjk, kSplitWord;

}  // namespace rorqual
