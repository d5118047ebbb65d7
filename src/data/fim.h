// Fill-in-the-middle at document level, prefix-suffix-middle order (Bavarian et al. 2022, "Efficient Training of Language
// Models to Fill in the Middle"; rate and order as DeepSeek-V3, section 4.1).
#pragma once

#include <cstdint>

namespace rorqual {

// Where a document of n tokens is cut: prefix [0, first), middle [first, second), suffix [second, n).
struct FimSplit {
  int64_t first = 0, second = 0;
};

// Tokens that fill-in-the-middle adds to a packed document: begin, hole, end.
inline constexpr int64_t kFimExtraTokens = 3;

// Whether and where a document is cut in one epoch. Both cuts are independent and uniform over the n+1 token boundaries.
// Keys: (seed, kFillInMiddle, step = epoch, layer = draw, position = source << 40 | document).
bool fim_applies(uint64_t seed, int64_t epoch, int64_t source, int64_t document, double rate);
FimSplit fim_split(uint64_t seed, int64_t epoch, int64_t source, int64_t document, int64_t tokens);

}  // namespace rorqual
