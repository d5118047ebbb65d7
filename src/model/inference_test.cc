#include "model/inference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>

#include "base/rng.h"

namespace rorqual {
namespace {

ModelConfig small_config(int64_t q_lora_rank) {
  ModelConfig c;
  c.vocab_size = 19;
  c.hidden_size = 16;
  c.intermediate_size = 20;
  c.moe_intermediate_size = 12;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 3;
  c.q_lora_rank = q_lora_rank;
  c.kv_lora_rank = 6;
  c.qk_nope_head_dim = 5;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 7;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 3;
  c.n_group = 4;
  c.topk_group = 2;
  c.first_k_dense_replace = 1;
  c.routed_scaling_factor = 1.5;
  c.num_nextn_predict_layers = 2;
  c.max_position_embeddings = 256;
  c.rope_scaling.factor = 2;
  c.rope_scaling.original_max_position_embeddings = 128;
  return c;
}

ModelConfig llama_config() {
  ModelConfig c;
  c.architecture = "llama";
  c.vocab_size = 19;
  c.hidden_size = 16;
  c.intermediate_size = 20;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 6;
  c.max_position_embeddings = 256;
  return c;
}

std::vector<int32_t> draw_tokens(int64_t n, uint64_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i)
    tokens.push_back(static_cast<int32_t>(random_below({.seed = seed}, static_cast<uint64_t>(i), 19)));
  return tokens;
}

struct Memory {
  explicit Memory(int64_t bytes) : data(std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64)), std::free) {
    std::memset(data.get(), 0, static_cast<size_t>(bytes));
  }
  std::unique_ptr<void, void (*)(void*)> data;
};

std::vector<double> to_double(const Tensor& t) {
  std::vector<double> out;
  visit_float(t.dtype, [&](auto zero) {
    for (int64_t i = 0; i < t.count(); ++i)
      out.push_back(static_cast<double>(static_cast<compute_t<decltype(zero)>>(t.ptr<decltype(zero)>()[i])));
  });
  return out;
}

struct Fixture {
  // values: of weights that this one reads instead of keeping masters of its own.
  Fixture(const ModelConfig& config, const std::string& precision, int threads = 2, const Weights* values = nullptr)
      : pool(threads),
        stream(pool),
        weights(config, precision_from_name(precision), false, arena, values == nullptr),
        model(config, weights, 1, arena) {
    if (values != nullptr) {
      weights.fill(
          [&](size_t tensor, const Tensor& target) {
            const Tensor from = values->master(tensor);
            std::memcpy(target.data, from.data, static_cast<size_t>(from.bytes()));
          },
          stream);
    } else {
      weights.initialise(0.3, 5, stream);
      weights.pack(stream);
    }
    inference = std::make_unique<InferenceModel>(model, config.num_nextn_predict_layers, stream);
    memory = std::make_unique<Memory>(kPages * kPageTokens * inference->cache_bytes_per_token());
    cache = inference->make_cache(memory->data.get(), kPages);
  }
  Tensor tensor(DType dtype, int64_t rows, int64_t cols) { return arena.tensor(MemoryClass::kScratch, dtype, rows, cols); }

  // Feeds a batch; returns the logits of its rows.
  std::vector<double> feed(const std::vector<int32_t>& tokens, const std::vector<PagedSequence>& sequences) {
    const auto rows = static_cast<int64_t>(tokens.size());
    hidden = tensor(inference->hidden_dtype(), rows, model.config().hidden_size);
    inference->forward({tokens, sequences}, cache, hidden, work, stream);
    const Tensor out = tensor(inference->logits_dtype(), rows, model.config().vocab_size);
    inference->logits(hidden, out, stream);
    return to_double(out);
  }

  static constexpr int64_t kPages = 16;
  ThreadPool pool;
  Stream stream;
  Arena arena;
  Workspace work{nullptr};
  Weights weights;
  Model model;
  std::unique_ptr<InferenceModel> inference;
  std::unique_ptr<Memory> memory;
  PagedCache cache;
  Tensor hidden;
};

std::vector<ModelConfig> all_configs() {
  return {small_config(10), small_config(0), llama_config()};
}

void expect_near(const std::vector<double>& got, const std::vector<double>& want, double bound) {
  ASSERT_EQ(got.size(), want.size());
  size_t worst = 0;
  for (size_t i = 0; i < got.size(); ++i)
    if (!(std::abs(got[i] - want[i]) <= std::abs(got[worst] - want[worst]))) worst = i;
  EXPECT_LE(std::abs(got[worst] - want[worst]), bound) << "logit " << worst;
}

