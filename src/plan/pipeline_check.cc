#include "plan/pipeline_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "base/error.h"
#include "plan/pipeline_timing.h"

namespace rorqual {
namespace {

using Kind = PipelineActionKind;

// Where an activation or a gradient is on its way into or out of a module.
enum class Transfer : uint8_t { kNone, kListed, kPosted, kDone };

struct ChunkState {
  Transfer input = Transfer::kNone, output = Transfer::kNone;                    // of the forward
  Transfer output_gradient = Transfer::kNone, input_gradient = Transfer::kNone;  // of the backward
  bool forward = false, backward = false, weight = false;
};

// Rule 1, for one rank. Every member that judges returns what is wrong, "" where nothing is.
class RankCheck {
 public:
  RankCheck(const PipelineShape& shape, int rank)
      : shape_(shape), rank_(rank), chunks_(static_cast<size_t>(shape.directions() * shape.micro_batches_each())) {}

  std::string apply(const PipelineAction& a) {
    if (a.kind == Kind::kPost || a.kind == Kind::kCommit) {
      settle(a.kind == Kind::kCommit);
      return "";
    }
    std::string wrong = identity(a.chunk);
    if (wrong.empty() && a.kind == Kind::kForwardBackward) wrong = identity(a.backward);
    if (!wrong.empty()) return wrong;
    if (a.is_message()) return message(a);
    return compute(a);
  }

  // At the end of the list.
  std::string missing() const {
    for (int d = 0; d < shape_.directions(); ++d) {
      for (int m = 0; m < shape_.micro_batches_each(); ++m) {
        const ChunkState& s = chunks_[index(d, m)];
        const auto lacks = [&](const char* what) { return fmt::format("the list lacks {}{}.{}", what, d, m); };
        if (!s.forward) return lacks("F");
        if (!s.backward) return lacks("B");
        if (!s.weight) return lacks("W");
        if (peer(d, true) >= 0 && s.output == Transfer::kNone) return lacks("the send of F");
        if (peer(d, false) >= 0 && s.input_gradient == Transfer::kNone) return lacks("the send of B");
      }
    }
    if (!listed_.empty() || !posted_.empty()) return "a message stands behind the last commit";
    return "";
  }

  const PipelinePeaks& peaks() const { return peaks_; }

 private:
  size_t index(int direction, int micro_batch) const {
    return static_cast<size_t>(direction * shape_.micro_batches_each() + micro_batch);
  }
  ChunkState& state(const PipelineChunk& c) { return chunks_[index(c.direction, c.micro_batch)]; }
  int peer(int direction, bool next) const {
    const int other = next ? shape_.next_rank(rank_, direction) : shape_.previous_rank(rank_, direction);
    return other == rank_ ? -1 : other;
  }

  std::string identity(const PipelineChunk& c) const {
    if (c.direction < 0 || c.direction >= shape_.directions()) return fmt::format("there is no direction {}", c.direction);
    if (c.micro_batch < 0 || c.micro_batch >= shape_.micro_batches_each())
      return fmt::format("there is no micro-batch {}", c.micro_batch);
    const int stage = shape_.stage(rank_, c.direction);
    if (c.stage != stage)
      return fmt::format("stage {} of direction {} is not on this rank, {} is", c.stage, c.direction, stage);
    return "";
  }

  std::string message(const PipelineAction& a) {
    const bool activation = a.kind == Kind::kReceiveActivation || a.kind == Kind::kSendActivation;
    const bool next = activation == a.is_send();  // activations go to the next rank, gradients come from it
    const int right_peer = peer(a.chunk.direction, next);
    if (right_peer < 0) return "no other rank has a part in this message";
    if (a.peer != right_peer) return fmt::format("its other side is rank {}", right_peer);
    ChunkState& s = state(a.chunk);
    if (a.is_send() && !(activation ? s.forward : s.backward)) return "what it sends has not been computed";
    Transfer& transfer = a.is_send() ? (activation ? s.output : s.input_gradient) : (activation ? s.input : s.output_gradient);
    if (transfer != Transfer::kNone) return a.is_send() ? "it has been sent" : "it has been received";
    transfer = Transfer::kListed;
    listed_.push_back({&transfer, a.is_send()});
    if (!a.is_send()) hold_message(1);
    return "";
  }

  void settle(bool wait) {
    for (const Message& m : listed_) *m.transfer = Transfer::kPosted;
    posted_.insert(posted_.end(), listed_.begin(), listed_.end());
    listed_.clear();
    if (!wait) return;
    for (const Message& m : posted_) {
      *m.transfer = Transfer::kDone;
      if (m.send) hold_message(-1);
    }
    posted_.clear();
  }

