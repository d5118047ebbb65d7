#include "plan/pipeline_timing.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "base/error.h"

namespace rorqual {
namespace {

// When the messages between two ranks, in one direction, were posted by either side, in order.
struct Link {
  std::vector<double> sends, receives;
};

struct OpenMessage {
  Link* link;
  bool send;
  size_t index;
};

struct RankState {
  size_t next = 0;
  double time = 0;
  std::vector<size_t> pending;    // actions: messages that are not posted yet
  std::vector<OpenMessage> open;  // posted, not waited for
  bool queued = true;
};

class Runner {
 public:
  Runner(const PipelineSchedule& schedule, const PipelineCosts& costs, int buffers)
      : schedule_(schedule), costs_(costs), buffers_(static_cast<size_t>(buffers)), ranks_(schedule.ranks.size()) {
    run_.spans.resize(ranks_.size());
    run_.messages.resize(ranks_.size());
    run_.batches.resize(ranks_.size());
  }

  PipelineRun run() {
    for (size_t r = 0; r < ranks_.size(); ++r) queue_.push_back(r);
    for (size_t head = 0; head < queue_.size(); ++head) {
      ranks_[queue_[head]].queued = false;
      advance(queue_[head]);
    }
    for (const RankState& rank : ranks_) run_.makespan = std::max(run_.makespan, rank.time);
    for (size_t r = 0; r < ranks_.size(); ++r) {
      double idle = 0, end = 0;
      for (const PipelineSpan& s : run_.spans[r]) {
        idle += s.begin - end;
        end = s.end;
      }
      run_.idle.push_back(idle + (run_.makespan - end));
      const bool through = ranks_[r].next == schedule_.ranks[r].size();
      run_.stopped_at.push_back(through ? -1 : static_cast<int64_t>(ranks_[r].next));
    }
    return std::move(run_);
  }

 private:
  void advance(size_t r) {
    RankState& rank = ranks_[r];
    const std::vector<PipelineAction>& actions = schedule_.ranks[r];
    for (; rank.next < actions.size(); ++rank.next) {
      const PipelineAction& a = actions[rank.next];
      if (a.is_message()) {
        rank.pending.push_back(rank.next);
      } else if (a.is_compute()) {
        const double begin = rank.time;
        rank.time += costs_.of(a.kind);
        run_.spans[r].push_back({static_cast<int32_t>(rank.next), begin, rank.time});
      } else {
        post(r);
        if (a.kind == PipelineActionKind::kCommit && !wait(rank)) return;
      }
    }
  }

  void post(size_t r) {
    RankState& rank = ranks_[r];
    if (!rank.pending.empty()) ++run_.batches[r];
    run_.messages[r] += static_cast<int64_t>(rank.pending.size());
    for (const size_t at : rank.pending) {
      const PipelineAction& a = schedule_.ranks[r][at];
      const auto peer = static_cast<size_t>(a.peer);
      CHECK(peer < ranks_.size() && peer != r, "rank {} names rank {}", r, a.peer);
      Link& link = a.is_send() ? links_[{r, peer}] : links_[{peer, r}];
      std::vector<double>& posts = a.is_send() ? link.sends : link.receives;
      rank.open.push_back({&link, a.is_send(), posts.size()});
      posts.push_back(rank.time);
      if (!ranks_[peer].queued) {
        ranks_[peer].queued = true;
        queue_.push_back(peer);
      }
    }
    rank.pending.clear();
  }

  // False: something is not posted on the other side yet.
  bool wait(RankState& rank) const {
    double time = rank.time;
    for (const OpenMessage& m : rank.open) {
      if (m.send && m.index < buffers_) continue;
      const std::vector<double>& others = m.send ? m.link->receives : m.link->sends;
      const size_t needed = m.send ? m.index - buffers_ : m.index;
      if (needed >= others.size()) return false;
      time = std::max(time, others[needed]);
    }
    rank.time = time;
    rank.open.clear();
    return true;
  }

  const PipelineSchedule& schedule_;
  const PipelineCosts& costs_;
  size_t buffers_;
  std::vector<RankState> ranks_;
  std::map<std::pair<size_t, size_t>, Link> links_;  // by sender and receiver
  std::vector<size_t> queue_;
  PipelineRun run_;
};

}  // namespace

double PipelineCosts::of(PipelineActionKind kind) const {
  switch (kind) {
    case PipelineActionKind::kForward:
      return forward;
    case PipelineActionKind::kBackward:
      return backward;
    case PipelineActionKind::kInputGradient:
      return backward - weight;
    case PipelineActionKind::kWeightGradient:
      return weight;
    case PipelineActionKind::kForwardBackward:
      return forward_backward;
    default:
      return 0;
  }
}

void validate(const PipelineCosts& costs) {
  for (const auto& [name, cost] : std::initializer_list<std::pair<const char*, double>>{
           {"F", costs.forward}, {"B", costs.backward}, {"W", costs.weight}, {"FB", costs.forward_backward}})
    if (!std::isfinite(cost) || cost < 0 || cost > 1e12)
      fail_usage("the cost of {} is {}: it must be a number from 0 to 1e12", name, cost);
  if (costs.weight > costs.backward)
    fail_usage("W costs {} and B {}: B is a whole backward, of which W is a part", costs.weight, costs.backward);
}

int PipelineRun::deadlocked_rank() const {
  int first = -1;
  for (size_t r = 0; r < stopped_at.size(); ++r) {
    if (stopped_at[r] >= 0 && (first < 0 || stopped_at[r] < stopped_at[static_cast<size_t>(first)]))
      first = static_cast<int>(r);
  }
  return first;
}

PipelineRun run_pipeline(const PipelineSchedule& schedule, const PipelineCosts& costs, int buffers) {
  CHECK(buffers >= 0);
  return Runner(schedule, costs, buffers).run();
}

double published_bubble(const PipelineShape& shape, const PipelineCosts& c) {
  switch (shape.kind) {
    case PipelineKind::k1F1B:
      return (shape.ranks - 1) * (c.forward + c.backward);
    case PipelineKind::kZB1P:
      return (shape.ranks - 1) * (c.forward + c.backward - 2 * c.weight);
    default:
      return (shape.stages() / 2 - 1) * (c.forward_backward + c.backward - 3 * c.weight);
  }
}

}  // namespace rorqual