// The absorbed form is the training form with products in another order: in double, logits of order 1 to 10 agree to 1e-9.
TEST(Inference, AgreesWithTheTrainingForm) {
  for (const ModelConfig& config : all_configs()) {
    Fixture f(config, "fp64");
    const int64_t length = 130;
    MicroBatch batch{1, length, draw_tokens(length + 1, 3), {}};
    const std::vector<int32_t> tokens(batch.tokens.begin(), batch.tokens.end() - 1);
    const int32_t pages[] = {3, 0, 7};
    const std::vector<PagedSequence> sequence = {{0, length, 0, pages}};
    expect_near(f.feed(tokens, sequence), f.model.logits(batch, f.work, f.stream), 1e-9);

    Tensor hidden = f.hidden;
    for (int64_t k = 1; k <= config.num_nextn_predict_layers; ++k) {
      const int64_t rows = length - k;
      const std::vector<int32_t> next(tokens.begin() + k, tokens.end());
      const std::vector<PagedSequence> shorter = {{0, rows, 0, pages}};
      const Tensor predicted = f.tensor(DType::kF64, rows, config.hidden_size),
                   deeper = f.tensor(DType::kF64, rows, config.hidden_size),
                   out = f.tensor(DType::kF64, rows, config.vocab_size);
      f.inference->draft(k, {next, shorter}, f.cache, hidden.row_range(0, rows), predicted, deeper, f.work, f.stream);
      f.inference->logits(predicted, out, f.stream);
      std::vector<double> want = f.model.mtp_logits(batch, k, f.work, f.stream);
      expect_near(to_double(out), want, 1e-9);
      hidden = deeper;
    }
  }
}

// Chunks of any size, other sequences beside, other pages, one thread: the same bits.
TEST(Inference, BitsDependOnTheSequenceAlone) {
  for (const std::string precision : {"fp8", "bf16", "fp32", "fp64"})
    for (const ModelConfig& config : all_configs()) {
      const int64_t length = 75;
      const std::vector<int32_t> tokens = draw_tokens(length, 8), others = draw_tokens(90, 9);
      const int32_t pages[] = {0, 1}, elsewhere[] = {9, 4}, other_pages[] = {2, 3};
      Fixture f(config, precision);
      const std::vector<double> want = f.feed(tokens, {{0, length, 0, pages}});
      const int64_t vocabulary = config.vocab_size;
      for (const int64_t chunk : {int64_t{1}, int64_t{10}, int64_t{64}, length}) {
        Fixture g(config, precision, chunk == 10 ? 1 : 3);
        std::vector<double> got;
        for (int64_t at = 0; at < length; at += chunk) {
          const int64_t n = std::min(chunk, length - at);
          std::vector<int32_t> batch(others.begin(), others.begin() + (chunk == 1 ? 1 : 90));
          const auto before = static_cast<int64_t>(batch.size());
          batch.insert(batch.end(), tokens.begin() + at, tokens.begin() + at + n);
          const std::vector<double> all = g.feed(batch, {{0, before, 0, other_pages}, {before, before + n, at, elsewhere}});
          got.insert(got.end(), all.begin() + before * vocabulary, all.end());
        }
        EXPECT_EQ(got, want) << precision << ", " << config.architecture << ", chunks of " << chunk;
      }
    }
}

// Packed while they are read, weights are the same, scores of whole sequences included.
TEST(Inference, NeedsNoMasters) {
  for (const std::string precision : {"fp8", "bf16", "fp32"})
    for (ModelConfig config : all_configs()) {
      config.moe_intermediate_size = 150;  // gate and up share blocks of FP8 scales
      Fixture full(config, precision), lean(config, precision, 2, &full.weights);
      const std::vector<int32_t> tokens = draw_tokens(70, 2);
      const int32_t pages[] = {1, 2};
      const std::vector<PagedSequence> sequence = {{0, 69, 0, pages}};
      const std::vector<int32_t> prompt(tokens.begin(), tokens.end() - 1);
      EXPECT_EQ(lean.feed(prompt, sequence), full.feed(prompt, sequence)) << precision << ", " << config.architecture;
      const MicroBatch batch{1, 69, tokens, {}};
      EXPECT_EQ(lean.model.score(batch, lean.work, lean.stream), full.model.score(batch, full.work, full.stream));
      const int64_t masters = full.weights.dense().bytes() + full.weights.expert().bytes();
      EXPECT_LT(lean.arena.held(), full.arena.held() - (config.is_mla() ? masters / 2 : 0));
    }
}

// A token that differs changes what follows and nothing before.
TEST(Inference, RowsSeeEarlierRowsOnly) {
  Fixture f(small_config(10), "fp32");
  const int32_t pages[] = {5, 6};
  std::vector<int32_t> tokens = draw_tokens(80, 4);
  const std::vector<double> want = f.feed(tokens, {{0, 80, 0, pages}});
  tokens[70] = (tokens[70] + 1) % 19;
  const std::vector<double> got = f.feed(tokens, {{0, 80, 0, pages}});
  EXPECT_EQ(std::vector(got.begin(), got.begin() + 70 * 19), std::vector(want.begin(), want.begin() + 70 * 19));
  for (int64_t row = 70; row < 80; ++row)
    EXPECT_NE(std::vector(got.begin() + row * 19, got.begin() + (row + 1) * 19),
              std::vector(want.begin() + row * 19, want.begin() + (row + 1) * 19))
        << row;
}

}  // namespace
}  // namespace rorqual
