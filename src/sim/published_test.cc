// The figures of docs/simulator.md: what comes out of recipes/clusters/h800.toml beside what was published (spec 5.4, 6, 8).
// Nothing is fitted to them; the bounds say how near the model is, and hold it there.
#include <gtest/gtest.h>

#include "plan/cluster.h"
#include "sim/cost_model.h"
#include "sim/serving.h"
#include "sim/step.h"
#include "train/recipe.h"

namespace rorqual {
namespace {

const Recipe& v3() {
  static const Recipe recipe = read_whole_recipe("recipes/v3-671b.toml", {});
  return recipe;
}

Cluster h800() {  // as in 2024
  return load_cluster("recipes/clusters/h800.toml");
}
Cluster h800_of_2025() {
  return load_cluster("recipes/clusters/h800-2025.toml");
}

TEST(Published, StepOfDeepSeekV3) {
  const SimulatedModel model = simulated_model(v3());
  StepOptions options{.schedule = PipelineKind::kDualPipe, .batch_sequences = v3().train.batch_sequences};
  const StepEstimate e = simulate_step(model, h800(), {.pp = 16, .dp = 2, .ep = 64}, options);
  // Published: 19.926 s, 272.80B tokens a day, 180K GPU-hours, a bubble of 2.06 s, an optimizer of 0.29 s.
  EXPECT_NEAR(e.step_seconds, 18.15, 0.1);
  EXPECT_NEAR(e.gpu_hours_per_trillion_tokens, 164.1e3, 1e3);
  EXPECT_NEAR(e.bubble_share * e.step_seconds, 3.21, 0.1);
  EXPECT_NEAR(e.optimizer_seconds, 0.194, 0.01);
  options.stage_begin = even_stages(61, 16);
  EXPECT_NEAR(simulate_step(model, h800(), {.pp = 16, .dp = 2, .ep = 64}, options).step_seconds, 21.98, 0.1);
  // What the published speed and MFU mean together.
  EXPECT_NEAR(model.flops_causal, 249.9e9, 0.001 * 249.9e9);
  EXPECT_NEAR(model.flops_non_causal, 280.6e9, 0.001 * 280.6e9);
}

// Bytes as DeepEP's own tests count them: a token once for each node that it reaches, its own included; on one node the bytes
// that a GPU receives.
TEST(Published, BandwidthOfDispatchAndCombine) {
  SimulatedModel model = simulated_model(v3());
  const Cluster cluster = h800();
  struct Row {
    int64_t ranks;
    double dispatch, combine;  // GB/s; published in February 2025: 153 158, 43 43, 44 47, 46 45
  };
  for (const Row& row : {Row{8, 152.3, 154.2}, {16, 45.2, 45.8}, {32, 45.2, 45.7}, {64, 44.5, 45.1}}) {
    const Mesh mesh{.ep = row.ranks};
    model.groups = row.ranks / 8;
    model.topk_groups = std::min<int64_t>(model.groups, 4);
    const ExchangeLoad load = exchange_load(model, mesh, 4096, {}, 1);
    const ExchangeSeconds seconds = exchange_seconds(model, cluster, mesh, load, 4096);
    const double rows = row.ranks == 8 ? load.nvlink_mean : load.network_mean + load.network_own_node;
    const double dispatch = rows * 4096 * static_cast<double>(model.dispatch_row.payload()) / seconds.dispatch;
    const double combine = rows * 4096 * static_cast<double>(model.combine_row.payload()) / seconds.combine;
    EXPECT_NEAR(dispatch / 1e9, row.dispatch, 0.5) << "EP" << row.ranks;
    EXPECT_NEAR(combine / 1e9, row.combine, 0.5) << "EP" << row.ranks;
  }
}

TEST(Published, ServingOfDeepSeekV3) {
  const ServingEstimate prefill = simulate_prefill(v3().model, h800_of_2025(), {.ranks = 32, .slots_per_rank = 9}, 16384, 4096);
  const ServingEstimate decode = simulate_decode(v3().model, h800_of_2025(), {.ranks = 144, .slots_per_rank = 2}, 88, 4989);
  // Published: 73.7k tokens a second and node, cached ones among them, and 14.8k.
  EXPECT_NEAR(prefill.tokens_per_second_per_node, 68.1e3, 0.5e3);
  EXPECT_NEAR(decode.tokens_per_second_per_node, 14.36e3, 0.2e3);
}

}  // namespace
}  // namespace rorqual
