#include "grammar/matcher.h"

#include <algorithm>
#include <set>

#include "base/error.h"

namespace rorqual {

using Kind = Grammar::Edge::Kind;

Matcher::Matcher(Grammar grammar) : grammar_(std::move(grammar)), ends_(grammar_.states.size(), false) {
  for (const Grammar::Rule& rule : grammar_.rules) ends_[static_cast<size_t>(rule.end)] = true;
  const State first = number({{grammar_.rules.front().begin, kBottom}});
  CHECK(first == 0);
}

int32_t Matcher::push(int32_t to, int32_t below) {
  const auto [place, is_new] = frame_of_.try_emplace({to, below}, static_cast<int32_t>(frames_.size()));
  if (is_new) frames_.push_back({to, below, below == kBottom ? 1 : frames_[static_cast<size_t>(below)].depth + 1});
  return place->second;
}

// Everything reachable without reading; then the number of that set.
Matcher::State Matcher::number(std::vector<Configuration> open) {
  std::set<Configuration> seen(open.begin(), open.end());
  Set set;
  const auto visit = [&](int32_t state, int32_t frame) {
    if (seen.insert({state, frame}).second) open.emplace_back(state, frame);
  };
  while (!open.empty()) {
    const auto [state, frame] = open.back();
    open.pop_back();
    const auto& edges = grammar_.states[static_cast<size_t>(state)];
    bool reads = false;
    for (const Grammar::Edge& e : edges) {
      if (e.kind == Kind::kBytes) reads = true;
      if (e.kind == Kind::kEmpty) visit(e.to, frame);
      if (e.kind != Kind::kCall) continue;
      const int32_t begin = grammar_.rules[static_cast<size_t>(e.rule)].begin;
      if (e.tail) {
        visit(begin, frame);
      } else if (frame == kBottom || frames_[static_cast<size_t>(frame)].depth < kMostDepth) {
        visit(begin, push(e.to, frame));
      }
    }
    if (reads) set.reading.emplace_back(state, frame);
    if (!edges.empty()) continue;
    if (!ends_[static_cast<size_t>(state)]) continue;  // a choice among nothing
    if (frame == kBottom) {
      set.accepts = true;
    } else {
      visit(frames_[static_cast<size_t>(frame)].to, frames_[static_cast<size_t>(frame)].below);
    }
  }
  if (set.reading.empty() && !set.accepts) return kDead;
  std::sort(set.reading.begin(), set.reading.end());
  const auto found = set_of_.find({set.reading, set.accepts});
  if (found != set_of_.end()) return found->second;
  if (sets_.size() >= kMostSets) return kDead;
  const auto state = static_cast<State>(sets_.size());
  set_of_.emplace(std::make_pair(set.reading, set.accepts), state);
  sets_.push_back(std::move(set));
  return state;
}

Matcher::State Matcher::next(State state, uint8_t byte) {
  if (state == kDead) return kDead;
  const uint64_t key = static_cast<uint64_t>(state) << 8 | byte;
  if (const auto known = steps_.find(key); known != steps_.end()) return known->second;
  std::vector<Configuration> reached;
  for (const auto& [from, frame] : sets_[static_cast<size_t>(state)].reading)
    for (const Grammar::Edge& e : grammar_.states[static_cast<size_t>(from)])
      if (e.kind == Kind::kBytes && e.low <= byte && byte <= e.high) reached.emplace_back(e.to, frame);
  std::sort(reached.begin(), reached.end());
  reached.erase(std::unique(reached.begin(), reached.end()), reached.end());
  const State to = reached.empty() ? kDead : number(std::move(reached));
  steps_.emplace(key, to);
  return to;
}

}  // namespace rorqual
