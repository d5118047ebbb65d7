#include "serve/serve_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rorqual {
namespace {

using ::testing::HasSubstr;

TEST(ServeMetrics, BucketsAreCumulativeAndCountWhatLiesBeyondThem) {
  LatencyHistogram h;
  for (const double s : {0.0005, 0.001, 0.02, 1000.0}) h.add(s);
  const std::string text = h.text("x", "m");
  EXPECT_THAT(text, HasSubstr("x_bucket{model=\"m\",le=\"0.001\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("x_bucket{model=\"m\",le=\"0.01\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("x_bucket{model=\"m\",le=\"0.025\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("x_bucket{model=\"m\",le=\"300\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("x_bucket{model=\"m\",le=\"+Inf\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("x_sum{model=\"m\"} 1000.0215\nx_count{model=\"m\"} 4\n"));
}

TEST(ServeMetrics, TellsEveryModelsFigures) {
  ServeMetrics metrics;
  metrics.of("a").first_token.add(0.2);
  metrics.count_answer(200);
  metrics.count_answer(200);
  EngineStats stats;
  stats.running = 3;
  stats.cache_blocks_used = 17;
  const std::string text = metrics.text({{"a", stats}, {"b", {}}}, 5);
  EXPECT_THAT(text, HasSubstr("# TYPE rorqual_requests_running gauge\nrorqual_requests_running{model=\"a\"} 3\n"
                              "rorqual_requests_running{model=\"b\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("rorqual_cache_blocks_used{model=\"a\"} 17\n"));
  EXPECT_THAT(text, HasSubstr("rorqual_time_to_first_token_seconds_count{model=\"a\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("rorqual_http_answers_total{status=\"200\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("rorqual_http_connections 5\n"));
  EXPECT_GT(resident_bytes(), 0);
}

}  // namespace
}  // namespace rorqual
