// Writes what happened, or is planned to happen, on named tracks in the trace format that Chrome and Perfetto open.
#pragma once

#include <filesystem>
#include <span>
#include <string>

namespace rorqual {

struct TimelineTrack {
  int id = 0;
  std::string name;
};

// Spans of one track nest or follow each other.
struct TimelineSpan {
  int track = 0;
  std::string name, category;
  double begin_s = 0, end_s = 0;
};

// JSON. Times are rounded to nanoseconds, ends as beginnings, so that spans that touch still do.
// Names hold no quotes, backslashes or control characters (programmer's mistake otherwise).
std::string timeline_json(std::span<const TimelineTrack> tracks, std::span<const TimelineSpan> spans);
void write_timeline(const std::filesystem::path& path, std::span<const TimelineTrack> tracks,
                    std::span<const TimelineSpan> spans);

}  // namespace rorqual
