#include "plan/pipeline_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "base/svg.h"
#include "base/timeline.h"

namespace rorqual {
namespace {

using Kind = PipelineActionKind;

// Indexed by PipelineActionKind's compute actions.
constexpr std::array<char, 5> kLetters = {'F', 'B', 'I', 'W', 'X'};
constexpr std::array<const char*, 5> kCategories = {"forward", "backward", "input gradient", "weight gradient",
                                                    "forward and backward"};

// Of both directions.
using Colors = std::array<std::string_view, 2>;
constexpr Colors kForward = {SvgColor::kBlue, SvgColor::kLightBlue}, kBackward = {SvgColor::kOrange, SvgColor::kLightOrange},
                 kInput = {SvgColor::kRed, SvgColor::kLightRed}, kWeight = {SvgColor::kGreen, SvgColor::kLightGreen};

const Colors& colors_of(Kind kind) {
  switch (kind) {
    case Kind::kBackward:
      return kBackward;
    case Kind::kInputGradient:
      return kInput;
    case Kind::kWeightGradient:
      return kWeight;
    default:
      return kForward;
  }
}

std::string stages_of(const PipelineShape& shape, int rank) {
  return shape.directions() == 1 ? fmt::format("stage {}", shape.stage(rank, 0))
                                 : fmt::format("stages {}, {}", shape.stage(rank, 0), shape.stage(rank, 1));
}

constexpr double kLeft = 92, kTop = 96, kRowHeight = 30, kRowGap = 6, kRight = 24, kBottom = 40, kLeastWidth = 620;

class Chart {
 public:
  Chart(const PipelineSchedule& schedule, const PipelineRun& run, const std::string& title, const std::string& subtitle)
      : schedule_(schedule),
        run_(run),
        scale_(scale_of(run)),
        width_(std::max(kLeastWidth, kLeft + run.makespan * scale_ + kRight)),
        bottom_(kTop + static_cast<double>(run.spans.size()) * (kRowHeight + kRowGap)),
        svg_(width_, bottom_ + kBottom, title) {
    svg_.text({.x = 20, .y = 30, .size = 17, .bold = true}, title);
    svg_.text({.x = 20, .y = 50, .size = 12.5, .fill = SvgColor::kMuted}, subtitle);
    draw_legend();
    for (size_t r = 0; r < run.spans.size(); ++r) draw_rank(r);
    draw_axis();
  }

  std::string finish() const { return svg_.finish(); }

 private:
  // Pixels for a unit of time: room for a number in the shortest box, unless the picture would be too wide.
  static double scale_of(const PipelineRun& run) {
    double least = run.makespan;
    for (const auto& rank : run.spans)
      for (const PipelineSpan& s : rank)
        if (s.end > s.begin) least = std::min(least, s.end - s.begin);
    return run.makespan > 0 ? std::min(18 / least, 1500 / run.makespan) : 1;
  }

  void draw_legend() {
    double x = kLeft;
    const auto entry = [&](const Colors& colors, std::string_view words) {
      for (size_t d = 0; d < static_cast<size_t>(schedule_.shape.directions()); ++d, x += 13)
        svg_.rect({.x = x, .y = 66, .width = 12, .height = 12, .fill = colors[d], .radius = 2});
      svg_.text({.x = x + 4, .y = 76, .size = 11.5}, words);
      x += 26 + 5.8 * static_cast<double>(words.size());
    };
    entry(kForward, "forward");
    entry(kBackward, "backward");
    if (schedule_.shape.kind == PipelineKind::k1F1B) return;
    entry(kInput, "input gradient");
    entry(kWeight, "weight gradient");
    if (schedule_.shape.directions() == 2) svg_.text({.x = x, .y = 76, .size = 11.5}, "dark: direction 0, light: 1");
  }

  void draw_rank(size_t r) {
    const double y = kTop + static_cast<double>(r) * (kRowHeight + kRowGap);
    svg_.text({.x = 20, .y = y + 14, .size = 12, .bold = true}, fmt::format("rank {}", r));
    svg_.text({.x = 20, .y = y + 26, .size = 10, .fill = SvgColor::kMuted}, stages_of(schedule_.shape, static_cast<int>(r)));
    svg_.rect({.x = kLeft, .y = y, .width = run_.makespan * scale_, .height = kRowHeight, .fill = SvgColor::kPanel});
    for (const PipelineSpan& s : run_.spans[r]) draw_span(y, s, schedule_.ranks[r][static_cast<size_t>(s.action)]);
  }

