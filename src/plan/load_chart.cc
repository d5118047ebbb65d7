#include "plan/load_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/svg.h"
#include "plan/expert_placement.h"

namespace rorqual {
namespace {

constexpr double kWidth = 1080, kMargin = 28, kLabel = 72, kGap = 36, kHeader = 118, kFooter = 34;
constexpr double kChart = (kWidth - 2 * kMargin - kLabel - kGap) / 2;

struct Panel {
  double left, top, height;
  double scale;  // load at the top
};

// Bars up to the mean in blue; what a GPU has beyond it in orange: time that all others wait.
void draw_bars(Svg& svg, const Panel& panel, const std::vector<double>& loads, int64_t gpus_per_node) {
  const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / static_cast<double>(loads.size());
  const double slot = kChart / static_cast<double>(loads.size()), gap = slot > 5 ? slot * 0.18 : slot > 2.5 ? 0.5 : 0;
  const double base = panel.top + panel.height;
  const auto y = [&](double load) { return base - panel.height * load / panel.scale; };
  svg.rect({.x = panel.left, .y = panel.top, .width = kChart, .height = panel.height, .fill = SvgColor::kPanel});
  const auto nodes = static_cast<int64_t>(loads.size()) / gpus_per_node;
  if (nodes > 1 && kChart / static_cast<double>(nodes) > 8) {
    for (int64_t n = 1; n < nodes; ++n) {
      const double x = panel.left + slot * static_cast<double>(n * gpus_per_node);
      svg.line(x, panel.top, x, base, SvgColor::kGrid);
    }
  }
  for (size_t g = 0; g < loads.size(); ++g) {
    const double x = panel.left + slot * static_cast<double>(g) + gap / 2, load = loads[g];
    const std::string tooltip = fmt::format("GPU {}, node {}: load {:.6g}, {:.3f} of the mean", g,
                                            static_cast<int64_t>(g) / gpus_per_node, load, mean > 0 ? load / mean : 1);
    const double low = std::min(load, mean);
    if (low > 0) {
      svg.rect(
          {.x = x, .y = y(low), .width = slot - gap, .height = base - y(low), .fill = SvgColor::kBlue, .tooltip = tooltip});
    }
    if (load > mean) {
      svg.rect({.x = x,
                .y = y(load),
                .width = slot - gap,
                .height = y(mean) - y(load),
                .fill = SvgColor::kOrange,
                .tooltip = tooltip});
    }
  }
  svg.line(panel.left, y(mean), panel.left + kChart, y(mean), SvgColor::kInk, 1);
  const size_t top = static_cast<size_t>(std::max_element(loads.begin(), loads.end()) - loads.begin());
  const double x = panel.left + slot * (static_cast<double>(top) + 0.5);
  svg.text({.x = std::clamp(x, panel.left + 22, panel.left + kChart - 22),
            .y = y(loads[top]) - 5,
            .size = 12,
            .anchor = "middle",
            .bold = true},
           fmt::format("{:.2f}×", max_over_mean(loads)));
}

void draw_legend(Svg& svg, double y) {
  double x = kMargin;
  const auto entry = [&](std::string_view color, const char* words, double width) {
    svg.rect({.x = x, .y = y - 10, .width = 12, .height = 12, .fill = color, .radius = 2});
    svg.text({.x = x + 18, .y = y, .size = 12, .fill = SvgColor::kMuted}, words);
    x += width;
  };
  entry(SvgColor::kBlue, "load up to the mean", 152);
  entry(SvgColor::kOrange, "beyond the mean: what all other GPUs wait for", 322);
  svg.line(x, y - 4, x + 20, y - 4, SvgColor::kInk, 1);
  svg.text({.x = x + 26, .y = y, .size = 12, .fill = SvgColor::kMuted}, "mean; the number is the largest load over it");
}

}  // namespace

std::string draw_gpu_loads(const std::vector<LayerLoads>& layers, int64_t gpus_per_node, const std::string& title,
                           const std::string& facts) {
  CHECK(!layers.empty() && gpus_per_node > 0);
  const double row = layers.size() <= 2 ? 220 : layers.size() <= 8 ? 130 : 84, label_room = 24;
  Svg svg(kWidth, kHeader + row * static_cast<double>(layers.size()) + kFooter, title);
  svg.text({.x = kMargin, .y = 36, .size = 20, .bold = true}, title);
  svg.text({.x = kMargin, .y = 58, .size = 13, .fill = SvgColor::kMuted}, facts);
  draw_legend(svg, 82);
  const double left = kMargin + kLabel, right = left + kChart + kGap;
  svg.text({.x = left, .y = kHeader - 6, .size = 13, .bold = true}, "before: experts in order, no copies");
  svg.text({.x = right, .y = kHeader - 6, .size = 13, .bold = true}, "after: placed by load");
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerLoads& layer = layers[i];
    CHECK(!layer.before.empty() && layer.before.size() == layer.after.size());
    const double top = kHeader + row * static_cast<double>(i), height = row - 14;
    double most = *std::max_element(layer.before.begin(), layer.before.end());
    most = std::max(most, *std::max_element(layer.after.begin(), layer.after.end()));
    // The tallest bar leaves room for its number.
    const Panel panel{left, top + 4, height, (most > 0 ? most : 1) * height / (height - label_room)};
    svg.text({.x = kMargin, .y = top + height / 2 + 8, .size = 13}, fmt::format("layer {}", i));
    draw_bars(svg, panel, layer.before, gpus_per_node);
    draw_bars(svg, {right, panel.top, panel.height, panel.scale}, layer.after, gpus_per_node);
  }
  const double below = kHeader + row * static_cast<double>(layers.size()) + 16;
  const std::string axis = fmt::format("GPU 0 to {}, {} to a node", layers[0].before.size() - 1, gpus_per_node);
  svg.text({.x = left + kChart / 2, .y = below, .size = 12, .fill = SvgColor::kMuted, .anchor = "middle"}, axis);
  svg.text({.x = right + kChart / 2, .y = below, .size = 12, .fill = SvgColor::kMuted, .anchor = "middle"}, axis);
  return svg.finish();
}

}  // namespace rorqual