  // What a module needs at its input (forward) or output (backward): from another rank, from this one, or from nobody.
  std::string source(const PipelineChunk& c, bool forward) {
    const ChunkState& s = state(c);
    const bool at_end = forward ? shape_.is_first(rank_, c.direction) : shape_.is_last(rank_, c.direction);
    if (at_end) return "";
    const char* what = forward ? "input" : "gradient";
    if (peer(c.direction, !forward) < 0) {  // DualPipeV's turn: the other direction's module, on this rank
      const ChunkState& other = chunks_[index(1 - c.direction, c.micro_batch)];
      return (forward ? other.forward : other.backward) ? "" : fmt::format("its {} has not been computed", what);
    }
    const Transfer transfer = forward ? s.input : s.output_gradient;
    if (transfer == Transfer::kDone) return "";
    return fmt::format("its {} has not been {}", what, transfer == Transfer::kNone ? "received" : "waited for with a commit");
  }

  std::string can_forward(const PipelineChunk& c) {
    if (state(c).forward) return fmt::format("F{}.{} has run", c.direction, c.micro_batch);
    return source(c, true);
  }

  std::string can_backward(const PipelineChunk& c) {
    if (state(c).backward) return fmt::format("the input gradient of {}.{} has run", c.direction, c.micro_batch);
    if (!state(c).forward) return fmt::format("F{}.{} has not run", c.direction, c.micro_batch);
    return source(c, false);
  }

  std::string can_add_weight(const PipelineChunk& c) {
    if (state(c).weight) return fmt::format("the weight gradient of {}.{} has run", c.direction, c.micro_batch);
    const int expected = next_weight_[static_cast<size_t>(c.direction)];
    if (c.micro_batch != expected)
      return fmt::format("the next weight gradient of direction {} is {}'s", c.direction, expected);
    return "";
  }

  std::string compute(const PipelineAction& a) {
    const bool forward = a.kind == Kind::kForward || a.kind == Kind::kForwardBackward;
    const bool backward = a.kind != Kind::kForward && a.kind != Kind::kWeightGradient;
    const bool weight = a.kind != Kind::kForward && a.kind != Kind::kInputGradient;
    const PipelineChunk& b = a.backward_chunk();
    std::string wrong;
    // All parts of an overlapped pair are judged before any of them counts as run.
    if (forward) wrong = can_forward(a.chunk);
    if (wrong.empty() && backward) wrong = can_backward(b);
    if (wrong.empty() && weight) wrong = can_add_weight(b);
    if (wrong.empty() && weight && !backward && !state(b).backward) wrong = "its input gradient has not run";
    if (!wrong.empty()) return wrong;
    if (forward) run_forward(a.chunk);
    if (backward) run_backward(b);
    if (weight) {
      state(b).weight = true;
      ++next_weight_[static_cast<size_t>(b.direction)];
      --pending_weights_;
    }
    count_peaks(backward && !weight);
    return "";
  }

  void run_forward(const PipelineChunk& c) {
    state(c).forward = true;
    peaks_.activations = std::max(peaks_.activations, ++activations_);
    peaks_.held = std::max(peaks_.held, activations_ + pending_weights_);
    if (peer(c.direction, true) >= 0) hold_message(1);
    if (peer(c.direction, false) >= 0) hold_message(-1);
  }

  void run_backward(const PipelineChunk& c) {
    state(c).backward = true;
    --activations_;
    ++pending_weights_;
    if (peer(c.direction, false) >= 0) hold_message(1);
    if (peer(c.direction, true) >= 0) hold_message(-1);
  }

  void count_peaks(bool deferred) {
    if (deferred) peaks_.weight_gradients = std::max(peaks_.weight_gradients, pending_weights_);
    peaks_.held = std::max(peaks_.held, activations_ + pending_weights_);
  }

  void hold_message(int change) {
    messages_ += change;
    peaks_.messages = std::max(peaks_.messages, messages_);
  }

  struct Message {
    Transfer* transfer;
    bool send;
  };

  const PipelineShape& shape_;
  int rank_;
  std::vector<ChunkState> chunks_;
  std::vector<Message> listed_, posted_;
  std::array<int, 2> next_weight_{};
  int activations_ = 0, pending_weights_ = 0, messages_ = 0;
  PipelinePeaks peaks_;
};

// The fault whose action stands first in its list.
void keep_first(std::optional<PipelineFault>& first, PipelineFault fault) {
  if (!first || fault.action < first->action) first = std::move(fault);
}

PipelineFault fault_at(const PipelineSchedule& schedule, size_t rank, size_t action, const std::string& why) {
  const std::vector<PipelineAction>& actions = schedule.ranks[rank];
  const bool end = action >= actions.size();
  return {.rank = static_cast<int>(rank),
          .action = static_cast<int64_t>(action),
          .why = end ? fmt::format("rank {}: {}", rank, why)
                     : fmt::format("rank {}, action {} ({}): {}", rank, action, pipeline_action_name(actions[action]), why)};
}

// A message as its receiver would name it.
struct Posted {
  bool activation;
  int micro_batch, stage, direction;
  size_t action;

