// A trace of who ran what when, in the format that Chrome and Perfetto open. Off unless started; a span costs two clock reads.
#pragma once

#include <filesystem>
#include <string_view>

namespace rorqual {

// Collects spans from all threads from here on.
void start_trace();
// Names the calling thread in the trace ("main", "ema", "checkpoint").
void name_trace_thread(std::string_view name);
// Writes what was collected, atomically, and stops.
void write_trace(const std::filesystem::path& path);

class TraceSpan {
 public:
  // `name` is a literal or outlives the trace.
  explicit TraceSpan(const char* name);
  ~TraceSpan();
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  const char* name_;
  double begin_s_;
};

}  // namespace rorqual
