#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "bench/compare.h"
#include "bench/gemm.h"
#include "bench/quantisers.h"
#include "bench/train.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

TEST(Compare, RatioIsTheMedianOfTurns) {
  Comparison c;
  c.round = {{1, 10, 4}, {2, 1, 2}};
  EXPECT_EQ(c.ratio(0, 1), 2);  // of 0.5, 10 and 2
  EXPECT_EQ(median({3, 1}), 2);
}

TEST(Compare, SlowerWorkTakesLonger) {
  double sum = 0;
  const auto work = [&](int n) {
    return [&sum, n](int64_t) {
      for (int i = 1; i <= n; ++i) sum += std::sqrt(static_cast<double>(i) + sum);
    };
  };
  const Contestant contestants[] = {work(1000), work(4000)};
  const Comparison c = compare(contestants, {.rounds = 5, .batch_s = 1e-3, .thread_time = true});
  EXPECT_EQ(c.seconds.size(), 2u);
  EXPECT_GT(c.ratio(1, 0), 2);
  EXPECT_LT(c.ratio(1, 0), 8);
}

TEST(GemmBench, ShapesAreRead) {
  const GemmShapeMNK s = parse_gemm_shape("16x7168x2048");
  EXPECT_EQ(s.m, 16);
  EXPECT_EQ(s.n, 7168);
  EXPECT_EQ(s.k, 2048);
  for (const char* wrong : {"", "1", "1x2", "1x2x", "1x2x3x", "1x2x3x4", "0x2x3", "-1x2x3", "1x2x99999999", "axbxc", "1 x2x3"})
    EXPECT_THROW(parse_gemm_shape(wrong), Error) << wrong;
}

// The comparison passes the sums of floats and sees one element that is off by little more than they may be.
TEST(GemmBench, ComparisonSeesOneWrongElement) {
  const GemmShapeMNK s{3, 5, 64};
  const auto a = [](int64_t i, int64_t k) { return static_cast<double>((i * 7 + k) % 13) - 6; };
  const auto b = [](int64_t j, int64_t k) { return static_cast<double>((j * 5 + k * 3) % 11) - 5; };
  std::vector<float> c(15);
  double magnitude = 0;  // of the last element
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = 0;
      magnitude = 0;
      for (int64_t k = 0; k < s.k; ++k) sum += a(i, k) * b(j, k), magnitude += std::abs(a(i, k) * b(j, k));
      c[static_cast<size_t>(i * s.n + j)] = static_cast<float>(sum);
    }
  }
  EXPECT_EQ(compare_with_double(c.data(), s, a, b), "");
  c.back() += static_cast<float>(1.5 * (64 + 8) * 0x1p-24 * magnitude);
  EXPECT_THAT(compare_with_double(c.data(), s, a, b), HasSubstr("element (2, 4)"));
  c.back() = NAN;
  EXPECT_THAT(compare_with_double(c.data(), s, a, b), HasSubstr("element (2, 4)"));
}

// Every kernel agrees with the product in double on a ragged shape (else bench_gemm throws), and rows have their keys.
TEST(GemmBench, RowsHaveTheirKeys) {
  GemmBenchRequest request;
  request.threads = {1, 2};
  request.shapes = {{33, 130, 200}};
  request.rounds = 1;
  int told = 0;
  const Json result = bench_gemm(request, [&](const Json&) { ++told; });
  ASSERT_EQ(result["rows"].size(), 6u);
  EXPECT_EQ(told, 6);
  for (const Json& row : result["rows"]) {
    for (const char* key : {"m", "n", "k", "threads", "kernel", "scales", "gflops", "share_of_ceiling"})
      EXPECT_TRUE(row.contains(key)) << key;
    EXPECT_GT(row["gflops"].get<double>(), 0);
    EXPECT_EQ(row.contains("ratio"), result.contains("onednn"));
  }
  EXPECT_EQ(result["notes"].empty(), result.contains("onednn")) << "a missing peer is explained";
  EXPECT_THAT(gemm_table(result["rows"]), HasSubstr("pow2"));
}