  bool same(const Posted& o) const {
    return activation == o.activation && micro_batch == o.micro_batch && stage == o.stage && direction == o.direction;
  }
};

struct LinkLists {
  std::vector<Posted> sends, receives;
};

// Rule 2. Between posts and commits the order of the list is the order of posting.
std::optional<PipelineFault> check_links(const PipelineSchedule& schedule) {
  std::map<std::pair<size_t, size_t>, LinkLists> links;
  for (size_t r = 0; r < schedule.ranks.size(); ++r) {
    for (size_t i = 0; i < schedule.ranks[r].size(); ++i) {
      const PipelineAction& a = schedule.ranks[r][i];
      if (!a.is_message()) continue;
      const bool activation = a.kind == Kind::kReceiveActivation || a.kind == Kind::kSendActivation;
      const int step = a.is_send() ? (activation ? 1 : -1) : 0;
      const Posted posted{activation, a.chunk.micro_batch, a.chunk.stage + step, a.chunk.direction, i};
      const auto peer = static_cast<size_t>(a.peer);
      (a.is_send() ? links[{r, peer}].sends : links[{peer, r}].receives).push_back(posted);
    }
  }
  std::optional<PipelineFault> first;
  for (const auto& [ends, link] : links) {
    const auto& [from, to] = ends;
    const size_t both = std::min(link.sends.size(), link.receives.size());
    size_t n = 0;
    while (n < both && link.sends[n].same(link.receives[n])) ++n;
    if (n < both) {
      const std::string met = pipeline_action_name(schedule.ranks[from][link.sends[n].action]);
      keep_first(first, fault_at(schedule, to, link.receives[n].action,
                                 fmt::format("message {} from rank {} is another one: the {} (its action {})", n, from, met,
                                             link.sends[n].action)));
    } else if (n < link.sends.size()) {
      keep_first(first, fault_at(schedule, from, link.sends[n].action, fmt::format("rank {} never receives it", to)));
    } else if (n < link.receives.size()) {
      keep_first(first, fault_at(schedule, to, link.receives[n].action, fmt::format("rank {} never sends it", from)));
    }
  }
  return first;
}

// Rule 3.
std::optional<PipelineFault> check_progress(const PipelineSchedule& schedule, int buffers) {
  const PipelineRun run = run_pipeline(schedule, {}, buffers);
  const int rank = run.deadlocked_rank();
  if (rank < 0) return {};
  std::string others;
  for (size_t r = 0; r < run.stopped_at.size(); ++r)
    if (run.stopped_at[r] >= 0 && static_cast<int>(r) != rank)
      others += fmt::format("{} rank {} at action {}", others.empty() ? "" : ",", r, run.stopped_at[r]);
  return fault_at(schedule, static_cast<size_t>(rank), static_cast<size_t>(run.stopped_at[static_cast<size_t>(rank)]),
                  fmt::format("it waits for ever with {} message buffers between two ranks; so do{}", buffers, others));
}

}  // namespace

PipelineCheck check_pipeline(const PipelineSchedule& schedule, int buffers) {
  validate(schedule.shape);
  CHECK(schedule.ranks.size() == static_cast<size_t>(schedule.shape.ranks), "{} lists for {} ranks", schedule.ranks.size(),
        schedule.shape.ranks);
  PipelineCheck check;
  for (size_t r = 0; r < schedule.ranks.size(); ++r) {
    RankCheck rank(schedule.shape, static_cast<int>(r));
    std::string wrong;
    size_t i = 0;
    for (; i < schedule.ranks[r].size() && wrong.empty(); ++i) wrong = rank.apply(schedule.ranks[r][i]);
    if (!wrong.empty())
      keep_first(check.fault, fault_at(schedule, r, i - 1, wrong));
    else if (wrong = rank.missing(); !wrong.empty())
      keep_first(check.fault, fault_at(schedule, r, i, wrong));
    check.peaks.push_back(rank.peaks());
  }
  if (!check.fault) check.fault = check_links(schedule);
  if (!check.fault) check.fault = check_progress(schedule, buffers);
  if (check.fault) check.peaks.clear();
  return check;
}

}  // namespace rorqual
