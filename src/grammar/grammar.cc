#include "grammar/grammar.h"

#include <algorithm>
#include <array>
#include <functional>
#include <unordered_set>

#include "base/error.h"

namespace rorqual {
namespace {

struct Utf8 {
  std::array<uint8_t, 4> bytes{};
  int length = 0;
};

Utf8 utf8(char32_t c) {
  const auto byte = [](char32_t b) { return static_cast<uint8_t>(b); };
  if (c < 0x80) return {{byte(c)}, 1};
  if (c < 0x800) return {{byte(0xc0 | c >> 6), byte(0x80 | (c & 0x3f))}, 2};
  if (c < 0x10000) return {{byte(0xe0 | c >> 12), byte(0x80 | (c >> 6 & 0x3f)), byte(0x80 | (c & 0x3f))}, 3};
  return {{byte(0xf0 | c >> 18), byte(0x80 | (c >> 12 & 0x3f)), byte(0x80 | (c >> 6 & 0x3f)), byte(0x80 | (c & 0x3f))}, 4};
}

class Builder {
 public:
  Grammar build(const std::vector<Expression>& rules) {
    for (const Expression& expression : rules) {
      const int32_t begin = state(), end = state();
      grammar_.rules.push_back({begin, end});
      add(expression, begin, end);
    }
    std::vector<bool> ends(grammar_.states.size(), false);
    for (const Grammar::Rule& rule : grammar_.rules) ends[static_cast<size_t>(rule.end)] = true;
    for (auto& edges : grammar_.states)
      for (Grammar::Edge& e : edges) e.tail = e.kind == Grammar::Edge::Kind::kCall && ends[static_cast<size_t>(e.to)];
    refuse_left_recursion();
    return std::move(grammar_);
  }

 private:
  int32_t state() {
    if (static_cast<int64_t>(grammar_.states.size()) >= kMostGrammarStates)
      fail_usage("the grammar needs more than {} states: choose smaller repetitions or fewer alternatives", kMostGrammarStates);
    grammar_.states.emplace_back();
    return static_cast<int32_t>(grammar_.states.size()) - 1;
  }
  void edge(int32_t from, const Grammar::Edge& e) { grammar_.states[static_cast<size_t>(from)].push_back(e); }
  void jump(int32_t from, int32_t to) { edge(from, {.to = to}); }
  void bytes(int32_t from, uint8_t low, uint8_t high, int32_t to) {
    edge(from, {.kind = Grammar::Edge::Kind::kBytes, .low = low, .high = high, .to = to});
  }

  // Ways from `from` to `to` that read what the expression says.
  void add(const Expression& x, int32_t from, int32_t to) {
    switch (x.kind) {
      case Expression::Kind::kSequence:
        return add_sequence(x, from, to);
      case Expression::Kind::kChoice:
        for (const Expression& option : x.children) add(option, from, to);
        return;
      case Expression::Kind::kRepeat:
        return add_repeat(x, from, to);
      case Expression::Kind::kCharacters:
        for (const CharacterRange& r : normalised(x.characters)) add_characters(r, from, to);
        return;
      case Expression::Kind::kCall:
        return edge(from, {.kind = Grammar::Edge::Kind::kCall, .rule = x.rule, .to = to});
    }
  }

  void add_sequence(const Expression& x, int32_t from, int32_t to) {
    if (x.children.empty()) return jump(from, to);
    for (size_t i = 0; i < x.children.size(); ++i) {
      const int32_t next = i + 1 < x.children.size() ? state() : to;
      add(x.children[i], from, next);
      from = next;
    }
  }

  void add_repeat(const Expression& x, int32_t from, int32_t to) {
    const Expression& child = x.children.front();
    for (int64_t i = 0; i < x.least; ++i) {
      const int32_t next = state();
      add(child, from, next);
      from = next;
    }
    if (x.most == kUnbounded) {
      const int32_t loop = state();  // of its own: nothing that leads to `from` may enter the loop's edges
      jump(from, loop);
      const int32_t after = state();
      add(child, loop, after);
      jump(after, loop);
      return jump(loop, to);
    }
    for (int64_t i = x.least; i < x.most; ++i) {
      jump(from, to);
      const int32_t next = state();
      add(child, from, next);
      from = next;
    }
    jump(from, to);
  }

