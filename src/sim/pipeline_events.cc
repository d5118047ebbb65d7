#include "sim/pipeline_events.h"

#include <algorithm>
#include <map>
#include <queue>
#include <utility>

#include "base/error.h"

namespace rorqual {
namespace {

struct Message {
  size_t from = 0, to = 0;
  double send_posted = -1, receive_posted = -1;
};

struct Event {
  double time = 0;
  uint64_t order = 0;  // of pushing: equal times keep it
  size_t message = 0;
  bool arrived = false;  // else both sides have posted it
  bool operator>(const Event& other) const { return std::pair(time, order) > std::pair(other.time, other.order); }
};

struct RankState {
  size_t next = 0;
  double time = 0;
  std::vector<size_t> pending;  // actions: messages that are not posted yet
  int64_t open = 0;             // messages that were posted and have not arrived
  double out_free = 0, in_free = 0;
};

class EventRunner {
 public:
  EventRunner(const PipelineSchedule& schedule, const std::function<double(int, const PipelineAction&)>& seconds,
              const std::function<MessageSeconds(int, int)>& message)
      : schedule_(schedule), seconds_(seconds), message_seconds_(message), ranks_(schedule.ranks.size()) {
    run_.spans.resize(ranks_.size());
    run_.busy.resize(ranks_.size());
  }

  PipelineEvents run() {
    for (size_t r = 0; r < ranks_.size(); ++r) advance(r);
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      event.arrived ? arrive(event) : start(event);
    }
    for (size_t r = 0; r < ranks_.size(); ++r) {
      CHECK(ranks_[r].next == schedule_.ranks[r].size(), "rank {} waits for ever at action {}", r, ranks_[r].next);
      run_.makespan = std::max(run_.makespan, ranks_[r].time);
    }
    return std::move(run_);
  }

 private:
  void advance(size_t r) {
    RankState& rank = ranks_[r];
    for (const std::vector<PipelineAction>& actions = schedule_.ranks[r]; rank.next < actions.size(); ++rank.next) {
      const PipelineAction& a = actions[rank.next];
      if (a.is_message()) {
        rank.pending.push_back(rank.next);
      } else if (a.is_compute()) {
        const double begin = rank.time, length = seconds_(static_cast<int>(r), a);
        rank.time += length;
        run_.busy[r] += length;
        run_.spans[r].push_back({static_cast<int32_t>(rank.next), begin, rank.time});
      } else {
        post(r);
        if (a.kind == PipelineActionKind::kCommit && rank.open > 0) return;
      }
    }
  }

  // The message that the n-th send from one rank to another and the n-th receive are.
  size_t message(size_t from, size_t to, bool send) {
    auto& [messages, sent, received] = links_[{from, to}];
    size_t& count = send ? sent : received;
    if (count == messages.size()) {
      messages.push_back(messages_.size());
      messages_.push_back({.from = from, .to = to});
    }
    return messages[count++];
  }

  void post(size_t r) {
    RankState& rank = ranks_[r];
    for (const size_t at : rank.pending) {
      const PipelineAction& a = schedule_.ranks[r][at];
      const auto peer = static_cast<size_t>(a.peer);
      CHECK(peer < ranks_.size() && peer != r, "rank {} names rank {}", r, a.peer);
      const size_t id = a.is_send() ? message(r, peer, true) : message(peer, r, false);
      Message& m = messages_[id];
      (a.is_send() ? m.send_posted : m.receive_posted) = rank.time;
      ++rank.open;
      if (m.send_posted >= 0 && m.receive_posted >= 0) push(std::max(m.send_posted, m.receive_posted), id, false);
    }
    rank.pending.clear();
  }

  void push(double time, size_t id, bool arrived) { events_.push({time, order_++, id, arrived}); }

  void start(const Event& event) {
    const Message& m = messages_[event.message];
    const MessageSeconds cost = message_seconds_(static_cast<int>(m.from), static_cast<int>(m.to));
    double& out = ranks_[m.from].out_free;
    double& in = ranks_[m.to].in_free;
    const double begin = cost.link > 0 ? std::max({event.time, out, in}) : event.time;
    if (cost.link > 0) out = in = begin + cost.link;
    push(begin + cost.link + cost.latency, event.message, true);
  }

  void arrive(const Event& event) {
    const Message m = messages_[event.message];
    for (const size_t r : {m.from, m.to}) {
      RankState& rank = ranks_[r];
      if (--rank.open > 0) continue;
      // A commit that the rank stands at; else the rank is ahead, and computes beside its messages.
      const std::vector<PipelineAction>& actions = schedule_.ranks[r];
      if (rank.next == actions.size() || actions[rank.next].kind != PipelineActionKind::kCommit) continue;
      rank.time = std::max(rank.time, event.time);
      ++rank.next;
      advance(r);
    }
  }

  struct Link {
    std::vector<size_t> messages;
    size_t sent = 0, received = 0;
  };
  const PipelineSchedule& schedule_;
  const std::function<double(int, const PipelineAction&)>& seconds_;
  const std::function<MessageSeconds(int, int)>& message_seconds_;
  std::vector<RankState> ranks_;
  std::map<std::pair<size_t, size_t>, Link> links_;
  std::vector<Message> messages_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  uint64_t order_ = 0;
  PipelineEvents run_;
};

}  // namespace

PipelineEvents run_pipeline_events(const PipelineSchedule& schedule,
                                   const std::function<double(int, const PipelineAction&)>& seconds,
                                   const std::function<MessageSeconds(int, int)>& message) {
  return EventRunner(schedule, seconds, message).run();
}

}  // namespace rorqual
