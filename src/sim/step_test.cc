#include "sim/step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/tensor_list.h"
#include "plan/cluster.h"
#include "sim/cost_model.h"
#include "sim/failures.h"
#include "sim/sim_test_support.h"
#include "sim/timeline.h"

namespace rorqual {
namespace {

Cluster small_cluster() {
  Cluster c;
  c.name = "small";
  c.ranks = 64;
  c.ranks_per_node = 4;
  c.device = {.name = "device",
              .memory_bytes = int64_t{1} << 36,
              .processors = 100,
              .bf16_flops_per_second = 1e12,
              .fp8_flops_per_second = 2e12,
              .memory_bytes_per_second = 1e10};
  c.nvlink = {.bytes_per_second = 4e8, .latency_seconds = 1e-6};
  c.network = {.bytes_per_second = 1e8, .latency_seconds = 1e-6};
  c.adapters_per_node = 4;
  c.efficiency.communication_processors = 20;
  return c;
}

SimulatedModel small_model() {
  return simulated_model(small_recipe());
}

const Mesh kMesh{.pp = 4, .dp = 2, .ep = 8, .ranks_per_node = 4};

StepOptions small_options() {
  return {.schedule = PipelineKind::kDualPipe, .batch_sequences = 16 * 16};
}

StepEstimate simulate(const StepOptions& options) {
  return simulate_step(small_model(), small_cluster(), kMesh, options);
}

TEST(SimulatedModel, HasTheWeightsOfTheTensorList) {
  const ModelConfig& c = small_recipe().model;
  const TensorList tensors(c);
  int64_t expected = 0, active = 0;
  for (const TensorSpec& s : tensors.specs()) {
    if (s.role == Role::kNorm || s.role == Role::kRouterBias) continue;
    expected += s.count();
    if (s.layer >= 0 && s.layer < c.num_hidden_layers && s.expert < c.num_experts_per_tok) active += s.count();
  }
  active += c.vocab_size * c.hidden_size;
  const SimulatedModel model = small_model();
  int64_t parameters = model.embedding.dense_parameters;
  double multiplied = 0;  // by one token, in forward, MTP modules not counted
  const auto add = [&](const SimulatedBlock& block, bool counts) {
    parameters += block.dense_parameters + block.expert_parameters;
    for (const SimulatedPhase* phase : {&block.attention, &block.mlp})
      for (const SimulatedProduct& p : phase->products)
        multiplied += counts ? static_cast<double>(p.n * p.k * (p.routed ? model.top_k : 1)) : 0;
  };
  for (const SimulatedBlock& block : model.layer) add(block, true);
  for (size_t i = 0; i < model.tail.size(); ++i) add(model.tail[i], i == 0);
  EXPECT_EQ(parameters, expected);
  EXPECT_DOUBLE_EQ(multiplied, static_cast<double>(active));
  double keys = 0;
  for (const SimulatedBlock& block : model.layer) keys += block.attention.attention_forward_per_key;
  const auto routers =
      static_cast<double>((c.num_hidden_layers - c.first_k_dense_replace) * c.n_routed_experts * c.hidden_size);
  EXPECT_NEAR(model.flops_causal, 3 * (2 * (multiplied - routers) + keys * 129 / 2), 1e-9 * model.flops_causal);
  EXPECT_NEAR(model.flops_non_causal, 3 * (2 * (multiplied - routers) + keys * 128), 1e-9 * model.flops_causal);
}

TEST(CostModel, PricesProductsByHand) {
  Cluster c = small_cluster();
  c.efficiency.product_share = 0.5;
  c.efficiency.product_half_k = 100;
  c.efficiency.grouped_share = 0.8;
  c.efficiency.launch_seconds = 0.25;
  const CostModel cost(c, 1), part(c, 0.5);
  // 2·1000·200·300 operations at 2e12 · 0.5 · 300 / 400.
  EXPECT_DOUBLE_EQ(cost.product({1000}, 200, 300, true, false), 1.2e8 / 7.5e11 + 0.25);
  EXPECT_DOUBLE_EQ(part.product({1000}, 200, 300, true, false), 1.2e8 / 3.75e11 + 0.25);
  EXPECT_DOUBLE_EQ(cost.product({400, 600}, 200, 300, false, true), 1.2e8 / (3.75e11 * 0.8) + 0.25);
  // One row: its weights' bytes, 300·2 + 200·2 + 60,000·2, are what takes time.
  EXPECT_DOUBLE_EQ(cost.product({1}, 200, 300, false, false), 121000 / 1e10 + 0.25);
  EXPECT_EQ(cost.product({0, 0}, 200, 300, true, true), 0);
  // Summed over 1000 rows into FP32: four times the bytes of a BF16 result.
  EXPECT_DOUBLE_EQ(cost.weight_product({100000}, 200, 300, true, false), 1.2e10 / (1e12 * 100000 / 100400) + 0.25);
}

TEST(ExchangeLoad, ConservesRowsAndCountsLinks) {
  SimulatedModel model = small_model();
  const ExchangeLoad load = exchange_load(model, kMesh, 500, {}, 1);
  double rows = 0;
  for (const double r : load.rows) rows += r;
  EXPECT_NEAR(rows, 4, 1e-12);
  EXPECT_GE(load.network_worst, load.network_mean);
  EXPECT_GE(load.nvlink_worst, load.nvlink_mean);
  EXPECT_LE(load.network_mean + load.network_own_node, 2) << "a token reaches two nodes at most";
  // Two experts, both taken by every token.
  model.experts = model.top_k = 2;
  model.groups = model.topk_groups = 1;
  const ExchangeLoad apart = exchange_load(model, {.ep = 2, .ranks_per_node = 1}, 10, {}, 1);
  EXPECT_EQ(apart.network_mean, 1);
  EXPECT_EQ(apart.network_worst, 1);
  EXPECT_EQ(apart.nvlink_worst, 0);
  const ExchangeLoad together = exchange_load(model, {.ep = 2, .ranks_per_node = 2}, 10, {}, 1);
  EXPECT_EQ(together.network_worst, 0);
  EXPECT_EQ(together.nvlink_worst, 1);
}

TEST(Step, AddsUp) {
  const StepEstimate e = simulate(small_options());
  EXPECT_EQ(e.micro_batches, 16);
  EXPECT_DOUBLE_EQ(e.step_seconds, e.pipeline_seconds + e.optimizer_seconds);
  EXPECT_NEAR(e.compute_share + e.exposed_communication_share + e.bubble_share + e.optimizer_seconds / e.step_seconds, 1, 1e-9);
  EXPECT_NEAR(e.tokens_per_second * e.step_seconds, 256 * 128, 1e-6);
  EXPECT_NEAR(e.gpu_hours_per_trillion_tokens, 64 * e.step_seconds / (256 * 128) * 1e12 / 3600, 1e-3);
  EXPECT_GT(e.mfu_non_causal, e.mfu_causal);
  EXPECT_GT(e.mfu_causal, 0);
  EXPECT_LT(e.mfu_non_causal, 2) << "FP8 is twice as fast as the BF16 peak that MFU is a share of";
  // Forward sends E4M3 with its gradient, combine BF16, both twice; 8 routed blocks.
  const SimulatedModel model = small_model();
  EXPECT_NEAR(e.bytes.combine_network / e.bytes.dispatch_network,
              static_cast<double>(model.combine_row.total()) / static_cast<double>(model.dispatch_row.total()), 1e-12);
  // Three boundaries of four stages, there and back, BF16.
  EXPECT_DOUBLE_EQ(e.bytes.pipeline_network, 3 * 2 * 2 * 256);
}

TEST(Step, OptimizerMovesEveryGradientOnce) {
  // All ranks on one node: NVLink alone. dp = 1, 1F1B: experts are whole, dense gradients go around two ranks.
  Mesh mesh{.pp = 1, .dp = 1, .ep = 2};
  StepOptions options{.schedule = PipelineKind::k1F1B, .batch_sequences = 4};
  const StepEstimate e = simulate_step(small_model(), small_cluster(), mesh, options);
  const TensorList tensors(small_recipe().model);
  int64_t dense = 0;
  for (const TensorSpec& s : tensors.specs())
    if (s.role != Role::kNorm && s.role != Role::kRouterBias && s.role != Role::kExpert) dense += s.count();
  EXPECT_EQ(e.bytes.gradients_network, 0);
  // FP32 there, BF16 back, the half that is not the rank's own, of two ranks.
  EXPECT_NEAR(e.bytes.gradients_nvlink * 4 * 128, 6.0 * static_cast<double>(dense) / 2 * 2, 1);
}

TEST(Step, CommunicationCostsAndOverlapHidesIt) {
  Cluster free = small_cluster();
  free.nvlink = free.network = {.bytes_per_second = 1e30, .latency_seconds = 0};
  free.efficiency.communication_processors = 0;
  const auto seconds = [](const Cluster& cluster, PipelineKind kind) {
    StepOptions o = small_options();
    o.schedule = kind;
    o.stage_begin = {0, 2, 4, 6, 8};
    return simulate_step(small_model(), cluster, kMesh, o).pipeline_seconds;
  };
  const Cluster slow = small_cluster();
  for (const PipelineKind kind : {PipelineKind::k1F1B, PipelineKind::kZB1P, PipelineKind::kDualPipe})
    EXPECT_GT(seconds(slow, kind), seconds(free, kind)) << pipeline_kind_name(kind);
  Cluster half = slow;
  half.network.bytes_per_second /= 2;
  EXPECT_GT(seconds(half, PipelineKind::kDualPipe), seconds(slow, PipelineKind::kDualPipe));
}

TEST(Step, ImbalanceAndStragglersMakeNothingFaster) {
  StepOptions options = small_options();
  options.stage_begin = {0, 2, 4, 6, 8};
  const StepEstimate balanced = simulate(options);
  double last = balanced.step_seconds;
  for (const char* routing : {"zipf:0.5", "zipf:1", "zipf:2"}) {
    StepOptions skewed = options;
    skewed.routing = parse_routing(routing, 16);
    const StepEstimate e = simulate(skewed);
    EXPECT_GT(e.load_max_over_mean, balanced.load_max_over_mean) << routing;
    EXPECT_GE(e.step_seconds, last * 0.999) << routing;
    last = e.step_seconds;
  }
  EXPECT_GT(last, balanced.step_seconds);
  StepOptions straggling = options;
  straggling.stragglers = {{.rank = 21, .factor = 1.5}};
  const StepEstimate slow = simulate(straggling);
  EXPECT_GT(slow.step_seconds, balanced.step_seconds);
  EXPECT_LT(slow.step_seconds, balanced.step_seconds * 1.5);
}

TEST(Step, BalancedStagesAreNoSlowerThanEvenOnes) {
  StepOptions even = small_options();
  even.stage_begin = even_stages(8, 4);
  EXPECT_LE(simulate(small_options()).step_seconds, simulate(even).step_seconds);
}

// 100 equal columns are priced as one.
TEST(Step, ColumnsOfAMeshDoNotChangeThePipeline) {
  Cluster cluster = small_cluster();
  cluster.ranks = 100000;
  StepOptions options = small_options();
  options.batch_sequences = 16 * 8 * 1000;
  Mesh mesh = kMesh;
  mesh.dp = 1000;
  const StepEstimate e = simulate_step(small_model(), cluster, mesh, options);
  EXPECT_DOUBLE_EQ(e.pipeline_seconds, simulate(small_options()).pipeline_seconds);
}

void expect_usage(const StepOptions& options, const Mesh& mesh, const std::string& words) {
  try {
    simulate_step(small_model(), small_cluster(), mesh, options);
    FAIL() << "no error that says: " << words;
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    EXPECT_THAT(e.what(), testing::HasSubstr(words));
  }
}

TEST(Step, RefusesWhatCannotBe) {
  StepOptions o = small_options();
  expect_usage(o, {.pp = 4, .dp = 4, .ep = 8}, "the cluster small has 64");
  expect_usage(o, {.pp = 4, .dp = 1, .ep = 12}, "16 experts do not divide over ep=12");
  expect_usage(o, {.pp = 4, .dp = 1, .ep = 8, .tensor = 2}, "tp=1");
  expect_usage(o, {.pp = 16, .dp = 1, .ep = 4}, "8 layers do not fill 16 pipeline stages");
  o.batch_sequences = 64;
  expect_usage(o, {.pp = 8, .dp = 1, .ep = 8}, "at least 2 micro-batches a rank");
  o.batch_sequences = 250;
  expect_usage(o, kMesh, "a batch of 250 sequences");
  o = small_options();
  o.stragglers = {{.rank = 64, .factor = 2}};
  expect_usage(o, kMesh, "straggler 64");
  o.stragglers = {{.rank = 1, .factor = -2}};
  expect_usage(o, kMesh, "factor");
  o = small_options();
  o.routing.layers = {{1, 2, 3}};
  expect_usage(o, kMesh, "loads of 3 experts");
  o.routing.layers.assign(3, std::vector<double>(16, 1.0));
  expect_usage(o, kMesh, "loads of 3 layers");
  o.routing.layers = {std::vector<double>(16, 0.0)};
  expect_usage(o, kMesh, "all loads");
  for (const char* text : {"zipf", "zipf:", "zipf:-1", "zipf:x", "even"}) EXPECT_THROW(parse_routing(text, 16), Error) << text;
}

TEST(Timeline, DrawsAndTracesEverySpan) {
  StepOptions options = small_options();
  options.spans = true;
  const StepEstimate e = simulate(options);
  const std::string svg = step_chart(e, "a step");
  EXPECT_THAT(svg, testing::HasSubstr("rank 3"));
  EXPECT_THAT(svg, testing::HasSubstr("inside F"));
  const auto trace = nlohmann::json::parse(step_trace(e));
  size_t spans = 0;
  for (const auto& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X") continue;
    ++spans;
    EXPECT_GE(event.at("dur").get<double>(), 0);
    EXPECT_LE(event.at("ts").get<double>() + event.at("dur").get<double>(), e.step_seconds * 1e6 * (1 + 1e-9));
  }
  EXPECT_EQ(spans, e.spans.size());
}

TEST(Failures, CostWhatWasDoneSinceTheCheckpoint) {
  const FailureModel rare{.mtbf_hours = 1e12, .restart_seconds = 100, .checkpoint_steps = 10, .checkpoint_seconds = 2};
  const RunEstimate calm = simulate_run(5, 100, 1000, rare);
  EXPECT_EQ(calm.failures, 0);
  EXPECT_DOUBLE_EQ(calm.seconds, 100 * 5 + 10 * 2);
  FailureModel often = rare;
  often.mtbf_hours = 1000;  // of 1,000 devices: one an hour
  const RunEstimate rough = simulate_run(5, 10000, 1000, often);
  EXPECT_NEAR(static_cast<double>(rough.failures), rough.seconds / 3600, 4 * std::sqrt(rough.seconds / 3600));
  // A failure loses the restart and half an interval of 52 seconds, on average; a bound with room.
  const double lost = rough.seconds - 10000 * 5.2;
  EXPECT_GT(lost, static_cast<double>(rough.failures) * 100);
  EXPECT_LT(lost, static_cast<double>(rough.failures) * 152);
  often.mtbf_hours = 0;
  EXPECT_THROW(simulate_run(5, 100, 10, often), Error);
}

}  // namespace
}  // namespace rorqual
