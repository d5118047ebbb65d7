// What Hopper's limited accumulator costs, and what promoting its sums to FP32 saves (report §3.3.2, Fig. 7b; spec 2.3).
#include "numerics/accumulator.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "experiment/experiment.h"
#include "numerics/fp8.h"
#include "numerics/scale.h"

namespace rorqual {
namespace {

constexpr int64_t kReportLength = 4096;
constexpr int64_t kGroup = 128;
constexpr uint64_t kSeed = 1;

// How much is measured.
struct Extent {
  std::vector<int64_t> lengths = {512, 1024, 2048, 4096, 8192, 16384};  // K
  int64_t rows = 64;                                                    // of each operand: their square is the number of sums
};

struct Distribution {
  const char* name;
  double (*draw)(const RandomKey& key, uint64_t position);
};
constexpr Distribution kDistributions[] = {
    {"uniform [0, 1)", [](const RandomKey& key, uint64_t i) { return random_uniform(key, i); }},
    {"uniform [-1, 1)", [](const RandomKey& key, uint64_t i) { return 2 * random_uniform(key, i) - 1; }},
    {"normal", [](const RandomKey& key, uint64_t i) { return random_normal(key, i); }},
    {"log-normal", [](const RandomKey& key, uint64_t i) { return std::exp(random_normal(key, i)); }},
};

std::vector<Accumulator> variants() {
  std::vector<Accumulator> list = {{}};
  for (const int bits : {14, 13})
    for (const int promote : {0, 512, 256, 128, 64, 32}) list.push_back({bits, promote});
  return list;
}

std::string variant_name(const Accumulator& a) {
  if (a.fraction_bits == 0) return "FP32";
  return fmt::format("{} bits{}", a.fraction_bits, a.promote > 0 ? fmt::format(", FP32 every {}", a.promote) : "");
}

// [rows, k], quantised to E4M3 in groups of 128 with power-of-two scales, and back.
std::vector<float> quantised_rows(const Distribution& distribution, uint32_t operand, int64_t rows, int64_t k,
                                  const Stream& stream) {
  std::vector<float> values(static_cast<size_t>(rows * k));
  const RandomKey key{.seed = kSeed, .purpose = RandomPurpose::kTest, .step = static_cast<uint64_t>(k), .layer = operand};
  stream.parallel(rows * k / kGroup, [&](int64_t group) {
    float* x = values.data() + group * kGroup;
    float amax = 0;
    for (int64_t i = 0; i < kGroup; ++i) {
      x[i] = static_cast<float>(distribution.draw(key, static_cast<uint64_t>(group * kGroup + i)));
      amax = std::max(amax, std::fabs(x[i]));
    }
    const float scale = scale_of(amax, E4M3::kLargest, ScaleRule::kPow2);
    for (int64_t i = 0; i < kGroup; ++i) x[i] = static_cast<float>(E4M3(scaled(x[i], scale))) * scale;
  });
  return values;
}

struct Errors {
  double max_relative = 0, mean_relative = 0;      // |error| / |exact|, sum by sum
  double max_of_typical = 0, mean_of_typical = 0;  // |error| / root mean square of the exact sums
  double bias = 0;                                 // mean of error / root mean square, with its sign toward zero
};

struct Measurement {
  const Distribution* distribution;
  int64_t k;
  Accumulator accumulator;
  Errors errors;
};

double exact_sum(const float* a, const float* b, int64_t k) {
  // Products are exact in double, and the sum's error is some 2^-53 · k of the sum of magnitudes: nothing beside 2^-24.
  double sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

Errors errors_of(const std::vector<double>& exact, const std::vector<double>& sums) {
  double squares = 0;
  for (const double x : exact) squares += x * x;
  const double count = static_cast<double>(exact.size()), typical = std::sqrt(squares / count);
  Errors e;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double error = std::fabs(sums[i] - exact[i]), relative = error / std::fabs(exact[i]);
    e.max_relative = std::max(e.max_relative, relative);
    e.mean_relative += relative / count;
    e.max_of_typical = std::max(e.max_of_typical, error / typical);
    e.mean_of_typical += error / typical / count;
    e.bias += (std::fabs(sums[i]) - std::fabs(exact[i])) / typical / count;
  }
  return e;
}

std::vector<Measurement> measure(const Distribution& distribution, int64_t rows, int64_t k, const Stream& stream) {
  const std::vector<float> a = quantised_rows(distribution, 0, rows, k, stream),
                           b = quantised_rows(distribution, 1, rows, k, stream);
  const auto row = [&](const std::vector<float>& x, int64_t r) {
    return std::span<const float>(x.data() + r * k, static_cast<size_t>(k));
  };
  const auto count = static_cast<size_t>(rows * rows);
  std::vector<double> exact(count);
  const std::vector<Accumulator> list = variants();
  std::vector<std::vector<double>> sums(list.size(), std::vector<double>(count));
  stream.parallel(rows, [&](int64_t m) {
    for (int64_t n = 0; n < rows; ++n) {
      const auto at = static_cast<size_t>(m * rows + n);
      exact[at] = exact_sum(row(a, m).data(), row(b, n).data(), k);
      for (size_t v = 0; v < list.size(); ++v)
        sums[v][at] = static_cast<double>(accumulate_products(list[v], row(a, m), row(b, n)));
    }
  });
  std::vector<Measurement> found;
  for (size_t v = 0; v < list.size(); ++v) found.push_back({&distribution, k, list[v], errors_of(exact, sums[v])});
  return found;
}

const Measurement& find(const std::vector<Measurement>& all, const Distribution& d, int64_t k, const Accumulator& a) {
  const auto at = std::find_if(all.begin(), all.end(),
                               [&](const Measurement& m) { return m.distribution == &d && m.k == k && m.accumulator == a; });
  CHECK(at != all.end());
  return *at;
}

std::string largest_and_mean(double largest, double mean) {
  return percent(largest) + " / " + percent(mean);
}

TextTable length_table(const std::vector<Measurement>& all, const Extent& extent, const Distribution& d) {
  TextTable table;
  table.title = fmt::format("{} inputs", d.name);
  table.note =
      fmt::format("largest / mean error of {} sums, over the root mean square of the exact sums", extent.rows * extent.rows);
  table.columns = {"accumulator"};
  for (const int64_t k : extent.lengths) table.columns.push_back(fmt::format("K = {}", k));
  for (const Accumulator& a : variants()) {
    table.rows.push_back({variant_name(a)});
    for (const int64_t k : extent.lengths) {
      const Errors& e = find(all, d, k, a).errors;
      table.rows.back().push_back(largest_and_mean(e.max_of_typical, e.mean_of_typical));
    }
  }
  return table;
}

// Sum by sum. Where signs mix, an exact sum may be next to zero, and its relative error as large as one likes.
TextTable relative_table(const std::vector<Measurement>& all) {
  TextTable table;
  table.title = fmt::format("Relative error, K = {}", kReportLength);
  table.note = "largest / mean of |error| / |exact|, sum by sum; with mixed signs some exact sums are next to zero";
  table.columns = {"accumulator"};
  for (const Distribution& d : kDistributions) table.columns.emplace_back(d.name);
  for (const Accumulator& a : variants()) {
    table.rows.push_back({variant_name(a)});
    for (const Distribution& d : kDistributions) {
      const Errors& e = find(all, d, kReportLength, a).errors;
      table.rows.back().push_back(largest_and_mean(e.max_relative, e.mean_relative));
    }
  }
  return table;
}

Chart length_chart(const std::vector<Measurement>& all, const Extent& extent, const Distribution& d) {
  Chart chart{.title = fmt::format("{} inputs: error over K", d.name),
              .note = "Largest error of a sum over the root mean square of the exact sums.",
              .x_name = "K",
              .unit = Chart::Unit::kPercent,
              .log_x = true,
              .log_y = true,
              .series = {}};
  for (const Accumulator& a :
       {Accumulator{13, 0}, Accumulator{14, 0}, Accumulator{13, 128}, Accumulator{14, 128}, Accumulator{}}) {
    ChartSeries s{.name = variant_name(a), .x = {}, .y = {}, .dashed = a.promote > 0};
    for (const int64_t k : extent.lengths) {
      s.x.push_back(static_cast<double>(k));
      s.y.push_back(find(all, d, k, a).errors.max_of_typical);
    }
    chart.series.push_back(std::move(s));
  }
  return chart;
}

Chart promotion_chart(const std::vector<Measurement>& all, int bits) {
  Chart chart{.title = fmt::format("{} fraction bits: error over the interval of promotion, K = {}", bits, kReportLength),
              .note = fmt::format("Mean error of a sum over the root mean square of the exact sums; at {}, the sum is never "
                                  "promoted. The report promotes every 128.",
                                  kReportLength),
              .x_name = "elements of K between promotions",
              .unit = Chart::Unit::kPercent,
              .log_x = true,
              .log_y = true,
              .series = {}};
  for (const Distribution& d : kDistributions) {
    ChartSeries s{.name = d.name, .x = {}, .y = {}};
    for (const int promote : {32, 64, 128, 256, 512, 0}) {
      s.x.push_back(promote > 0 ? promote : static_cast<double>(kReportLength));
      s.y.push_back(find(all, d, kReportLength, {bits, promote}).errors.mean_of_typical);
    }
    chart.series.push_back(std::move(s));
  }
  return chart;
}

nlohmann::ordered_json row_json(const Measurement& m) {
  nlohmann::ordered_json j;
  j["distribution"] = m.distribution->name;
  j["k"] = m.k;
  j["accumulator"] = m.accumulator.fraction_bits == 0 ? "fp32" : "limited";
  j["fraction_bits"] = m.accumulator.fraction_bits == 0 ? 23 : m.accumulator.fraction_bits;
  j["promote"] = m.accumulator.promote;
  j["max_relative"] = m.errors.max_relative;
  j["mean_relative"] = m.errors.mean_relative;
  j["max_of_typical"] = m.errors.max_of_typical;
  j["mean_of_typical"] = m.errors.mean_of_typical;
  j["bias_of_typical"] = m.errors.bias;
  return j;
}

// The report does not state its measure. For positive inputs ours is next to the relative error.
std::vector<Claim> claims_of(const std::vector<Measurement>& all) {
  std::vector<Claim> claims;
  for (const int promote : {0, 128})
    for (const Distribution& d : kDistributions) {
      const double e14 = find(all, d, kReportLength, {14, promote}).errors.max_of_typical;
      const double e13 = find(all, d, kReportLength, {13, promote}).errors.max_of_typical;
      claims.push_back({fmt::format("Largest error at K = {}, {}, {}", kReportLength,
                                    promote > 0 ? "promoted every 128" : "not promoted", d.name),
                        promote > 0 ? "no figure" : "nearly 2 %, inputs not stated",
                        fmt::format("{} with 14 bits, {} with 13", percent(e14), percent(e13))});
    }
  return claims;
}

}  // namespace

ExperimentResult run_accumulator_experiment(const ExperimentRequest& request, const Stream& stream) {
  const Extent extent = request.quick ? Extent{{512, kReportLength}, 8} : Extent{};
  ExperimentResult result;
  result.settings = {{"operands", "E4M3, power-of-two scales per 128 of K, folded into the values"},
                     {"sums", extent.rows * extent.rows},
                     {"seed", kSeed},
                     {"exact", "double, of the quantised operands"},
                     {"relative", "|error| / |exact|"},
                     {"typical", "root mean square of the exact sums"}};
  std::vector<Measurement> all;
  for (const Distribution& d : kDistributions) {
    for (const int64_t k : extent.lengths)
      for (const Measurement& m : measure(d, extent.rows, k, stream)) all.push_back(m);
    result.tables.push_back(length_table(all, extent, d));
    log_table(result.tables.back());
    result.charts.push_back(length_chart(all, extent, d));
  }
  result.tables.push_back(relative_table(all));
  log_table(result.tables.back());
  for (const int bits : {14, 13}) result.charts.push_back(promotion_chart(all, bits));
  for (const Measurement& m : all) result.rows.push_back(row_json(m));
  result.claims = claims_of(all);
  return result;
}

}  // namespace rorqual
