// The whole model's backward against central differences in double, on every kind of tensor, with lanes of sums left out: one
// micro-batch.
#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "model/model.h"

namespace rorqual {
namespace {

ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 23;
  c.hidden_size = 12;
  c.intermediate_size = 14;
  c.moe_intermediate_size = 6;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 2;
  c.q_lora_rank = 7;
  c.kv_lora_rank = 6;
  c.qk_nope_head_dim = 4;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 3;
  c.n_routed_experts = 6;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.n_group = 3;
  c.topk_group = 2;
  c.first_k_dense_replace = 1;
  c.routed_scaling_factor = 1.5;
  c.num_nextn_predict_layers = 2;
  c.max_position_embeddings = 16;
  return c;
}

ModelConfig llama_config() {
  ModelConfig c;
  c.architecture = "llama";
  c.vocab_size = 19;
  c.hidden_size = 12;
  c.intermediate_size = 10;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 4;
  c.max_position_embeddings = 16;
  c.tie_word_embeddings = true;
  return c;
}

struct Fixture {
  explicit Fixture(const ModelConfig& config)
      : weights(config, precision_from_name("fp64"), true, arena),
        model(config, weights, 1, arena),
        layout(weights.list(), config) {
    weights.initialise(0.3, 5, stream);
    for (size_t i = 0; i < weights.list().size(); ++i) {
      if (weights.list()[i].role != Role::kNorm) continue;
      const Tensor w = weights.master(i);
      for (int64_t e = 0; e < w.count(); ++e)
        w.ptr<double>()[e] = 1 + 0.2 * random_normal({3, RandomPurpose::kTest, i, 0}, static_cast<uint64_t>(e));
    }
    batch.sequences = 2;
    batch.length = 7;
    for (uint64_t i = 0; i < 16; ++i)
      batch.tokens.push_back(
          static_cast<int32_t>(random_below({9, RandomPurpose::kTest, 0, 0}, i, static_cast<uint64_t>(config.vocab_size))));
    for (uint64_t i = 0; i < 14; ++i)
      batch.weight.push_back(0.25 * static_cast<double>(random_below({10, RandomPurpose::kTest, 0, 0}, i, 5)));
    settings.normaliser = 7.5;
    settings.sequences = 2;
    settings.mtp_lambda = 0.3;
    settings.balance_alpha = 0.05;
    gradients = {&weights.list(), &layout, arena.tensor(MemoryClass::kGradients, DType::kF64, 1, layout.dense_elements()),
                 arena.tensor(MemoryClass::kGradients, DType::kF64, 1, layout.expert_elements())};
  }
  double loss() {
    weights.pack(stream);
    // Gradients of probes are thrown away into a copy.
    std::vector<double> dense(static_cast<size_t>(layout.dense_elements())),
        expert(static_cast<size_t>(layout.expert_elements()));
    const GradientBuffer sink{&weights.list(),
                              &layout,
                              {dense.data(), DType::kF64, 1, layout.dense_elements()},
                              {expert.data(), DType::kF64, 1, layout.expert_elements()}};
    const MicroBatchResult r = model.train(batch, settings, sink, true, work, stream);
    return r.loss + settings.mtp_lambda * r.mtp_loss + r.balance_loss;
  }
  // The gradient with the uses of embedding and head added up.
  double gradient(size_t tensor, int64_t element) {
    double g = gradients.of(tensor).ptr<double>()[element];
    for (const GradientUse& u : layout.extra_uses())
      if (u.tensor == tensor) g += gradients.dense.ptr<double>()[u.offset + element];
    return g;
  }

  ThreadPool pool{2};
  Stream stream{pool};
  Arena arena;
  Weights weights;
  Model model;
  GradientLayout layout;
  Workspace work{nullptr};
  MicroBatch batch;
  LossSettings settings;
  GradientBuffer gradients;
};

void check(const ModelConfig& config) {
  Fixture f(config);
  f.weights.pack(f.stream);
  f.model.train(f.batch, f.settings, f.gradients, true, f.work, f.stream);
  // Step h: truncation ~ h²·f''' ≈ 1e-10, cancellation ~ 1e-16 / h = 1e-11; both stay below 1e-7 for third derivatives up to
  // 1e3.
  constexpr double h = 1e-5;
  int probes = 0, live = 0;
  for (size_t i = 0; i < f.weights.list().size(); ++i) {
    if (!f.weights.list()[i].trainable()) continue;
    const Tensor w = f.weights.master(i);
    for (uint64_t probe = 0; probe < 3; ++probe) {
      const auto e =
          static_cast<int64_t>(random_below({17, RandomPurpose::kTest, i, 0}, probe, static_cast<uint64_t>(w.count())));
      double& x = static_cast<double*>(w.data)[e];
      const double old = x;
      x = old + h;
      const double up = f.loss();
      x = old - h;
      const double down = f.loss();
      x = old;
      const double numeric = (up - down) / (2 * h), analytic = f.gradient(i, e);
      EXPECT_NEAR(analytic, numeric, 1e-7 * std::max(1.0, std::abs(numeric))) << f.weights.list()[i].name << " element " << e;
      ++probes;
      live += numeric != 0;
    }
  }
  EXPECT_GT(live, probes / 2);
}

TEST(ModelGradient, DeepSeekAgainstDifferences) {
  check(small_config());
}

TEST(ModelGradient, WithoutQueryLoraSoftmaxTied) {
  ModelConfig c = small_config();
  c.q_lora_rank = 0;
  c.scoring_func = "softmax";
  c.topk_method = "greedy";
  c.norm_topk_prob = false;
  c.tie_word_embeddings = true;
  c.n_shared_experts = 0;
  c.num_nextn_predict_layers = 1;
  check(c);
}

TEST(ModelGradient, LlamaAgainstDifferences) {
  check(llama_config());
}

// A planted mistake: a gradient that is off by a millionth breaks the bound that the right one keeps.
TEST(ModelGradient, ComparisonSeesASmallMistake) {
  Fixture f(llama_config());
  f.weights.pack(f.stream);
  f.model.train(f.batch, f.settings, f.gradients, true, f.work, f.stream);
  constexpr double h = 1e-5;
  constexpr int64_t element = 3;
  const size_t tensor = f.weights.list().at("model.norm.weight");
  double& x = f.weights.master(tensor).ptr<double>()[element];
  const double old = x;
  x = old + h;
  const double up = f.loss();
  x = old - h;
  const double down = f.loss();
  x = old;
  const double numeric = (up - down) / (2 * h), bound = 1e-7 * std::max(1.0, std::abs(numeric));
  EXPECT_LE(std::abs(f.gradient(tensor, element) - numeric), bound);
  f.gradients.of(tensor).ptr<double>()[element] += 1e-6 * std::max(1.0, std::abs(numeric));
  EXPECT_GT(std::abs(f.gradient(tensor, element) - numeric), bound);
}

}  // namespace
}  // namespace rorqual
