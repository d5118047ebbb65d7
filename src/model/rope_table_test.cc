#include "model/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace rorqual {
namespace {

using nlohmann::json;

// The golden's numbers come from the same formulas in double, so only rounding may differ: relative 1e-12.
void expect_close(const std::vector<double>& found, const std::vector<double>& golden) {
  ASSERT_EQ(found.size(), golden.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], golden[i], 1e-12 * std::abs(golden[i])) << i;
}

struct Golden {
  json j = json::parse(read_file("tests/golden/yarn_v3.json"));
  RopeScaling scaling() const { return {j["factor"], j["orig"], j["beta_fast"], j["beta_slow"], 1, 1}; }
};

TEST(RopeTable, FrequenciesOfV3) {
  const Golden golden;
  expect_close(rope_frequencies(golden.j["dim"], golden.j["base"], RopeScaling{}), golden.j["freq_plain"]);
  expect_close(rope_frequencies(golden.j["dim"], golden.j["base"], golden.scaling()), golden.j["freq_yarn"]);
}

TEST(RopeTable, SoftmaxScaleOfV3) {
  const Golden golden;
  ModelConfig c;
  c.qk_nope_head_dim = 128, c.qk_rope_head_dim = 64;
  EXPECT_NEAR(c.attention_scale(), 1 / std::sqrt(192.0), 1e-15);
  c.rope_scaling = golden.scaling();
  const double scale = golden.j["softmax_scale"];
  EXPECT_NEAR(c.attention_scale(), scale, 1e-12 * scale);
}

}  // namespace
}  // namespace rorqual
