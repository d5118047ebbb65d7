// A model in FP8: near its BF16 self, the same bits with and without recomputation and on any number of threads, and every
// quantiser counted.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>

#include "base/cpu.h"
#include "base/rng.h"
#include "model/model.h"

namespace rorqual {
namespace {

// Ragged against groups of 128 in every linear layer.
ModelConfig ragged_config() {
  ModelConfig c;
  c.vocab_size = 97;
  c.hidden_size = 144;
  c.intermediate_size = 200;
  c.moe_intermediate_size = 72;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 3;
  c.q_lora_rank = 136;
  c.kv_lora_rank = 40;
  c.qk_nope_head_dim = 24;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 20;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 3;
  c.n_group = 4;
  c.topk_group = 2;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 1;
  c.max_position_embeddings = 64;
  return c;
}

// Every expert serves every token, so that no choice of experts changes when a logit does.
ModelConfig all_experts_config() {
  ModelConfig c = ragged_config();
  c.n_group = c.topk_group = 1;
  c.num_experts_per_tok = c.n_routed_experts;
  return c;
}

ModelConfig llama_config() {
  ModelConfig c;
  c.architecture = "llama";
  c.vocab_size = 97;
  c.hidden_size = 136;
  c.intermediate_size = 152;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 20;
  c.max_position_embeddings = 64;
  return c;
}

struct Outcome {
  std::vector<float> dense, expert;  // gradients
  double loss = 0;
};

class Fixture {
 public:
  Fixture(const ModelConfig& config, const PrecisionRecipe& formats)
      : config_(config),
        weights(config, make_precision(formats), true, arena_),
        model(config, weights, 1, arena_),
        layout_(weights.list(), config) {
    ThreadPool pool(1);
    const Stream stream(pool);
    weights.initialise(0.1, 3, stream);
    weights.pack(stream);
    batch_.sequences = 3;
    batch_.length = 50;  // 150 tokens: two groups of a weight gradient, the second ragged
    for (int64_t i = 0; i < 3 * 51; ++i)
      batch_.tokens.push_back(static_cast<int32_t>(random_uniform({.seed = 9}, static_cast<uint64_t>(i)) * 97));
  }

  Outcome train(bool recompute, int threads) {
    ThreadPool pool(threads);
    const Stream stream(pool);
    Outcome run;
    run.dense.assign(static_cast<size_t>(layout_.dense_elements()), 0);
    run.expert.assign(static_cast<size_t>(layout_.expert_elements()), 0);
    const auto flat = [](std::vector<float>& v) { return Tensor(v.data(), DType::kF32, 1, static_cast<int64_t>(v.size())); };
    const GradientBuffer buffer{&weights.list(), &layout_, flat(run.dense), flat(run.expert)};
    Workspace work(nullptr);
    const LossSettings loss{.normaliser = 150, .sequences = 3, .mtp_lambda = 0.3, .balance_alpha = 1e-3};
    run.loss = model.train(batch_, loss, buffer, recompute, work, stream).loss;
    return run;
  }
  Tensor gradient(Outcome& run, size_t tensor) const {
    const TensorSpec& s = weights.list()[tensor];
    std::vector<float>& region = s.in_expert_region() ? run.expert : run.dense;
    return {region.data() + s.offset, DType::kF32, 1, s.count()};
  }

 private:
  ModelConfig config_;
  Arena arena_;

 public:
  Weights weights;
  Model model;

