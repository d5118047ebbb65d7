// Drawings as SVG text: rectangles, lines and words, enough for charts and bars. Coordinates are pixels, y downwards.
#pragma once

#include <string>
#include <string_view>

namespace rorqual {

// The colours that the program's drawings share, told apart also without red and green.
struct SvgColor {
  static constexpr std::string_view kInk = "#1f2933", kMuted = "#6b7785", kGrid = "#dfe4ea", kPaper = "#ffffff",
                                    kPanel = "#f4f6f8";
  static constexpr std::string_view kBlue = "#4c8dd6", kLightBlue = "#a9cdf0", kOrange = "#e8964a", kLightOrange = "#f6c99a",
                                    kGreen = "#4fa88b", kLightGreen = "#a8dbc8", kRed = "#cf5b5b", kLightRed = "#e9abab";
};

struct SvgRect {
  double x = 0, y = 0, width = 0, height = 0;
  std::string_view fill = SvgColor::kBlue;
  std::string_view stroke = "";  // empty: none
  double radius = 0;
  std::string_view tooltip = "";  // shown by a browser when the pointer rests on it
};

struct SvgText {
  double x = 0, y = 0;  // of the baseline
  double size = 12;
  std::string_view fill = SvgColor::kInk;
  std::string_view anchor = "start";  // "middle", "end"
  bool bold = false;
};

// 1, 2 or 5 times a power of ten: the least such step that cuts `length` (above 0) into at most `parts`.
double axis_step(double length, int parts);

class Svg {
 public:
  // Sizes are above 0. `title` names the picture for readers that do not see it.
  Svg(double width, double height, std::string_view title);

  void rect(const SvgRect& rect);
  void line(double x1, double y1, double x2, double y2, std::string_view stroke, double width = 1);
  void text(const SvgText& at, std::string_view words);

  std::string finish() const;

 private:
  std::string body_;
};

}  // namespace rorqual
