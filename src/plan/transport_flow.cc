#include "plan/transport_flow.h"

#include <algorithm>

#include "base/error.h"

namespace rorqual {

void TransportFlow::add_arc(int64_t source, int64_t sink, int32_t cost) {
  CHECK(source_of_.empty() || source_of_.back() <= source);
  source_of_.push_back(static_cast<int32_t>(source));
  sink_of_.push_back(static_cast<int32_t>(sink));
  cost_.push_back(cost);
  flow_.push_back(0);
}

void TransportFlow::prepare() {
  const size_t sources = supply_.size(), nodes = sources + room_.size();
  if (out_begin_.empty()) {
    out_begin_.assign(sources + 1, 0);
    in_begin_.assign(room_.size() + 1, 0);
    for (const int32_t s : source_of_) ++out_begin_[index(s) + 1];
    for (const int32_t t : sink_of_) ++in_begin_[index(t) + 1];
    for (size_t s = 0; s < sources; ++s) out_begin_[s + 1] += out_begin_[s];
    for (size_t t = 0; t < room_.size(); ++t) in_begin_[t + 1] += in_begin_[t];
    in_arc_.resize(sink_of_.size());
    std::vector<int32_t> at(in_begin_.begin(), in_begin_.end() - 1);
    for (size_t a = 0; a < sink_of_.size(); ++a) in_arc_[index(at[index(sink_of_[a])]++)] = static_cast<int32_t>(a);
  }
  distance_.resize(nodes);
  next_.resize(nodes);
  busy_.assign(nodes, 0);
}

// Distances from all sources with supply left; the nearest sink with room, or kFar.
int32_t TransportFlow::find_distances() {
  const size_t sources = supply_.size();
  std::fill(distance_.begin(), distance_.end(), kFar);
  queue_.clear();
  for (size_t s = 0; s < sources; ++s) {
    if (supply_[s] == 0) continue;
    distance_[s] = 0;
    busy_[s] = 1;
    queue_.push_back(static_cast<int32_t>(s));
  }
  const auto reach = [&](size_t node, int32_t distance) {
    if (distance >= distance_[node]) return;
    distance_[node] = distance;
    if (!busy_[node]) queue_.push_back(static_cast<int32_t>(node));
    busy_[node] = 1;
  };
  for (size_t i = 0; i < queue_.size(); ++i) {
    const size_t node = index(queue_[i]);
    busy_[node] = 0;
    const int32_t d = distance_[node];
    if (node < sources) {
      for (size_t a = index(out_begin_[node]); a < index(out_begin_[node + 1]); ++a)
        reach(sources + index(sink_of_[a]), d + cost_[a]);
    } else {
      for (size_t i2 = index(in_begin_[node - sources]); i2 < index(in_begin_[node - sources + 1]); ++i2) {
        const size_t a = index(in_arc_[i2]);
        if (flow_[a] > 0) reach(index(source_of_[a]), d - cost_[a]);
      }
    }
  }
  int32_t nearest = kFar;
  for (size_t t = 0; t < room_.size(); ++t) {
    if (room_[t] > 0) nearest = std::min(nearest, distance_[sources + t]);
  }
  return nearest;
}

// Pushes up to `amount` from `node` along shortest paths to sinks at the target distance. next_ remembers what is exhausted.
int64_t TransportFlow::push(size_t node, int64_t amount) {
  const size_t sources = supply_.size();
  int64_t pushed = 0;
  busy_[node] = 1;
  if (node < sources) {
    const int32_t degree = out_begin_[node + 1] - out_begin_[node];
    for (; next_[node] < degree; ++next_[node]) {
      const size_t a = index(out_begin_[node] + next_[node]), to = sources + index(sink_of_[a]);
      if (busy_[to] || distance_[to] != distance_[node] + cost_[a]) continue;
      const int64_t got = push(to, amount - pushed);
      flow_[a] += got;
      pushed += got;
      if (pushed == amount) break;
    }
  } else {
    const size_t sink = node - sources;
    if (distance_[node] == target_ && room_[sink] > 0) {
      const int64_t got = std::min(amount, room_[sink]);
      room_[sink] -= got;
      pushed += got;
    }
    const int32_t degree = in_begin_[sink + 1] - in_begin_[sink];
    for (; pushed < amount && next_[node] < degree; ++next_[node]) {
      const size_t a = index(in_arc_[index(in_begin_[sink] + next_[node])]), to = index(source_of_[a]);
      if (busy_[to] || flow_[a] == 0 || distance_[to] != distance_[node] - cost_[a]) continue;
      const int64_t got = push(to, std::min(amount - pushed, flow_[a]));
      flow_[a] -= got;
      pushed += got;
      if (pushed == amount) break;
    }
  }
  busy_[node] = 0;
  return pushed;
}

bool TransportFlow::solve() {
  prepare();
  while (true) {
    target_ = find_distances();
    if (target_ == kFar) break;
    std::fill(next_.begin(), next_.end(), 0);
    for (size_t s = 0; s < supply_.size(); ++s) {
      if (supply_[s] > 0) supply_[s] -= push(s, supply_[s]);
    }
  }
  return std::all_of(supply_.begin(), supply_.end(), [](int64_t s) { return s == 0; });
}

}  // namespace rorqual
