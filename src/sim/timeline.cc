#include "sim/timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/svg.h"
#include "base/timeline.h"

namespace rorqual {
namespace {

using Lane = StepSpan::Lane;
constexpr double kLeft = 70, kRight = 20, kWidth = 1400, kTop = 64;

std::string_view color_of(const StepSpan& s) {
  if (s.lane == Lane::kOptimizer) return SvgColor::kRed;
  switch (s.action) {
    case PipelineActionKind::kForward:
      return SvgColor::kBlue;
    case PipelineActionKind::kBackward:
      return SvgColor::kOrange;
    case PipelineActionKind::kInputGradient:
      return SvgColor::kLightOrange;
    case PipelineActionKind::kWeightGradient:
      return SvgColor::kGreen;
    default:
      return SvgColor::kLightBlue;
  }
}

std::string_view part_color(const StepSpan& s) {
  if (s.name.find("weight") != std::string::npos) return SvgColor::kGreen;
  return s.name.ends_with("forward") ? SvgColor::kBlue : SvgColor::kOrange;
}

struct Axis {
  double begin = 0, end = 1;
  double x(double t) const { return kLeft + (kWidth - kLeft - kRight) * (t - begin) / (end - begin); }
};

void draw_span(Svg& svg, const Axis& axis, const StepSpan& s, double y, double height, std::string_view fill) {
  const std::string tooltip =
      fmt::format("{}: {:.3f} to {:.3f} ms ({:.3f} ms)", s.name, s.begin * 1e3, s.end * 1e3, (s.end - s.begin) * 1e3);
  const double x = axis.x(s.begin), width = std::max(axis.x(s.end) - x, 0.3);
  svg.rect({.x = x,
            .y = y,
            .width = width,
            .height = height,
            .fill = fill,
            .stroke = width > 3 ? SvgColor::kPaper : "",
            .tooltip = tooltip});
}

void draw_axis(Svg& svg, const Axis& axis, double top, double bottom, double unit, std::string_view unit_name) {
  const double length = (axis.end - axis.begin) / unit;
  const double step = axis_step(length, 12);
  for (int n = 0; n * step <= length; ++n) {
    const double t = n * step, x = axis.x(axis.begin + t * unit);
    svg.line(x, top, x, bottom, SvgColor::kGrid);
    svg.text({.x = x, .y = bottom + 14, .size = 11, .fill = SvgColor::kMuted, .anchor = "middle"},
             fmt::format("{:g} {}", t, unit_name));
  }
}

void draw_legend(Svg& svg, double y) {
  const std::pair<std::string_view, std::string_view> entries[] = {
      {SvgColor::kBlue, "forward"},          {SvgColor::kLightBlue, "forward beside backward"},
      {SvgColor::kOrange, "backward"},       {SvgColor::kLightOrange, "input gradient"},
      {SvgColor::kGreen, "weight gradient"}, {SvgColor::kRed, "optimizer"}};
  double x = kLeft;
  for (const auto& [fill, words] : entries) {
    svg.rect({.x = x, .y = y - 9, .width = 10, .height = 10, .fill = fill});
    svg.text({.x = x + 15, .y = y, .size = 11}, words);
    x += 36 + 6.5 * static_cast<double>(words.size());
  }
}

// The first overlapped chunk of rank 0, or its first chunk at all.
const StepSpan* chunk_to_show(const StepEstimate& e) {
  const StepSpan* first = nullptr;
  for (const StepSpan& s : e.spans) {
    if (s.rank != 0 || s.lane != Lane::kChunk) continue;
    if (s.action == PipelineActionKind::kForwardBackward) return &s;
    if (!first) first = &s;
  }
  return first;
}

void draw_inside(Svg& svg, const StepEstimate& e, const StepSpan& chunk, double top) {
  svg.text({.x = kLeft, .y = top, .size = 13, .bold = true}, fmt::format("inside {} of rank 0", chunk.name));
  const Axis axis{chunk.begin, chunk.end};
  const double y = top + 14;
  draw_axis(svg, axis, y, y + 60, 1e-3, "ms");
  for (const auto& [lane, words, offset] : {std::tuple{Lane::kCompute, "compute", 0.0}, {Lane::kCommunication, "rows", 30.0}}) {
    svg.text({.x = kLeft - 8, .y = y + offset + 18, .size = 11, .anchor = "end"}, words);
    for (const StepSpan& s : e.spans) {
      if (s.rank != 0 || s.lane != lane || s.begin < chunk.begin - 1e-12 || s.end > chunk.end + 1e-12) continue;
      draw_span(svg, axis, s, y + offset, 26, part_color(s));
    }
  }
}

}  // namespace

std::string step_chart(const StepEstimate& e, std::string_view title) {
  CHECK(!e.spans.empty());
  int64_t ranks = 0;
  for (const StepSpan& s : e.spans) ranks = std::max(ranks, s.rank + 1);
  const double row = std::clamp(420.0 / static_cast<double>(ranks), 4.0, 28.0),
               rows_end = kTop + row * static_cast<double>(ranks);
  const StepSpan* chunk = chunk_to_show(e);
  Svg svg(kWidth, rows_end + 160, title);
  svg.text({.x = kLeft, .y = 24, .size = 16, .bold = true}, title);
  draw_legend(svg, 48);
  const Axis axis{0, e.step_seconds};
  draw_axis(svg, axis, kTop, rows_end, 1, "s");
  for (int64_t r = 0; r < ranks; ++r) {
    if (row < 10 && r % 4 != 0) continue;
    svg.text({.x = kLeft - 8, .y = kTop + row * (static_cast<double>(r) + 0.5) + 4, .size = 11, .anchor = "end"},
             fmt::format("rank {}", r));
  }
  for (const StepSpan& s : e.spans)
    if (s.lane == Lane::kChunk || s.lane == Lane::kOptimizer)
      draw_span(svg, axis, s, kTop + row * static_cast<double>(s.rank), row - 1, color_of(s));
  if (chunk) draw_inside(svg, e, *chunk, rows_end + 50);
  return svg.finish();
}

std::string step_trace(const StepEstimate& e) {
  constexpr int kLanes = 3;
  const char* lanes[kLanes] = {"actions", "compute", "rows on links"};
  int64_t ranks = 0;
  for (const StepSpan& s : e.spans) ranks = std::max(ranks, s.rank + 1);
  const auto track = [](int64_t rank, int lane) { return static_cast<int>(rank) * kLanes + lane; };
  std::vector<TimelineTrack> tracks;
  for (int64_t r = 0; r < ranks; ++r)
    for (int lane = 0; lane < kLanes; ++lane) tracks.push_back({track(r, lane), fmt::format("rank {} {}", r, lanes[lane])});
  std::vector<TimelineSpan> spans;
  for (const StepSpan& s : e.spans) {
    const int lane = s.lane == Lane::kCompute ? 1 : s.lane == Lane::kCommunication ? 2 : 0;
    spans.push_back({track(s.rank, lane), s.name, lanes[lane], s.begin, s.end});
  }
  return timeline_json(tracks, spans);
}

}  // namespace rorqual
