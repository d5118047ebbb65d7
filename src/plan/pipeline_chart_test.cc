#include "plan/pipeline_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace rorqual {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Sample {
  PipelineSchedule schedule = make_pipeline_schedule({PipelineKind::kDualPipe, 2, 4});
  PipelineRun run = run_pipeline(schedule, {});
};

size_t count(const std::string& text, const std::string& word) {
  size_t n = 0;
  for (size_t p = text.find(word); p != std::string::npos; p = text.find(word, p + 1)) ++n;
  return n;
}

TEST(PipelineChart, TextHasALetterForEachUnitOfTime) {
  const Sample s;
  EXPECT_EQ(pipeline_text_chart(s.schedule, s.run, 100), "rank 0    FFFBBXXXBBIW\nrank 1    FFFBBXXXBBIW\n");
  EXPECT_EQ(pipeline_text_chart(s.schedule, s.run, 4), "rank 0    FBXI\nrank 1    FBXI\n")
      << "what runs at 1.5, 4.5, 7.5, 10.5";
  const PipelineSchedule line = make_pipeline_schedule({PipelineKind::k1F1B, 2, 1});
  EXPECT_EQ(pipeline_text_chart(line, run_pipeline(line, {}), 100), "rank 0    F...BB\nrank 1    .FBB..\n");
}

TEST(PipelineChart, SvgShowsEveryAction) {
  const Sample s;
  const std::string svg = pipeline_svg_chart(s.schedule, s.run, "a <title>", "figures");
  EXPECT_THAT(svg, HasSubstr("a &lt;title&gt;"));
  // 8 actions a rank, of which one is a pair that is drawn as two boxes.
  EXPECT_EQ(count(svg, "<title>F") + count(svg, "<title>B") + count(svg, "<title>W"), 2u * 9);
  EXPECT_THAT(svg, HasSubstr("<title>F1.1&amp;B0.0: 5 to 8</title>"));
  EXPECT_THAT(svg, HasSubstr("stages 0, 1"));
  const PipelineSchedule line = make_pipeline_schedule({PipelineKind::k1F1B, 2, 1});
  EXPECT_THAT(pipeline_svg_chart(line, run_pipeline(line, {}), "t", ""), Not(HasSubstr("weight gradient")));
  // Nothing costs anything: there is nothing to draw, and nothing is divided by zero.
  EXPECT_THAT(pipeline_svg_chart(line, run_pipeline(line, {0, 0, 0, 0}), "t", ""), Not(HasSubstr("nan")));
}

TEST(PipelineChart, TraceHasATrackForEachRank) {
  const Sample s;
  const auto path = std::filesystem::temp_directory_path() / "rorqual_pipeline_chart_test.json";
  write_pipeline_trace(path, s.schedule, s.run);
  const auto events = nlohmann::json::parse(read_file(path))["traceEvents"];
  std::filesystem::remove(path);
  ASSERT_EQ(events.size(), 1u + 2u + 2u * 8);  // a process's name, its tracks', their spans
  EXPECT_EQ(events[1]["args"]["name"], "rank 0");
  const auto pair = std::find_if(events.begin(), events.end(), [](const auto& e) { return e["name"] == "F1.1&B0.0"; });
  ASSERT_NE(pair, events.end());
  EXPECT_EQ((*pair)["tid"], events[1]["tid"]);
  EXPECT_EQ((*pair)["ts"], 5000.0);
  EXPECT_EQ((*pair)["dur"], 3000.0);
}

}  // namespace
}  // namespace rorqual
