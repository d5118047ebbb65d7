#include "bench/serve.h"

#include <gtest/gtest.h>

namespace rorqual {
namespace {

TEST(BenchServe, MeasuresEveryPrecisionAndBatch) {
  ServeBenchRequest request;
  ModelConfig& c = request.config;
  c.vocab_size = 262;
  c.hidden_size = 16;
  c.intermediate_size = 16;
  c.num_hidden_layers = 1;
  c.num_attention_heads = 2;
  c.kv_lora_rank = 8;
  c.qk_nope_head_dim = 8;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 8;
  c.max_position_embeddings = 64;
  request.batches = {1, 3};
  request.decode_tokens = 5;
  request.rounds = 2;
  const nlohmann::ordered_json j = bench_serve(request);
  EXPECT_EQ(j["context_tokens"], 64);
  ASSERT_EQ(j["precisions"].size(), 2u);
  for (const auto& p : j["precisions"]) {
    EXPECT_EQ(p["prefill"]["tokens"], 63) << "as many as the context holds beside a token";
    EXPECT_GT(p["prefill"]["tokens_per_s"], 0);
    EXPECT_GT(p["prefill"]["time_to_first_token_ms"], 0);
    ASSERT_EQ(p["decode"].size(), 2u);
    EXPECT_EQ(p["decode"][1]["batch"], 3);
    for (const auto& d : p["decode"]) EXPECT_GT(d["tokens_per_s"], 0);
    EXPECT_FALSE(p.contains("speculation")) << "random weights predict nothing";
  }
  EXPECT_NE(serve_table(j).find("decode  batch   3"), std::string::npos);
}

}  // namespace
}  // namespace rorqual
