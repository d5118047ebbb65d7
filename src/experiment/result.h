// What an experiment found, as numbers (NAME.json) and as a page of plots.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rorqual {

// A claim of the report beside what was found.
struct Claim {
  std::string claim;
  std::string report;  // its figure, or that it gives none
  std::string ours;
};

// Cells are text; the first column names the row.
struct TextTable {
  std::string title, note;
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;
};

struct ChartSeries {
  std::string name;
  std::vector<double> x, y;
  bool dashed = false;
};

struct Chart {
  enum class Unit { kNumber, kPercent };  // kPercent: y are shares of 1
  std::string title, note;
  std::string x_name;
  Unit unit = Unit::kNumber;
  bool log_x = false, log_y = false;  // points that a logarithm cannot show are left out
  std::vector<ChartSeries> series;
};

struct ExperimentResult {
  nlohmann::ordered_json settings;  // what decides the numbers
  nlohmann::ordered_json rows;      // list of objects: one measurement each
  std::vector<Claim> claims;
  std::vector<Chart> charts;
  std::vector<TextTable> tables;
};

// "3.31 %", "0.021 %", "1.2e-05 %": three digits of a share of 1.
std::string percent(double share);

// With aligned columns, on standard error.
void log_table(const TextTable& table);

// Everything but charts and tables, which hold nothing that the rows do not.
nlohmann::ordered_json result_json(std::string_view name, std::string_view question, const ExperimentResult& result);

// One HTML page that needs nothing but itself. `command`: what repeats it.
std::string result_page(std::string_view name, std::string_view question, std::string_view command,
                        const ExperimentResult& result);

}  // namespace rorqual
