// A trace of who ran what when, in the format that Chrome and Perfetto open, and as a list for tables. Off unless started: a
// span then costs the load of one flag, else two clock reads and a lock.
#pragma once

#include <atomic>
#include <filesystem>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace rorqual {

// What a span is of: tables add up phases of a step and kernels apart, each as a share of the whole.
enum class TraceKind { kOther, kPhase, kKernel };

struct TraceEvent {
  std::string_view name, detail;  // "attention", "forward"
  TraceKind kind = TraceKind::kOther;
  double begin_s = 0, end_s = 0;  // of seconds_now()
  int thread = 0;
};

// Collects spans from all threads from here on, anew.
void start_trace();
// Names the calling thread in the trace ("main", "ema", "checkpoint").
void name_trace_thread(std::string_view name);
// What was collected so far, in the order in which spans ended.
std::vector<TraceEvent> trace_events();
// Writes what was collected, atomically, and stops.
void write_trace(const std::filesystem::path& path);
// Stops and keeps what was collected.
void stop_trace();

namespace detail {
extern std::atomic<bool> trace_on;
}

class TraceSpan {
 public:
  // Names are literals or outlive the trace. The span shows as "name detail".
  explicit TraceSpan(std::string_view name, std::string_view detail = {}, TraceKind kind = TraceKind::kOther)
      : name_(name),
        detail_(detail),
        kind_(kind),
        begin_s_(detail::trace_on.load(std::memory_order_relaxed) ? seconds_now() : -1) {}
  ~TraceSpan() {
    if (begin_s_ >= 0) finish();
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  void finish() const;

  std::string_view name_, detail_;
  TraceKind kind_;
  double begin_s_;
};

}  // namespace rorqual
