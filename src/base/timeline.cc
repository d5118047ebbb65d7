#include "base/timeline.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

const std::string& plain(const std::string& name) {
  const auto bad = [](char c) { return c == '"' || c == '\\' || static_cast<unsigned char>(c) < ' '; };
  CHECK(std::none_of(name.begin(), name.end(), bad), "the name '{}' needs escapes", name);
  return name;
}

}  // namespace

void write_timeline(const std::filesystem::path& path, std::span<const TimelineTrack> tracks,
                    std::span<const TimelineSpan> spans) {
  std::string out = "{\"traceEvents\":[";
  const char* separator = "\n";
  for (const TimelineTrack& t : tracks) {
    out += fmt::format("{}{{\"ph\":\"M\",\"pid\":1,\"tid\":{},\"name\":\"thread_name\",\"args\":{{\"name\":\"{}\"}}}}",
                       separator, t.id, plain(t.name));
    separator = ",\n";
  }
  for (const TimelineSpan& s : spans) {
    out += fmt::format("{}{{\"ph\":\"X\",\"pid\":1,\"tid\":{},\"cat\":\"{}\",\"name\":\"{}\",\"ts\":{:.1f},\"dur\":{:.1f}}}",
                       separator, s.track, plain(s.category), plain(s.name), s.begin_s * 1e6, (s.end_s - s.begin_s) * 1e6);
    separator = ",\n";
  }
  write_file_atomically(path, out + "\n]}\n");
}

}  // namespace rorqual
