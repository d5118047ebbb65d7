// A language of byte strings (UTF-8) as rules, each a nondeterministic automaton whose edges read a byte or call a rule.
#pragma once

#include <cstdint>
#include <vector>

#include "grammar/expression.h"

namespace rorqual {

struct Grammar {
  struct Edge {
    enum class Kind : uint8_t { kBytes, kCall, kEmpty };
    Kind kind = Kind::kEmpty;
    uint8_t low = 0, high = 0;  // of kBytes: one byte in [low, high]
    bool tail = false;          // of kCall: the caller ends where the call returns
    int32_t rule = 0;           // of kCall
    int32_t to = 0;
  };
  struct Rule {
    int32_t begin = 0, end = 0;  // no edge leaves the end
  };
  std::vector<std::vector<Edge>> states;  // of all rules
  std::vector<Rule> rules;                // the text is rule 0
};

// Errors (usage): more states than kMostGrammarStates (repetitions are copied out), a rule that may begin with itself before it
// reads anything.
inline constexpr int64_t kMostGrammarStates = 200'000;
Grammar make_grammar(const std::vector<Expression>& rules);

}  // namespace rorqual
