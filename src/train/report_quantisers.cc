#include "train/report_quantisers.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

std::string block_name(size_t block, const ModelConfig& model) {
  const auto layer = static_cast<int64_t>(block);
  return layer < model.num_hidden_layers ? fmt::format("{}", layer)
                                         : fmt::format("MTP {}", layer - model.num_hidden_layers + 1);
}

std::string percent(double share) {
  return share == 0 ? "0" : fmt::format("{:.2g}", 100 * share);
}

// 2^-9 for a power of two, else three digits.
std::string scale_text(double scale) {
  const double exponent = std::log2(scale);
  return std::abs(exponent - std::round(exponent)) < 1e-2 ? fmt::format("2^{:.0f}", exponent) : fmt::format("{:.3g}", scale);
}

std::string cell(const Json& counts, size_t block) {
  const double low = counts.at("scale").at(block).at(0), high = counts.at("scale").at(block).at(1);
  if (high == 0) return "<td></td>";
  const double flushed = counts.at("flushed").at(block), saturated = counts.at("saturated").at(block);
  return fmt::format("<td title=\"scales {} to {}\">{}{}</td>", scale_text(low), scale_text(high), percent(flushed),
                     saturated > 0 ? " / " + percent(saturated) : "");
}

}  // namespace

std::string quantisers_html(const Json& quantised, int64_t step, const ModelConfig& model) {
  if (quantised.is_null() || quantised.empty()) return {};
  try {
    const size_t blocks = quantised.begin()->at("flushed").size();
    std::string html = fmt::format(
        "<section class=\"scroll\" tabindex=\"0\" aria-label=\"FP8 quantisers\"><h2>FP8 quantisers</h2>\n"
        "<p class=\"note\">Percent of values flushed to zero by layer, after a stroke percent saturated where there are any, "
        "at "
        "step {}. Point at a cell for the range of its scales.</p>\n<table><thead><tr><th scope=\"col\">tensor</th>",
        step);
    for (size_t b = 0; b < blocks; ++b) html += fmt::format("<th scope=\"col\">{}</th>", block_name(b, model));
    html += "</tr></thead><tbody>\n";
    for (const auto& [name, counts] : quantised.items()) {
      html += fmt::format("<tr><th scope=\"row\">{}</th>", name);
      for (size_t b = 0; b < blocks; ++b) html += cell(counts, b);
      html += "</tr>\n";
    }
    return html + "</tbody></table></section>\n";
  } catch (const Json::exception& e) {
    fail("metrics.jsonl: \"quantised\" of step {} is damaged: {}", step, e.what());
  }
}

}  // namespace rorqual