TEST(QuantiserBench, RowsHaveTheirKeys) {
  const Json rows = bench_quantisers({1}, 64, 256, 1, [](const Json&) {});
  ASSERT_EQ(rows.size(), 10u);
  for (const Json& row : rows) EXPECT_GT(row["share"].get<double>(), 0) << row.dump();
  EXPECT_EQ(rows[0]["bytes"], 64 * 256 * 5 + 64 * 2 * 4) << "F32 in, codes and scales out";
}

// Phases inside others count once; what no phase covers is told apart; other threads' spans are left out.
TEST(TrainBench, BreakDownAddsUp) {
  const TraceEvent events[] = {
      {"Linear", "k", TraceKind::kKernel, 1, 2, 0},   {"attention", "forward", TraceKind::kPhase, 1, 3, 0},
      {"mtp", "forward", TraceKind::kPhase, 0, 4, 0}, {"head", "", TraceKind::kPhase, 5, 7, 0},
      {"head", "", TraceKind::kPhase, 5, 7, 1},       {"step", "", TraceKind::kOther, 0, 10, 0},
      {"head", "", TraceKind::kPhase, 11, 12, 0},
  };
  const Json tables = break_down(events);
  ASSERT_EQ(tables["phases"].size(), 3u);
  EXPECT_EQ(tables["phases"][0]["phase"], "mtp");
  EXPECT_DOUBLE_EQ(tables["phases"][0]["share"], 0.4);
  EXPECT_DOUBLE_EQ(tables["phases"][1]["share"], 0.2);
  EXPECT_EQ(tables["phases"][2]["phase"], "between phases");
  EXPECT_DOUBLE_EQ(tables["phases"][2]["share"], 0.4);
  ASSERT_EQ(tables["kernels"].size(), 2u);
  EXPECT_EQ(tables["kernels"][0]["operation"], "Linear");
  EXPECT_DOUBLE_EQ(tables["kernels"][0]["ms"], 1000);
}

TEST(TrainBench, StepsARecipe) {
  TrainBenchRequest request;
  request.recipe = parse_recipe("", "test", {});
  ModelConfig& m = request.recipe.model;
  m.vocab_size = 64;
  m.hidden_size = 32;
  m.intermediate_size = 32;
  m.moe_intermediate_size = 32;
  m.num_hidden_layers = 2;
  m.num_attention_heads = 2;
  m.kv_lora_rank = 16;
  m.qk_nope_head_dim = 8;
  m.qk_rope_head_dim = 8;
  m.v_head_dim = 8;
  m.n_routed_experts = 4;
  m.n_shared_experts = 1;
  m.num_experts_per_tok = 2;
  m.first_k_dense_replace = 1;
  m.num_nextn_predict_layers = 1;
  request.recipe.train.sequence_length = 16;
  request.recipe.train.batch_sequences = 4;
  request.recipe.train.micro_batch_sequences = 2;
  complete(request.recipe, 64);
  validate(request.recipe);
  request.steps = 2;
  ThreadPool pool(2);
  const Json result = bench_train(request, Stream(pool));
  EXPECT_EQ(result["tokens_per_step"], 64);
  EXPECT_GT(result["tokens_per_s"].get<double>(), 0);
  double shares = 0;
  std::string phases;
  for (const Json& row : result["phases"]) {
    shares += row["share"].get<double>();
    phases += row["phase"].get<std::string>() + " ";
  }
  EXPECT_NEAR(shares, 1, 1e-9);
  for (const char* phase : {"attention", "dispatch", "experts", "combine", "mlp", "head", "mtp", "optimizer"})
    EXPECT_THAT(phases, HasSubstr(phase));
  EXPECT_FALSE(result["kernels"].empty());
  EXPECT_FALSE(result.contains("against"));

  request.against = request.recipe;
  request.against->formats.precision = "bf16";
  const Json turns = bench_train(request, Stream(pool));
  EXPECT_EQ(turns["precision"], "fp8");
  EXPECT_EQ(turns["against"]["precision"], "bf16");
  EXPECT_EQ(turns["against"]["steps"], 2);
  EXPECT_GT(turns["ratio"].get<double>(), 0);
  EXPECT_THAT(train_table(turns), HasSubstr("times as fast as bf16"));
}

}  // namespace
}  // namespace rorqual
