#include "sim/chunk.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace rorqual {
namespace {

// When something is through, for each member.
using Times = std::vector<double>;

class Streams {
 public:
  Streams(size_t members, bool spans) : free_(members, 0.0), busy_(members, 0.0), keeps_spans_(spans) {}

  // seconds(member) behind `after`.
  template <class Seconds>
  Times compute(const BlockTimes& block, const char* name, const Times& after, Seconds&& seconds) {
    double longest = 0;
    for (size_t m = 0; m < free_.size(); ++m) {
      const double length = seconds(block.members[m]), start = std::max(free_[m], after[m]);
      if (m == 0 && length > 0) keep(block, name, false, start, start + length);
      longest = std::max(longest, length);
      free_[m] = start + length;
      busy_[m] += length;
    }
    return longest > 0 ? free_ : after;
  }

  Times move(const BlockTimes& block, const char* name, const Times& after, double seconds) {
    if (seconds <= 0) return after;
    const double begin = std::max(link_free_, *std::max_element(after.begin(), after.end()));
    link_free_ = begin + seconds;
    communication_ += seconds;
    keep(block, name, true, begin, link_free_);
    return Times(free_.size(), link_free_);
  }

  ChunkRun finish() {
    ChunkRun run;
    run.seconds = std::max(link_free_, *std::max_element(free_.begin(), free_.end()));
    run.busy = *std::max_element(busy_.begin(), busy_.end());
    for (const double b : busy_) run.compute += b / static_cast<double>(busy_.size());
    run.communication = communication_;
    run.spans = std::move(spans_);
    return run;
  }

 private:
  void keep(const BlockTimes& block, const char* name, bool communication, double begin, double end) {
    if (keeps_spans_) spans_.push_back({block.name + " " + name, communication, begin, end});
  }

  Times free_, busy_;
  double link_free_ = 0, communication_ = 0;
  bool keeps_spans_;
  std::vector<ChunkSpan> spans_;
};

// The walk over both lists. `forward_` and `backward_` are when the last phase of either is through.
class Walk {
 public:
  Walk(size_t members, BackwardParts parts, bool beside, bool weights_beside, bool spans)
      : streams_(members, spans),
        parts_(parts),
        beside_(beside),
        weights_beside_(weights_beside),
        forward_(members, 0.0),
        backward_(members, 0.0),
        other_forward_(members, 0.0) {}

  void forward_attention(const BlockTimes& b) {
    forward_ = streams_.compute(b, "attention forward", forward_,
                                [&](const BlockSeconds& s) { return (beside_ ? s.attention_beside : s.attention).forward; });
  }
  void forward_dispatch(const BlockTimes& b) { forward_ = streams_.move(b, "dispatch forward", forward_, b.exchange.dispatch); }
  void forward_mlp(const BlockTimes& b) {
    forward_ = streams_.compute(b, "mlp forward", forward_,
                                [&](const BlockSeconds& s) { return (beside_ ? s.mlp_beside : s.mlp).forward; });
  }
  void forward_combine(const BlockTimes& b) { forward_ = streams_.move(b, "combine forward", forward_, b.exchange.combine); }

  void change_micro_batch() { std::swap(forward_, other_forward_); }

  // Backward of combine sends gradients as dispatch sends rows, and the other way round (spec 2.1).
  void backward_combine(const BlockTimes& b) {
    if (inputs()) backward_ = streams_.move(b, "combine backward", backward_, b.exchange.dispatch);
  }
  void backward_mlp(const BlockTimes& b) {
    if (inputs()) {
      backward_ = streams_.compute(b, "mlp input gradient", backward_,
                                   [&](const BlockSeconds& s) { return (beside_ ? s.mlp_beside : s.mlp).input_gradient; });
    }
    if (weights()) {
      streams_.compute(b, "mlp weight gradient", backward_, [&](const BlockSeconds& s) {
        return (beside_ || (weights_beside_ && inputs()) ? s.mlp_beside : s.mlp).weight_gradient;
      });
    }
  }
  void backward_dispatch(const BlockTimes& b) {
    if (inputs()) backward_ = streams_.move(b, "dispatch backward", backward_, b.exchange.combine);
  }
  void backward_attention(const BlockTimes& b) {
    if (inputs()) {
      backward_ = streams_.compute(b, "attention input gradient", backward_, [&](const BlockSeconds& s) {
        return (beside_ ? s.attention_beside : s.attention).input_gradient;
      });
    }
    if (weights()) {
      streams_.compute(b, "attention weight gradient", backward_, [&](const BlockSeconds& s) {
        return (beside_ || (weights_beside_ && inputs()) ? s.attention_beside : s.attention).weight_gradient;
      });
    }
  }

  ChunkRun finish() { return streams_.finish(); }

 private:
  bool inputs() const { return parts_ != BackwardParts::kWeight; }
  bool weights() const { return parts_ != BackwardParts::kInput; }

  Streams streams_;
  BackwardParts parts_;
  bool beside_, weights_beside_;
  Times forward_, backward_, other_forward_;
};

bool moves_rows(std::span<const BlockTimes* const> blocks) {
  return std::any_of(blocks.begin(), blocks.end(),
                     [](const BlockTimes* b) { return b->exchange.dispatch > 0 || b->exchange.combine > 0; });
}

}  // namespace

ChunkRun run_chunk(std::span<const BlockTimes* const> forward, std::span<const BlockTimes* const> backward, BackwardParts parts,
                   bool spans) {
  CHECK(!forward.empty() || !backward.empty());
  const size_t members = (forward.empty() ? backward : forward).front()->members.size();
  const bool moves = moves_rows(forward) || moves_rows(backward);
  Walk walk(members, parts, moves && !forward.empty() && !backward.empty(), moves, spans);
  const size_t pairs = std::max(forward.size(), backward.size());
  for (size_t i = 0; i < pairs; ++i) {
    const BlockTimes* f = i < forward.size() ? forward[i] : nullptr;
    const BlockTimes* b = i < backward.size() ? backward[i] : nullptr;
    if (b) walk.backward_combine(*b);
    if (f) walk.forward_attention(*f);
    if (f) walk.forward_dispatch(*f);
    if (b) walk.backward_mlp(*b);
    if (b) walk.backward_dispatch(*b);
    if (f) walk.forward_mlp(*f);
    if (f) walk.forward_combine(*f);
    if (b) walk.backward_attention(*b);
  }
  return walk.finish();
}

ChunkRun run_two_forward(std::span<const BlockTimes* const> blocks) {
  CHECK(!blocks.empty());
  Walk walk(blocks.front()->members.size(), BackwardParts::kBoth, true, false, false);
  for (const BlockTimes* block : blocks) {
    for (int i = 0; i < 2; ++i) {
      walk.forward_attention(*block);
      walk.forward_dispatch(*block);
      walk.change_micro_batch();
    }
    for (int i = 0; i < 2; ++i) {
      walk.forward_mlp(*block);
      walk.forward_combine(*block);
      walk.change_micro_batch();
    }
  }
  return walk.finish();
}

}  // namespace rorqual
