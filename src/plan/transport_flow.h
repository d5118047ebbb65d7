// Integer flow from sources to sinks over arcs that cost 0 or 1: the least cost that serves all supply, by successive shortest
// paths (primal-dual, a blocking flow for each distance).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rorqual {

class TransportFlow {
 public:
  TransportFlow(int64_t sources, int64_t sinks) : supply_(index(sources)), room_(index(sinks)) {}

  // Arcs of a source are added together, sources ascending.
  void add_source(int64_t source, int64_t supply) { supply_[index(source)] = supply; }
  void add_arc(int64_t source, int64_t sink, int32_t cost);
  void add_room(int64_t sink, int64_t more) { room_[index(sink)] += more; }

  // Serves what can be served; whether that was all. May be called again after add_room where all costs are 0.
  bool solve();
  int64_t flow(int64_t arc) const { return flow_[index(arc)]; }
  // After a solve that failed: the sources that compete for too little, and all the sinks that they reach.
  bool short_source(int64_t source) const { return distance_[index(source)] < kFar; }
  bool short_sink(int64_t sink) const { return distance_[supply_.size() + index(sink)] < kFar; }

 private:
  static constexpr int32_t kFar = 1 << 30;
  static size_t index(int64_t i) { return static_cast<size_t>(i); }
  void prepare();
  int32_t find_distances();
  int64_t push(size_t node, int64_t amount);

  std::vector<int64_t> supply_, room_;
  std::vector<int32_t> source_of_, sink_of_, cost_;     // [arcs]
  std::vector<int64_t> flow_;                           // [arcs]
  std::vector<int32_t> out_begin_, in_begin_, in_arc_;  // arcs by source (in order), and by sink
  std::vector<int32_t> distance_, next_;                // [sources + sinks]
  std::vector<char> busy_;                              // [sources + sinks] in the queue, or on the path
  std::vector<int32_t> queue_;
  int32_t target_ = 0;
};

}  // namespace rorqual
