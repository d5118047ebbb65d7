#include "base/svg.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "base/html.h"

namespace rorqual {
namespace {

// Hundredths of a pixel, without trailing zeros.
std::string number(double value) {
  CHECK(std::isfinite(value));
  std::string text = fmt::format("{:.2f}", value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text == "-0" ? "0" : text;
}

}  // namespace

double axis_step(double length, int parts) {
  CHECK(length > 0 && parts > 0, "{} in {} parts", length, parts);
  const double rough = length / parts, power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (rough <= factor * power) return factor * power;
  return 10 * power;
}

Svg::Svg(double width, double height, std::string_view title) {
  CHECK(width > 0 && height > 0);
  const std::string name = escape_html(title);
  body_ = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" role=\"img\" "
      "aria-label=\"{2}\" font-family=\"system-ui, 'Helvetica Neue', Arial, sans-serif\">\n<title>{2}</title>\n",
      number(width), number(height), name);
  rect({.x = 0, .y = 0, .width = width, .height = height, .fill = SvgColor::kPaper});
}

void Svg::rect(const SvgRect& r) {
  body_ += fmt::format(R"(<rect x="{}" y="{}" width="{}" height="{}" fill="{}")", number(r.x), number(r.y), number(r.width),
                       number(r.height), r.fill);
  if (!r.stroke.empty()) body_ += fmt::format(R"( stroke="{}")", r.stroke);
  if (r.radius > 0) body_ += fmt::format(R"( rx="{}")", number(r.radius));
  body_ += r.tooltip.empty() ? "/>\n" : fmt::format("><title>{}</title></rect>\n", escape_html(r.tooltip));
}

void Svg::line(double x1, double y1, double x2, double y2, std::string_view stroke, double width) {
  body_ += fmt::format(R"(<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="{}" stroke-width="{}"/>)", number(x1), number(y1),
                       number(x2), number(y2), stroke, number(width)) +
           "\n";
}

void Svg::text(const SvgText& at, std::string_view words) {
  body_ +=
      fmt::format(R"(<text x="{}" y="{}" font-size="{}" fill="{}" text-anchor="{}"{}>{}</text>)", number(at.x), number(at.y),
                  number(at.size), at.fill, at.anchor, at.bold ? R"( font-weight="600")" : "", escape_html(words)) +
      "\n";
}

std::string Svg::finish() const {
  return body_ + "</svg>\n";
}

}  // namespace rorqual
