#include "base/timeline.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

namespace rorqual {
namespace {

using nlohmann::json;

TEST(Timeline, EveryTrackHasANumberOfItsOwn) {
  const std::vector<TimelineTrack> tracks = {{0, "rank 0"}, {1, "rank 1"}};
  const std::vector<TimelineSpan> spans = {{1, "F0.0", "chunk", 0.5, 1.25}};
  std::map<std::string, int> numbers;
  const json trace = json::parse(timeline_json(tracks, spans));
  for (const json& e : trace["traceEvents"]) {
    if (e["name"] != "thread_name") continue;
    const int number = e["tid"];
    numbers[e["args"]["name"]] = number;
    EXPECT_NE(number, 0) << "Perfetto mixes thread 0 with another";
    EXPECT_NE(number, e["pid"].get<int>()) << "would be shown as the main thread";
  }
  ASSERT_EQ(numbers.size(), 2u);
  EXPECT_LT(numbers["rank 0"], numbers["rank 1"]);
  const json span = trace["traceEvents"].back();
  EXPECT_EQ(span["tid"], numbers["rank 1"]);
  EXPECT_EQ(span["ts"], 500000.0);
  EXPECT_EQ(span["dur"], 750000.0);
}

// A viewer drops a span that begins before the last one of its track ends.
TEST(Timeline, SpansThatTouchStillDo) {
  std::vector<TimelineSpan> spans;
  double s = 0;
  for (int i = 0; i < 1000; ++i) {
    const double end = s + 1.0 / 3 * 1e-6 * (i % 7);
    spans.push_back({0, "x", "y", s, end});
    s = end;
  }
  const json trace = json::parse(timeline_json(std::vector<TimelineTrack>{{0, "t"}}, spans));
  const auto ns = [](const json& us) { return std::llround(us.get<double>() * 1000); };
  int64_t end = 0;
  for (const json& e : trace["traceEvents"]) {
    if (e["ph"] != "X") continue;
    EXPECT_EQ(ns(e["ts"]), end);
    end = ns(e["ts"]) + ns(e["dur"]);
  }
  EXPECT_EQ(end, std::llround(s * 1e9));
}

}  // namespace
}  // namespace rorqual
