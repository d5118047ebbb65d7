#include "base/trace.h"

#include <fmt/format.h>

#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "base/timeline.h"

namespace rorqual {

std::atomic<bool> detail::trace_on{false};

namespace {

struct Collector {
  std::mutex mutex;
  double start_s = 0;
  std::vector<TraceEvent> events;
  std::map<std::thread::id, int> threads;
  std::map<int, std::string> names;

  int thread() { return threads.try_emplace(std::this_thread::get_id(), static_cast<int>(threads.size())).first->second; }
};

Collector& collector() {
  static Collector c;
  return c;
}

constexpr std::string_view kind_name(TraceKind kind) {
  return kind == TraceKind::kPhase ? "phase" : kind == TraceKind::kKernel ? "kernel" : "other";
}

}  // namespace

void start_trace() {
  Collector& c = collector();
  std::lock_guard lock(c.mutex);
  c.events.clear();
  c.start_s = seconds_now();
  detail::trace_on = true;
}

void stop_trace() {
  detail::trace_on = false;
}

void name_trace_thread(std::string_view name) {
  Collector& c = collector();
  std::lock_guard lock(c.mutex);
  c.names[c.thread()] = name;
}

void TraceSpan::finish() const {
  Collector& c = collector();
  const double end_s = seconds_now();
  std::lock_guard lock(c.mutex);
  // A span that began before the trace was started anew belongs to none.
  if (detail::trace_on && begin_s_ >= c.start_s) c.events.push_back({name_, detail_, kind_, begin_s_, end_s, c.thread()});
}

std::vector<TraceEvent> trace_events() {
  Collector& c = collector();
  std::lock_guard lock(c.mutex);
  return c.events;
}

void write_trace(const std::filesystem::path& path) {
  stop_trace();
  Collector& c = collector();
  std::lock_guard lock(c.mutex);
  std::vector<TimelineTrack> tracks;
  for (const auto& [thread, name] : c.names) tracks.push_back({thread, name});
  std::vector<TimelineSpan> spans;
  for (const TraceEvent& e : c.events)
    spans.push_back({e.thread, fmt::format("{}{}{}", e.name, e.detail.empty() ? "" : " ", e.detail),
                     std::string(kind_name(e.kind)), e.begin_s - c.start_s, e.end_s - c.start_s});
  write_timeline(path, tracks, spans);
}

}  // namespace rorqual
