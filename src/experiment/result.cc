#include "experiment/result.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/html.h"
#include "base/log.h"
#include "experiment/page_template.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

// Characters, not bytes: the texts hold × and Greek letters.
size_t width_of(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string padded(const std::string& text, size_t width, bool right) {
  const std::string space(width - std::min(width, width_of(text)), ' ');
  return right ? space + text : text + space;
}

// Six digits are more than a screen shows.
Json rounded(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double v : values) list.push_back(std::isfinite(v) ? Json(std::stod(fmt::format("{:.6g}", v))) : Json(nullptr));
  return list;
}

Json charts_json(const std::vector<Chart>& charts) {
  Json list = Json::array();
  for (const Chart& chart : charts) {
    Json series = Json::array();
    for (const ChartSeries& s : chart.series) {
      CHECK(s.x.size() == s.y.size());
      series.push_back({{"name", s.name}, {"dashed", s.dashed}, {"x", rounded(s.x)}, {"y", rounded(s.y)}});
    }
    list.push_back({{"title", chart.title},
                    {"note", chart.note},
                    {"x_name", chart.x_name},
                    {"percent", chart.unit == Chart::Unit::kPercent},
                    {"log_x", chart.log_x},
                    {"log_y", chart.log_y},
                    {"series", std::move(series)}});
  }
  return list;
}

std::string row_html(const std::vector<std::string>& cells, bool head) {
  std::string html = "<tr>";
  for (size_t i = 0; i < cells.size(); ++i) {
    const char* open = head ? "<th scope=\"col\">" : i == 0 ? "<th scope=\"row\">" : "<td>";
    html += open + escape_html(cells[i]) + (head || i == 0 ? "</th>" : "</td>");
  }
  return html + "</tr>\n";
}

std::string table_html(const TextTable& table) {
  std::string html = fmt::format("<section><details><summary>{}</summary>\n<p class=\"note\">{}</p>\n",
                                 escape_html(table.title), escape_html(table.note));
  html += fmt::format("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table><thead>\n",
                      escape_html(table.title));
  html += row_html(table.columns, true) + "</thead><tbody>\n";
  for (const auto& row : table.rows) html += row_html(row, false);
  return html + "</tbody></table></div></details></section>\n";
}

std::string claims_html(const std::vector<Claim>& claims) {
  std::string html;
  for (const Claim& c : claims)
    html += fmt::format("<div><dt>{}</dt><dd>{}<small>the report: {}</small></dd></div>\n", escape_html(c.claim),
                        escape_html(c.ours), escape_html(c.report));
  return html;
}

}  // namespace

std::string percent(double share) {
  return fmt::format("{:.3g} %", 100 * share);
}

void log_table(const TextTable& table) {
  info("\n{}{}", table.title, table.note.empty() ? "" : ": " + table.note);
  std::vector<size_t> widths;
  for (size_t i = 0; i < table.columns.size(); ++i) {
    widths.push_back(width_of(table.columns[i]));
    for (const auto& row : table.rows) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  const auto show = [&](const std::vector<std::string>& cells) {
    CHECK(cells.size() == widths.size());
    std::string line;
    for (size_t i = 0; i < cells.size(); ++i) line += (i == 0 ? "  " : "   ") + padded(cells[i], widths[i], i > 0);
    info("{}", line);
  };
  show(table.columns);
  for (const auto& row : table.rows) show(row);
}

Json result_json(std::string_view name, std::string_view question, const ExperimentResult& result) {
  Json j;
  j["experiment"] = name;
  j["question"] = question;
  j["settings"] = result.settings;
  j["claims"] = Json::array();
  for (const Claim& c : result.claims) j["claims"].push_back({{"claim", c.claim}, {"report", c.report}, {"ours", c.ours}});
  j["rows"] = result.rows;
  return j;
}

std::string result_page(std::string_view name, std::string_view question, std::string_view command,
                        const ExperimentResult& result) {
  std::string tables;
  for (const TextTable& table : result.tables) tables += table_html(table);
  const Json data = {{"charts", charts_json(result.charts)}};
  return fill_template(kExperimentPage,
                       {{"title", escape_html(name)},
                        {"question", escape_html(question)},
                        {"claims", claims_html(result.claims)},
                        {"tables", tables},
                        {"command", escape_html(command)},
                        {"settings", escape_html(result.settings.dump(2, ' ', false, Json::error_handler_t::replace))},
                        {"data", json_for_script(data.dump(-1, ' ', false, Json::error_handler_t::replace))}});
}

}  // namespace rorqual
