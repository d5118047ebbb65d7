#include "experiment/experiment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

class ExperimentTest : public ::testing::Test {
 protected:
  void SetUp() override { fs::remove_all(directory_); }
  void TearDown() override { fs::remove_all(directory_); }

  ExperimentRequest quick() const {
    ExperimentRequest request;
    request.directory = directory_;
    request.quick = true;
    return request;
  }
  Json run(std::string_view name, const ExperimentRequest& request) {
    return run_experiment(find_experiment(name), request, Stream(pool_));
  }
  std::string refusal(std::string_view name, const ExperimentRequest& request, ErrorKind kind = ErrorKind::kUsage) {
    try {
      run(name, request);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      return error.what();
    }
    ADD_FAILURE() << name << " ran";
    return "";
  }

  const fs::path directory_ =
      fs::path(::testing::TempDir()) /
      ("rorqual_experiment_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
  ThreadPool pool_{2};
};

// The one row that has these values.
Json row(const Json& result, const Json& wanted) {
  Json found;
  for (const Json& r : result.at("rows")) {
    bool same = true;
    for (const auto& [key, value] : wanted.items()) same = same && r.contains(key) && r.at(key) == value;
    if (!same) continue;
    EXPECT_TRUE(found.is_null()) << "two rows have " << wanted;
    found = r;
  }
  EXPECT_FALSE(found.is_null()) << "no row has " << wanted;
  return found;
}

TEST_F(ExperimentTest, UnknownNamesListTheOnesThereAre) {
  try {
    find_experiment("acumulator");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    for (const Experiment& e : experiments()) EXPECT_THAT(error.what(), HasSubstr(std::string(e.name)));
  }
}

TEST_F(ExperimentTest, RefusesBeforeWork) {
  ExperimentRequest request = quick();
  request.steps = 5;
  EXPECT_THAT(refusal("accumulator", request), HasSubstr("--steps"));
  request = quick();
  request.data = {"texts"};
  EXPECT_THAT(refusal("outliers", request), HasSubstr("--data"));
  request = quick();
  request.recipe = "small";
  EXPECT_THAT(refusal("outliers", request), HasSubstr("--recipe"));
  EXPECT_THAT(refusal("moments", quick()), HasSubstr("--data PATH"));
  request.data = {"texts"};
  request.recipe = "no-such-recipe";
  EXPECT_THAT(refusal("moments", request), HasSubstr("no-such-recipe"));
  EXPECT_FALSE(fs::exists(directory_)) << "nothing is written before everything is checked";
}

TEST_F(ExperimentTest, RefusesADirectoryThatCannotBeWritten) {
  write_file_atomically(directory_, "a file");
  ExperimentRequest request = quick();
  EXPECT_THAT(refusal("accumulator", request), HasSubstr(directory_.string()));
  request.directory = "/proc/rorqual";
  EXPECT_THAT(refusal("accumulator", request), HasSubstr("/proc/rorqual"));
}

TEST_F(ExperimentTest, AccumulatorShowsWhatPromotionSaves) {
  const Json result = run("accumulator", quick());
  EXPECT_EQ(Json::parse(read_file(directory_ / "accumulator.json")), result);
  const auto error = [&](const char* inputs, int64_t k, int bits, int promote, const char* key) {
    const char* name = bits == 23 ? "fp32" : "limited";
    return row(result,
               {{"distribution", inputs}, {"k", k}, {"accumulator", name}, {"fraction_bits", bits}, {"promote", promote}})
        .at(key)
        .get<double>();
  };
  // The band of accumulator_test.cc: positive uniform inputs, K = 4096, not promoted.
  const double unpromoted = error("uniform [0, 1)", 4096, 14, 0, "mean_relative");
  EXPECT_GT(unpromoted, 0.02);
  EXPECT_LT(unpromoted, 0.05);
  for (const char* inputs : {"uniform [0, 1)", "normal", "log-normal"}) {
    const auto mean = [&](int bits, int promote) { return error(inputs, 4096, bits, promote, "mean_of_typical"); };
    EXPECT_LT(mean(23, 0), 1e-6) << inputs;
    EXPECT_GT(mean(13, 0), 1.5 * mean(14, 0)) << inputs << ": one bit is a factor of about two";
    EXPECT_GT(mean(14, 0), 5 * mean(14, 128)) << inputs;
    EXPECT_GT(mean(14, 512), mean(14, 32)) << inputs;
  }
  EXPECT_LT(error("uniform [0, 1)", 4096, 14, 0, "bias_of_typical"), -0.02) << "cutting makes sums smaller";
  EXPECT_EQ(error("normal", 512, 14, 512, "mean_relative"), error("normal", 512, 14, 0, "mean_relative"))
      << "one promotion at the end changes nothing";
}

TEST_F(ExperimentTest, OutliersSpoilWhatSharesTheirScale) {
  const Json result = run("outliers", quick());
  const auto error = [&](const char* granularity, double size, const char* format) {
    return row(result, {{"size", size}, {"granularity", granularity}, {"format", format}, {"scales", "pow2"}})
        .at("ordinary_relative_error")
        .get<double>();
  };
  // Rounding to three mantissa bits: an error uniform in a spacing between 2^-3 and 2^-4 of the value, some 2.6 %.
  EXPECT_GT(error("tensor", 1, "E4M3"), 0.02);
  EXPECT_LT(error("tensor", 1, "E4M3"), 0.033);
  EXPECT_GT(error("tensor", 65536, "E4M3"), 10 * error("tensor", 1, "E4M3"));
  EXPECT_GT(error("128×128", 65536, "E4M3"), 5 * error("128×128", 1, "E4M3"));
  EXPECT_EQ(error("1×128", 65536, "E4M3"), error("1×128", 1, "E4M3")) << "outliers in other tokens change nothing";
  EXPECT_LT(error("tensor", 65536, "E5M2"), 1.01 * error("tensor", 1, "E5M2")) << "the range of E5M2 reaches further";
}

TEST_F(ExperimentTest, ThePageStandsAlone) {
  run("outliers", quick());
  const std::string page = read_file(directory_ / "outliers.html");
  EXPECT_THAT(page, HasSubstr("\"charts\":[{"));
  EXPECT_THAT(page, HasSubstr("rorqual experiment outliers"));
  for (const char* outside : {"http:", "https:", "src=\"", "{{", "@import"})
    EXPECT_THAT(page, Not(HasSubstr(outside))) << outside;
  EXPECT_THAT(page, Not(HasSubstr(directory_.string()))) << "where things lie is nobody's business";
}

TEST(ExperimentPage, TextCannotBecomeMarkup) {
  const std::string hostile = "</script><script>alert(1)</script>";
  ExperimentResult result;
  result.settings = {{"x", hostile}};
  result.claims = {{hostile, hostile, hostile}};
  result.tables = {{hostile, hostile, {hostile}, {{hostile}}}};
  result.charts = {{.title = hostile, .note = hostile, .x_name = hostile, .series = {{hostile, {1}, {2}}}}};
  EXPECT_THAT(result_page(hostile, hostile, hostile, result), Not(HasSubstr("<script>alert")));
}

TEST(ExperimentPage, PercentHasThreeDigits) {
  EXPECT_EQ(percent(0.0331234), "3.31 %");
  EXPECT_EQ(percent(0.000187654), "0.0188 %");
  EXPECT_EQ(percent(0), "0 %");
}

}  // namespace
}  // namespace rorqual
