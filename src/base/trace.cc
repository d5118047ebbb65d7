#include "base/trace.h"

#include <fmt/format.h>

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/file.h"

namespace rorqual {
namespace {

struct Event {
  const char* name;
  double begin_s, end_s;
  int thread;
};

struct Collector {
  std::atomic<bool> on{false};
  std::mutex mutex;
  double start_s = 0;
  std::vector<Event> events;
  std::map<std::thread::id, int> threads;
  std::map<int, std::string> names;

  int thread() { return threads.try_emplace(std::this_thread::get_id(), static_cast<int>(threads.size())).first->second; }
};

Collector& collector() {
  static Collector c;
  return c;
}

}  // namespace

void start_trace() {
  Collector& c = collector();
  std::lock_guard lock(c.mutex);
  c.events.clear();
  c.start_s = seconds_now();
  c.on = true;
}

void name_trace_thread(std::string_view name) {
  Collector& c = collector();
  std::lock_guard lock(c.mutex);
  c.names[c.thread()] = name;
}

TraceSpan::TraceSpan(const char* name) : name_(name), begin_s_(collector().on ? seconds_now() : -1) {}

TraceSpan::~TraceSpan() {
  if (begin_s_ < 0) return;
  Collector& c = collector();
  const double end_s = seconds_now();
  std::lock_guard lock(c.mutex);
  if (c.on) c.events.push_back({name_, begin_s_, end_s, c.thread()});
}

void write_trace(const std::filesystem::path& path) {
  Collector& c = collector();
  std::lock_guard lock(c.mutex);
  c.on = false;
  std::string out = "{\"traceEvents\":[";
  const char* separator = "\n";
  for (const auto& [thread, name] : c.names) {
    out += fmt::format("{}{{\"ph\":\"M\",\"pid\":1,\"tid\":{},\"name\":\"thread_name\",\"args\":{{\"name\":\"{}\"}}}}",
                       separator, thread, name);
    separator = ",\n";
  }
  for (const Event& e : c.events) {
    out += fmt::format("{}{{\"ph\":\"X\",\"pid\":1,\"tid\":{},\"name\":\"{}\",\"ts\":{:.1f},\"dur\":{:.1f}}}", separator,
                       e.thread, e.name, (e.begin_s - c.start_s) * 1e6, (e.end_s - e.begin_s) * 1e6);
    separator = ",\n";
  }
  write_file_atomically(path, out + "\n]}\n");
}

}  // namespace rorqual
