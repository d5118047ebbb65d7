// Follows a text byte by byte through a grammar. What is known of the text so far is a set of (state, stack of returns); sets
// are numbered as they are met, so that a step taken once is a look-up.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "grammar/grammar.h"

namespace rorqual {

class Matcher {
 public:
  using State = int32_t;
  static constexpr State kDead = -1;  // no text of the grammar begins like this

  explicit Matcher(Grammar grammar);

  State start() const { return 0; }
  // kDead also where the text nests deeper than kMostDepth, or more than kMostSets sets were met.
  State next(State state, uint8_t byte);
  // The text may end here.
  bool accepts(State state) const { return state != kDead && sets_[static_cast<size_t>(state)].accepts; }
  // The text may end here and cannot go on.
  bool finished(State state) const { return accepts(state) && sets_[static_cast<size_t>(state)].reading.empty(); }

  static constexpr int32_t kMostDepth = 256;
  static constexpr size_t kMostSets = 200'000;

 private:
  // Where a rule returns to, and what that one's rule returns to. Equal stacks are one.
  struct Frame {
    int32_t to = 0, below = 0, depth = 0;
  };
  static constexpr int32_t kBottom = -1;
  using Configuration = std::pair<int32_t, int32_t>;  // state, frame
  struct Set {
    std::vector<Configuration> reading;  // those with an edge that reads a byte, sorted
    bool accepts = false;
  };

  int32_t push(int32_t to, int32_t below);
  State number(std::vector<Configuration> from);

  Grammar grammar_;
  std::vector<bool> ends_;  // by state: a rule ends there
  std::vector<Frame> frames_;
  std::map<std::pair<int32_t, int32_t>, int32_t> frame_of_;
  std::vector<Set> sets_;
  std::map<std::pair<std::vector<Configuration>, bool>, State> set_of_;
  std::unordered_map<uint64_t, State> steps_;
};

}  // namespace rorqual