 private:
  GradientLayout layout_;
  MicroBatch batch_;
};

PrecisionRecipe formats(const std::string& precision) {
  PrecisionRecipe r;
  r.precision = precision;
  return r;
}

double relative_error(const Tensor& a, const Tensor& truth) {
  double difference = 0, square = 0;
  for (int64_t i = 0; i < truth.count(); ++i) {
    const double t = truth.ptr<float>()[i], d = a.ptr<float>()[i] - t;
    difference += d * d;
    square += t * t;
  }
  return square == 0 ? 0 : std::sqrt(difference / square);
}

TEST(Fp8Model, LossAndGradientsAreNearThoseOfBf16) {
  for (const ModelConfig& config : {all_experts_config(), llama_config()}) {
    Fixture bf16(config, formats("bf16")), fp8(config, formats("fp8"));
    Outcome truth = bf16.train(true, 1), run = fp8.train(true, 1);
    EXPECT_NEAR(run.loss, truth.loss, 0.02 * truth.loss);
    EXPECT_NE(run.loss, truth.loss);
    for (size_t i = 0; i < fp8.weights.list().size(); ++i) {
      const TensorSpec& s = fp8.weights.list()[i];
      if (!s.trainable()) continue;
      // Each operand's codes are off by at most 2^-4 of their value, 2.6% in the mean square (uniform over half a step of three
      // mantissa bits). A gradient passes through no more than 8 such products a block, whose errors add as squares.
      EXPECT_LT(relative_error(fp8.gradient(run, i), bf16.gradient(truth, i)), 0.35) << s.name;
    }
  }
}

TEST(Fp8Model, AWrongScaleWouldBeSeen) {
  Fixture bf16(all_experts_config(), formats("bf16")), fp8(all_experts_config(), formats("fp8"));
  Outcome truth = bf16.train(true, 1);
  const size_t tensor = fp8.weights.list().at("model.layers.0.mlp.down_proj.weight");
  const Tensor w = fp8.weights.master(tensor);
  for (int64_t i = 0; i < w.count(); ++i) w.ptr<float>()[i] *= 2;
  ThreadPool pool(1);
  fp8.weights.pack(Stream(pool));
  Outcome run = fp8.train(true, 1);
  const size_t before = fp8.weights.list().at("model.layers.0.mlp.gate_proj.weight");
  EXPECT_GT(relative_error(fp8.gradient(run, before), bf16.gradient(truth, before)), 0.35);
}

TEST(Fp8Model, RecomputeAndThreadsChangeNoBit) {
  for (const ModelConfig& config : {ragged_config(), llama_config()}) {
    for (const char* cache : {"e4m3", "bf16"}) {
      PrecisionRecipe r = formats("fp8");
      r.swiglu_cache = cache;
      Fixture f(config, r);
      const Outcome first = f.train(true, 1);
      for (const auto& [recompute, threads] : {std::pair{false, 1}, {true, 2}, {false, 3}}) {
        const Outcome other = f.train(recompute, threads);
        EXPECT_EQ(other.loss, first.loss) << cache << " " << recompute << " " << threads;
        EXPECT_EQ(other.dense, first.dense) << cache << " " << recompute << " " << threads;
        EXPECT_EQ(other.expert, first.expert) << cache << " " << recompute << " " << threads;
      }
    }
  }
}

TEST(Fp8Model, EveryAlternativeTrains) {
  Fixture bf16(ragged_config(), formats("bf16"));
  const Outcome truth = bf16.train(true, 1);
  std::vector<PrecisionRecipe> all(8, formats("fp8"));
  all[0].scales = "report";
  all[1].scales = "fp32";
  all[2].gradient_format = "e5m2";
  all[3].gradient_granularity = "block";
  all[4].activation_granularity = all[4].weight_granularity = all[4].gradient_granularity = "tensor";
  all[5].attention_cache = "bf16";
  all[6].swiglu_cache = "bf16";
  all[7].moments = "fp32";
  const Outcome plain = Fixture(ragged_config(), formats("fp8")).train(true, 1);
  for (size_t i = 0; i < all.size(); ++i) {
    const Outcome run = Fixture(ragged_config(), all[i]).train(true, 1);
    EXPECT_NEAR(run.loss, truth.loss, 0.02 * truth.loss) << i;
    EXPECT_EQ(run.dense == plain.dense, i == 7) << "alternative " << i;  // moments belong to the optimizer
  }
}

TEST(Fp8Model, EveryInstructionSetAgreesWithTheReference) {
  double truth = 0;
  for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (isa > cpu_isa()) {
      RecordProperty("skipped", "this CPU lacks " + std::string(isa_name(isa)));
      continue;
    }
    const ScopedIsa scoped(isa);
    const Outcome run = Fixture(ragged_config(), formats("fp8")).train(true, 1);
    if (isa == Isa::kReference) truth = run.loss;
    // Different orders of sums in attention and norms move a value across a rounding boundary of E4M3 here and there.
    EXPECT_NEAR(run.loss, truth, 2e-3 * truth) << isa_name(isa);
  }
}

TEST(Fp8Model, EveryQuantiserCounts) {
  Fixture f(ragged_config(), formats("fp8"));
  f.train(true, 1);
  const QuantiseLedger& ledger = f.weights.ledger();
  for (size_t i = 0; i < kQuantisedTensors; ++i) {
    const auto tensor = static_cast<QuantisedTensor>(i);
    int64_t values = 0;
    for (int64_t block = 0; block < ledger.blocks(); ++block) {
      const QuantiseCounts c = ledger.at(block, tensor).read();
      values += c.values;
      EXPECT_LE(c.saturated + c.flushed, c.values);
      EXPECT_FALSE(c.not_finite);
      EXPECT_EQ(c.largest_scale > 0, c.values > 0) << quantised_tensor_name(tensor);
    }
    EXPECT_GT(values, 0) << quantised_tensor_name(tensor);
  }
  EXPECT_FALSE(ledger.not_finite());
}

TEST(Fp8Model, ANanIsNamedByLayerAndTensor) {
  Fixture f(ragged_config(), formats("fp8"));
  const Tensor norm = f.weights.master(f.weights.list().at("model.layers.1.input_layernorm.weight"));
  norm.ptr<float>()[5] = std::numeric_limits<float>::quiet_NaN();
  f.train(true, 1);
  const auto place = f.weights.ledger().not_finite();
  ASSERT_TRUE(place);
  EXPECT_EQ(place->block, 1);
  EXPECT_EQ(quantised_tensor_name(place->tensor), "attention.input");
}

TEST(PrecisionRecipe, InferenceScalesEveryRowByItself) {
  const PrecisionRecipe run = {.precision = "fp8",
                               .scales = "fp32",
                               .residual = "fp32",
                               .activation_granularity = "tensor",
                               .weight_granularity = "tensor",
                               .delayed_steps = 4};
  const PrecisionRecipe formats = inference_formats(run, "");
  EXPECT_EQ(formats.activation_granularity, "group");
  EXPECT_EQ(formats.delayed_steps, 0);
  PrecisionRecipe rest = formats;
  rest.activation_granularity = run.activation_granularity;
  rest.delayed_steps = run.delayed_steps;
  EXPECT_EQ(rest, run);
  EXPECT_EQ(inference_formats(run, "bf16").precision, "bf16");
  EXPECT_EQ(inference_formats(run, "bf16").residual, "fp32");
}

TEST(PrecisionRecipe, UnknownWordsAreRefused) {
  for (std::string PrecisionRecipe::*key :
       {&PrecisionRecipe::precision, &PrecisionRecipe::scales, &PrecisionRecipe::moments, &PrecisionRecipe::residual,
        &PrecisionRecipe::activation_granularity, &PrecisionRecipe::weight_granularity, &PrecisionRecipe::gradient_granularity,
        &PrecisionRecipe::gradient_format, &PrecisionRecipe::attention_cache, &PrecisionRecipe::swiglu_cache}) {
    PrecisionRecipe r;
    EXPECT_NO_THROW(make_precision(r));
    r.*key = "fp4";
    EXPECT_THROW(make_precision(r), Error);
  }
}

}  // namespace
}  // namespace rorqual
