#include "base/timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

const std::string& plain(const std::string& name) {
  const auto bad = [](char c) { return c == '"' || c == '\\' || static_cast<unsigned char>(c) < ' '; };
  CHECK(std::none_of(name.begin(), name.end(), bad), "the name '{}' needs escapes", name);
  return name;
}

// Perfetto takes thread 0 for another one, and the thread with its process's number for the main one.
constexpr int kFirstThread = 1000;

std::string microseconds(int64_t ns) {
  return fmt::format("{}.{:03}", ns / 1000, ns % 1000);
}
int64_t nanoseconds(double s) {
  CHECK(s >= 0, "a span begins {} s before the timeline", -s);
  return std::llround(s * 1e9);
}

}  // namespace

std::string timeline_json(std::span<const TimelineTrack> tracks, std::span<const TimelineSpan> spans) {
  std::string out = "{\"traceEvents\":[";
  const char* separator = "\n";
  const auto add = [&](const std::string& event) {
    out += separator + event;
    separator = ",\n";
  };
  add(R"({"ph":"M","pid":1,"name":"process_name","args":{"name":"rorqual"}})");
  for (const TimelineTrack& t : tracks)
    add(fmt::format(R"({{"ph":"M","pid":1,"tid":{},"name":"thread_name","args":{{"name":"{}"}}}})", kFirstThread + t.id,
                    plain(t.name)));
  for (const TimelineSpan& s : spans) {
    const int64_t begin = nanoseconds(s.begin_s), end = nanoseconds(s.end_s);
    add(fmt::format(R"({{"ph":"X","pid":1,"tid":{},"cat":"{}","name":"{}","ts":{},"dur":{}}})", kFirstThread + s.track,
                    plain(s.category), plain(s.name), microseconds(begin), microseconds(end - begin)));
  }
  return out + "\n]}\n";
}

void write_timeline(const std::filesystem::path& path, std::span<const TimelineTrack> tracks,
                    std::span<const TimelineSpan> spans) {
  write_file_atomically(path, timeline_json(tracks, spans));
}

}  // namespace rorqual
