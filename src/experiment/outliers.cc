// How quantisation with one scale per tensor, per 128×128 and per 1×128 bears outliers (report §3.3.2, Fig. 7a; App. B).
#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "experiment/experiment.h"
#include "numerics/fp8.h"
#include "numerics/scale.h"

namespace rorqual {
namespace {

constexpr int64_t kSide = 1024;  // tokens and channels
constexpr int64_t kGroup = 128;
constexpr int kMostSize = 20;  // outliers are up to 2^20 times as large
constexpr int kSizeStep = 2;
constexpr uint64_t kSeed = 1;
constexpr double kClaimedShare = 0.01;
constexpr std::array<double, 3> kShares = {0.001, kClaimedShare, 0.05};

enum class Place { kScattered, kTokens, kChannels };
struct Placement {
  Place place;
  const char* name;
};
constexpr Placement kPlacements[] = {
    {Place::kScattered, "scattered"}, {Place::kTokens, "in whole tokens"}, {Place::kChannels, "in whole channels"}};

struct Shape {
  const char* name;
  int64_t rows, cols;  // that share a scale
};
constexpr Shape kShapes[] = {{"tensor", kSide, kSide}, {"128×128", kGroup, kGroup}, {"1×128", 1, kGroup}};

struct Way {
  const Shape* shape;
  const char* format;  // "E4M3" or "E5M2"
  ScaleRule rule;
};

const char* rule_name(ScaleRule rule) {
  return rule == ScaleRule::kPow2 ? "pow2" : "fp32";
}

std::vector<Way> ways() {
  std::vector<Way> list;
  for (const char* format : {"E4M3", "E5M2"})
    for (const ScaleRule rule : {ScaleRule::kPow2, ScaleRule::kFp32})
      for (const Shape& shape : kShapes) list.push_back({&shape, format, rule});
  return list;
}

// [kSide, kSide] standard normal values, and which of them are outliers.
struct Values {
  std::vector<float> x;
  std::vector<uint8_t> outlier;
};

Values plant(Place place, double share, int size, const Stream& stream) {
  Values v{std::vector<float>(kSide * kSide), std::vector<uint8_t>(kSide * kSide)};
  const RandomKey values{.seed = kSeed, .purpose = RandomPurpose::kTest, .step = 1, .layer = 0};
  const RandomKey places{.seed = kSeed, .purpose = RandomPurpose::kTest, .step = 1, .layer = 1};
  // The share of rows or columns is met exactly: those with the smallest random numbers.
  std::vector<double> draws(kSide);
  for (size_t i = 0; i < draws.size(); ++i) draws[i] = random_uniform(places, i);
  std::vector<double> sorted = draws;
  std::sort(sorted.begin(), sorted.end());
  const double limit = sorted[static_cast<size_t>(std::llround(share * kSide))];
  stream.parallel(kSide, [&](int64_t r) {
    for (int64_t c = 0; c < kSide; ++c) {
      const auto at = static_cast<size_t>(r * kSide + c);
      const bool is_outlier = place == Place::kScattered ? random_uniform(places, kSide + at) < share
                                                         : draws[static_cast<size_t>(place == Place::kTokens ? r : c)] < limit;
      v.outlier[at] = is_outlier ? 1 : 0;
      v.x[at] = std::ldexp(static_cast<float>(random_normal(values, at)), is_outlier ? size : 0);
    }
  });
  return v;
}

struct Sums {
  double error = 0, square = 0;                    // of all values, squared
  double ordinary_error = 0, ordinary_square = 0;  // of those that are no outliers
  int64_t ordinary = 0, flushed = 0;               // ordinary values that became zero
  void add(const Sums& o) {
    error += o.error, square += o.square, ordinary_error += o.ordinary_error, ordinary_square += o.ordinary_square;
    ordinary += o.ordinary, flushed += o.flushed;
  }
};

template <class T>
Sums quantise_tile(const Values& v, int64_t row, int64_t col, const Shape& shape, ScaleRule rule) {
  float amax = 0;
  for (int64_t r = row; r < row + shape.rows; ++r)
    for (int64_t c = col; c < col + shape.cols; ++c) amax = std::max(amax, std::fabs(v.x[static_cast<size_t>(r * kSide + c)]));
  const float scale = scale_of(amax, T::kLargest, rule);
  Sums s;
  for (int64_t r = row; r < row + shape.rows; ++r)
    for (int64_t c = col; c < col + shape.cols; ++c) {
      const auto at = static_cast<size_t>(r * kSide + c);
      const float x = v.x[at], back = static_cast<float>(T(scaled(x, scale))) * scale;
      const double error = static_cast<double>(back) - static_cast<double>(x),
                   square = static_cast<double>(x) * static_cast<double>(x);
      s.error += error * error;
      s.square += square;
      if (v.outlier[at] != 0) continue;
      s.ordinary_error += error * error;
      s.ordinary_square += square;
      ++s.ordinary;
      s.flushed += back == 0 && x != 0;
    }
  return s;
}

struct Measurement {
  Place place;
  const char* place_name;
  double share;
  int size;  // outliers are 2^size times as large
  Way way;
  double error, ordinary_error;  // relative, root of the sums of squares
  double flushed;                // share of ordinary values that became zero
};

Sums quantise_all(const Values& v, const Way& way, const Stream& stream) {
  const Shape& shape = *way.shape;
  const int64_t down = kSide / shape.rows, across = kSide / shape.cols;
  std::vector<Sums> parts(static_cast<size_t>(down));
  stream.parallel(down, [&](int64_t i) {
    for (int64_t j = 0; j < across; ++j) {
      const int64_t row = i * shape.rows, col = j * shape.cols;
      parts[static_cast<size_t>(i)].add(std::string_view(way.format) == "E4M3"
                                            ? quantise_tile<E4M3>(v, row, col, shape, way.rule)
                                            : quantise_tile<E5M2>(v, row, col, shape, way.rule));
    }
  });
  Sums total;
  for (const Sums& part : parts) total.add(part);
  return total;
}

std::vector<Measurement> measure(const Placement& placement, double share, const Stream& stream) {
  std::vector<Measurement> found;
  for (int size = 0; size <= kMostSize; size += kSizeStep) {
    const Values v = plant(placement.place, share, size, stream);
    for (const Way& way : ways()) {
      const Sums s = quantise_all(v, way, stream);
      found.push_back({placement.place, placement.name, share, size, way, std::sqrt(s.error / s.square),
                       std::sqrt(s.ordinary_error / s.ordinary_square),
                       static_cast<double>(s.flushed) / static_cast<double>(s.ordinary)});
    }
  }
  return found;
}

bool is_way(const Way& way, std::string_view shape, std::string_view format, ScaleRule rule) {
  return way.shape->name == shape && way.format == format && way.rule == rule;
}

const Measurement& find(const std::vector<Measurement>& list, int size, const Way& way) {
  const auto at = std::find_if(list.begin(), list.end(), [&](const Measurement& m) {
    return m.size == size && is_way(m.way, way.shape->name, way.format, way.rule);
  });
  CHECK(at != list.end());
  return *at;
}

TextTable table_of(const std::vector<Measurement>& list) {
  TextTable table;
  table.title = fmt::format("Outliers {}, {:g} % of the values", list.front().place_name, 100 * list.front().share);
  table.note = "relative error of the ordinary values (share of them that became zero)";
  table.columns = {"format, scales"};
  constexpr int kSizes[] = {0, 4, 8, 12, 16, 20};
  for (const int size : kSizes) table.columns.push_back(fmt::format("×2^{}", size));
  for (const Way& way : ways()) {
    std::vector<std::string> row = {fmt::format("{} {} {}", way.format, way.shape->name, rule_name(way.rule))};
    for (const int size : kSizes) {
      const Measurement& m = find(list, size, way);
      row.push_back(percent(m.ordinary_error) + (m.flushed >= 0.001 ? fmt::format(" ({:.2g} %)", 100 * m.flushed) : ""));
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

Chart chart_of(const std::vector<Measurement>& list) {
  Chart chart{.title = fmt::format("Outliers {}, {:g} % of the values", list.front().place_name, 100 * list.front().share),
              .note = "Relative error of the values that are no outliers; power-of-two scales.",
              .x_name = "outliers' size, times the ordinary",
              .unit = Chart::Unit::kPercent,
              .log_x = true,
              .log_y = true,
              .series = {}};
  for (const Way& way : ways()) {
    if (way.rule != ScaleRule::kPow2) continue;
    ChartSeries s{.name = fmt::format("{} {}", way.format, way.shape->name),
                  .x = {},
                  .y = {},
                  .dashed = std::string_view(way.format) == "E5M2"};
    for (int size = 0; size <= kMostSize; size += kSizeStep) {
      s.x.push_back(std::ldexp(1.0, size));
      s.y.push_back(find(list, size, way).ordinary_error);
    }
    chart.series.push_back(std::move(s));
  }
  return chart;
}

nlohmann::ordered_json row_json(const Measurement& m) {
  nlohmann::ordered_json j;
  j["placement"] = m.place_name;
  j["share"] = m.share;
  j["size"] = std::ldexp(1.0, m.size);
  j["format"] = m.way.format;
  j["granularity"] = m.way.shape->name;
  j["scales"] = rule_name(m.way.rule);
  j["relative_error"] = m.error;
  j["ordinary_relative_error"] = m.ordinary_error;
  j["ordinary_flushed"] = m.flushed;
  return j;
}

// The smallest size of outliers at which the ordinary values' error is twice what it is without any; "none" if there is none.
std::string doubling_size(const std::vector<Measurement>& list, const Way& way) {
  const double alone = find(list, 0, way).ordinary_error;
  for (int size = 0; size <= kMostSize; size += kSizeStep)
    if (find(list, size, way).ordinary_error > 2 * alone) return fmt::format("2^{}", size);
  return fmt::format("none up to 2^{}", kMostSize);
}

void add_claims(const std::vector<Measurement>& list, std::vector<Claim>& claims) {
  const Measurement& first = list.front();
  if (first.share != kClaimedShare) return;
  std::string ours;
  for (const Shape& shape : kShapes)
    ours +=
        (ours.empty() ? "" : "; ") + fmt::format("{}: {}", shape.name, doubling_size(list, {&shape, "E4M3", ScaleRule::kPow2}));
  claims.push_back(
      {fmt::format("Size of outliers {}, {:g} %, that doubles the others' error (E4M3)", first.place_name, 100 * first.share),
       "finer groups bear outliers better; no figure", ours});
}

}  // namespace

ExperimentResult run_outliers_experiment(const ExperimentRequest& request, const Stream& stream) {
  ExperimentResult result;
  result.settings = {{"values", "standard normal, 1024 tokens × 1024 channels"},
                     {"outliers", "the same values times a power of two: scattered, whole tokens or whole channels"},
                     {"error", "root of (sum of squared errors / sum of squares), of all and of the ordinary values alone"},
                     {"seed", kSeed}};
  for (const Placement& placement : kPlacements)
    for (const double share : kShares) {
      if (request.quick && (placement.place != Place::kTokens || share != kClaimedShare)) continue;
      const std::vector<Measurement> list = measure(placement, share, stream);
      result.tables.push_back(table_of(list));
      log_table(result.tables.back());
      result.charts.push_back(chart_of(list));
      for (const Measurement& m : list) result.rows.push_back(row_json(m));
      add_claims(list, result.claims);
    }
  return result;
}

}  // namespace rorqual
