#include "plan/memory_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "base/svg.h"
#include "base/units.h"

namespace rorqual {
namespace {

using enum PlanMemory;

// Classes that are drawn as one, from the bottom of a stack upwards.
struct Band {
  std::string_view name, fill;
  std::initializer_list<PlanMemory> classes;
};
const std::array<Band, 9>& bands() {
  static const std::array<Band, 9> list = {{
      {"weights", SvgColor::kBlue, {kMasterWeights, kFp8Weights, kBf16Weights, kFullWeights}},
      {"gradients", SvgColor::kLightBlue, {kGradients}},
      {"moments", SvgColor::kInk, {kMoments}},
      {"kept for backward", SvgColor::kOrange, {kActivations, kLinearInputs, kAttentionOutputs, kSwiGluInputs}},
      {"deferred gradients", SvgColor::kLightOrange, {kDeferred}},
      {"scratch, logits", SvgColor::kGreen, {kScratch, kLogits}},
      {"rows on their way", SvgColor::kLightGreen, {kRoutedRows}},
      {"communication", SvgColor::kMuted, {kCommunication}},
      {"cache", SvgColor::kGrid, {kCache}},
  }};
  return list;
}

int64_t bytes_of_band(const RankMemory& rank, const Band& band) {
  int64_t bytes = 0;
  for (const PlanMemory c : band.classes) bytes += rank.expected[c];
  return bytes;
}

std::string axis_label(double value) {
  return fmt::format("{:g}", value);
}

}  // namespace

std::string memory_svg_chart(const MemoryPlan& plan, const std::string& title, const std::string& subtitle,
                             int64_t device_bytes) {
  constexpr double kLeft = 64, kTop = 76, kHeight = 320, kLegend = 190, kBottom = 68;
  const auto ranks = static_cast<double>(plan.ranks.size());
  const double pitch = std::clamp(640 / ranks, 6.0, 72.0), bar = pitch * 0.7, chart = std::max(ranks * pitch, 280.0);
  const double most = std::max(gib(plan.largest().expected.device()), gib(device_bytes)) * 1.05;
  const double step = axis_step(most, 6), top = std::ceil(most / step) * step;
  const auto y_of = [&](double value) { return kTop + kHeight * (1 - value / top); };
  Svg svg(kLeft + chart + kLegend, kTop + kHeight + kBottom, title);
  svg.text({.x = kLeft, .y = 28, .size = 16, .bold = true}, title);
  svg.text({.x = kLeft, .y = 48, .fill = SvgColor::kMuted}, subtitle);
  for (int i = 0; i * step <= top * 1.0001; ++i) {
    const double value = i * step;
    svg.line(kLeft, y_of(value), kLeft + chart, y_of(value), SvgColor::kGrid);
    svg.text({.x = kLeft - 8, .y = y_of(value) + 4, .size = 11, .fill = SvgColor::kMuted, .anchor = "end"}, axis_label(value));
  }
  svg.text({.x = kLeft - 8, .y = kTop - 10, .size = 11, .fill = SvgColor::kMuted, .anchor = "end"}, "GiB");
  const size_t label_every = pitch < 20 ? 4 : 1;
  for (size_t i = 0; i < plan.ranks.size(); ++i) {
    const RankMemory& rank = plan.ranks[i];
    const double x = kLeft + static_cast<double>(i) * pitch + (pitch - bar) / 2;
    double below = 0;
    for (const Band& band : bands()) {
      const double value = gib(bytes_of_band(rank, band));
      if (value <= 0) continue;
      const std::string tooltip = fmt::format("pp {}: {} {:.2f} GiB", rank.pp_i, band.name, value);
      svg.rect({.x = x,
                .y = y_of(below + value),
                .width = bar,
                .height = y_of(below) - y_of(below + value),
                .fill = band.fill,
                .tooltip = tooltip});
      below += value;
    }
    if (i % label_every == 0)
      svg.text({.x = x + bar / 2, .y = kTop + kHeight + 18, .size = 11, .fill = SvgColor::kMuted, .anchor = "middle"},
               std::to_string(rank.pp_i));
    if (pitch >= 28)
      svg.text({.x = x + bar / 2, .y = kTop + kHeight + 34, .size = 11, .anchor = "middle"}, fmt::format("{:.1f}", below));
  }
  svg.text({.x = kLeft + chart / 2, .y = kTop + kHeight + 52, .size = 12, .fill = SvgColor::kMuted, .anchor = "middle"},
           "pipeline coordinate, GiB of a rank");
  if (device_bytes > 0) {
    const double y = y_of(gib(device_bytes));
    svg.line(kLeft, y, kLeft + chart, y, SvgColor::kRed, 2);
    svg.line(kLeft + chart + 16, kTop + 46, kLeft + chart + 28, kTop + 46, SvgColor::kRed, 2);
    svg.text({.x = kLeft + chart + 34, .y = kTop + 50}, fmt::format("{:.1f} GiB a device", gib(device_bytes)));
  }
  double y = kTop + 60;
  for (auto band = bands().rbegin(); band != bands().rend(); ++band) {
    const bool drawn = std::any_of(plan.ranks.begin(), plan.ranks.end(),
                                   [&](const RankMemory& rank) { return bytes_of_band(rank, *band) > 0; });
    if (!drawn) continue;
    svg.rect({.x = kLeft + chart + 16, .y = y, .width = 12, .height = 12, .fill = band->fill});
    svg.text({.x = kLeft + chart + 34, .y = y + 10}, band->name);
    y += 20;
  }
  return svg.finish();
}

}  // namespace rorqual