  // Splits the range until all its encodings are a product of byte ranges.
  void add_characters(CharacterRange r, int32_t from, int32_t to) {
    for (const char32_t last : {char32_t{0x7f}, char32_t{0x7ff}, char32_t{0xffff}}) {
      if (r.first > last || r.last <= last) continue;
      add_characters({r.first, last}, from, to);
      r.first = last + 1;
    }
    const int length = utf8(r.first).length;
    for (int i = 1; i < length; ++i) {
      const char32_t mask = (char32_t{1} << 6 * i) - 1;
      if ((r.first & ~mask) == (r.last & ~mask)) continue;
      if ((r.first & mask) != 0) {
        add_characters({r.first, r.first | mask}, from, to);
        return add_characters({(r.first | mask) + 1, r.last}, from, to);
      }
      if ((r.last & mask) != mask) {
        add_characters({r.first, (r.last & ~mask) - 1}, from, to);
        return add_characters({r.last & ~mask, r.last}, from, to);
      }
    }
    const Utf8 low = utf8(r.first), high = utf8(r.last);
    for (int i = 0; i < length; ++i) {
      const int32_t next = i + 1 < length ? state() : to;
      bytes(from, low.bytes[static_cast<size_t>(i)], high.bytes[static_cast<size_t>(i)], next);
      from = next;
    }
  }

  // Whether each rule can match the empty text, by iteration to the fixed point.
  std::vector<bool> empty_rules() const {
    std::vector<bool> empty(grammar_.rules.size(), false);
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t r = 0; r < empty.size(); ++r) {
        if (empty[r]) continue;
        bool reached = false;
        walk_without_reading(
            grammar_.rules[r].begin, empty, [](int32_t) {},
            [&](int32_t s) { reached = reached || s == grammar_.rules[r].end; });
        if (reached) empty[r] = changed = true;
      }
    }
    return empty;
  }

  // Visits the states reachable from `begin` before any byte, and the rules called there.
  template <class OnCall, class OnState>
  void walk_without_reading(int32_t begin, const std::vector<bool>& empty, const OnCall& on_call,
                            const OnState& on_state) const {
    std::unordered_set<int32_t> seen = {begin};
    std::vector<int32_t> open = {begin};
    while (!open.empty()) {
      const int32_t s = open.back();
      open.pop_back();
      on_state(s);
      for (const Grammar::Edge& e : grammar_.states[static_cast<size_t>(s)]) {
        if (e.kind == Grammar::Edge::Kind::kCall) on_call(e.rule);
        const bool passes = e.kind == Grammar::Edge::Kind::kEmpty ||
                            (e.kind == Grammar::Edge::Kind::kCall && empty[static_cast<size_t>(e.rule)]);
        if (passes && seen.insert(e.to).second) open.push_back(e.to);
      }
    }
  }

  // A rule that calls itself before it reads anything would be called without end.
  void refuse_left_recursion() const {
    const std::vector<bool> empty = empty_rules();
    enum class Mark : uint8_t { kNew, kOpen, kDone };
    std::vector<std::vector<int32_t>> first(grammar_.rules.size());
    for (size_t r = 0; r < first.size(); ++r)
      walk_without_reading(
          grammar_.rules[r].begin, empty, [&](int32_t rule) { first[r].push_back(rule); }, [](int32_t) {});
    std::vector<Mark> mark(first.size(), Mark::kNew);
    const std::function<void(int32_t)> visit = [&](int32_t r) {
      const auto i = static_cast<size_t>(r);
      if (mark[i] == Mark::kDone) return;
      if (mark[i] == Mark::kOpen) fail_usage("the grammar refers to itself before it reads anything: it describes no text");
      mark[i] = Mark::kOpen;
      for (const int32_t next : first[i]) visit(next);
      mark[i] = Mark::kDone;
    };
    for (size_t r = 0; r < first.size(); ++r) visit(static_cast<int32_t>(r));
  }

  Grammar grammar_;
};

}  // namespace

Grammar make_grammar(const std::vector<Expression>& rules) {
  CHECK(!rules.empty());
  return Builder().build(rules);
}

}  // namespace rorqual
