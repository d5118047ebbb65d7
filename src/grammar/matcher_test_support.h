// What the tests of grammars share.
#pragma once

#include <string>
#include <string_view>

#include "base/rng.h"
#include "grammar/matcher.h"

namespace rorqual {

inline bool matches(Matcher& matcher, std::string_view text) {
  Matcher::State state = matcher.start();
  for (const char c : text) state = matcher.next(state, static_cast<uint8_t>(c));
  return matcher.accepts(state);
}

// A text of the grammar, drawn byte by byte; it ends where it must, where it may one time in `stop`, and never before.
inline std::string draw_text(Matcher& matcher, uint64_t seed, uint64_t stop) {
  const RandomKey key{seed, RandomPurpose::kTest, 5, 0};
  uint64_t drawn = 0;
  std::string text;
  for (Matcher::State state = matcher.start(); text.size() < 100'000;) {
    if (matcher.finished(state) || (matcher.accepts(state) && random_below(key, drawn++, stop) == 0)) break;
    // Plain letters and signs first: other bytes are most of the choice and say little.
    const bool plain = random_below(key, drawn++, 8) != 0;
    std::string choice;
    for (int b = plain ? 32 : 0; b < (plain ? 127 : 256); ++b)
      if (matcher.next(state, static_cast<uint8_t>(b)) != Matcher::kDead) choice += static_cast<char>(b);
    if (choice.empty()) continue;
    text += choice[random_below(key, drawn++, choice.size())];
    state = matcher.next(state, static_cast<uint8_t>(text.back()));
  }
  return text;
}

}  // namespace rorqual