  void draw_span(double y, const PipelineSpan& s, const PipelineAction& a) {
    const std::string tip = fmt::format("{}: {:g} to {:g}", pipeline_action_name(a), s.begin, s.end);
    if (a.kind != Kind::kForwardBackward) return draw_box(s, y, kRowHeight, colors_of(a.kind), a.chunk, tip);
    draw_box(s, y, kRowHeight / 2, kForward, a.chunk, tip);
    draw_box(s, y + kRowHeight / 2, kRowHeight / 2, kBackward, a.backward, tip);
  }

  void draw_box(const PipelineSpan& s, double y, double height, const Colors& colors, const PipelineChunk& chunk,
                const std::string& tip) {
    const double x = kLeft + s.begin * scale_, width = (s.end - s.begin) * scale_;
    const double gap = std::min(0.5, width / 8);
    svg_.rect({.x = x + gap,
               .y = y + 0.5,
               .width = width - 2 * gap,
               .height = height - 1,
               .fill = colors[static_cast<size_t>(chunk.direction)],
               .radius = std::min(2.0, width / 4),
               .tooltip = tip});
    const std::string number = fmt::format("{}", chunk.micro_batch);
    if (static_cast<double>(number.size()) * 5.6 + 2 > width) return;
    svg_.text({.x = x + width / 2, .y = y + height / 2 + 3.6, .size = 10, .anchor = "middle"}, number);
  }

  void draw_axis() {
    if (run_.makespan <= 0) return;
    const double step = axis_step(run_.makespan, 10);
    for (int n = 0; n * step <= run_.makespan * (1 + 1e-12); ++n) {
      const double x = kLeft + n * step * scale_;
      svg_.line(x, bottom_ - 2, x, bottom_ + 4, SvgColor::kMuted);
      svg_.text({.x = x, .y = bottom_ + 18, .size = 10.5, .fill = SvgColor::kMuted, .anchor = "middle"},
                fmt::format("{:g}", n * step));
    }
    svg_.line(kLeft, bottom_ - 2, kLeft + run_.makespan * scale_, bottom_ - 2, SvgColor::kMuted);
    svg_.text({.x = 20, .y = bottom_ + 18, .size = 10.5, .fill = SvgColor::kMuted}, "time");
  }

  const PipelineSchedule& schedule_;
  const PipelineRun& run_;
  double scale_, width_, bottom_;
  Svg svg_;
};

}  // namespace

std::string pipeline_text_chart(const PipelineSchedule& schedule, const PipelineRun& run, int columns) {
  CHECK(columns >= 1);
  const double column = std::max(1.0, run.makespan / columns);
  const auto count = static_cast<size_t>(std::ceil(run.makespan / column - 1e-9));
  std::string text;
  for (size_t r = 0; r < run.spans.size(); ++r) {
    std::string line(count, '.');
    for (const PipelineSpan& s : run.spans[r]) {
      const Kind kind = schedule.ranks[r][static_cast<size_t>(s.action)].kind;
      // Columns whose middle lies in [begin, end).
      for (double c = std::ceil(s.begin / column - 0.5); (c + 0.5) * column < s.end; ++c)
        line[static_cast<size_t>(c)] = kLetters[static_cast<size_t>(kind)];
    }
    text += fmt::format("rank {:<4} {}\n", r, line);
  }
  return text;
}

std::string pipeline_svg_chart(const PipelineSchedule& schedule, const PipelineRun& run, const std::string& title,
                               const std::string& subtitle) {
  return Chart(schedule, run, title, subtitle).finish();
}

void write_pipeline_trace(const std::filesystem::path& path, const PipelineSchedule& schedule, const PipelineRun& run) {
  constexpr double kSecondsPerUnit = 1e-3;
  std::vector<TimelineTrack> tracks;
  std::vector<TimelineSpan> spans;
  for (size_t r = 0; r < run.spans.size(); ++r) {
    const int rank = static_cast<int>(r);
    tracks.push_back({rank, fmt::format("rank {}", r)});
    for (const PipelineSpan& s : run.spans[r]) {
      const PipelineAction& a = schedule.ranks[r][static_cast<size_t>(s.action)];
      spans.push_back({rank, pipeline_action_name(a), kCategories[static_cast<size_t>(a.kind)], s.begin * kSecondsPerUnit,
                       s.end * kSecondsPerUnit});
    }
  }
  write_timeline(path, tracks, spans);
}

}  // namespace rorqual
