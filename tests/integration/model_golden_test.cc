// The model against PyTorch in FP64 (tests/golden/model/README.md): the scalar truth to 1e-9, every FP32 kernel set within a
// small multiple of the error that PyTorch itself makes in FP32.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/cpu.h"
#include "kernels/elementwise/elementwise.h"
#include "model/model.h"
#include "tensor/safetensors.h"
#include "train/gradients.h"
#include "train/optimizer.h"

namespace rorqual {
namespace {

const std::filesystem::path kRoot = "tests/golden/model";

std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kRoot))
    if (entry.is_directory()) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

// Runs a golden's ten steps and keeps what the golden holds, by its keys.
class GoldenRun {
 public:
  GoldenRun(const std::string& name, const std::string& precision, int threads, bool recompute)
      : pool_(threads), stream_(pool_), golden_(kRoot / name / "golden.safetensors") {
    const auto json = nlohmann::json::parse(read_file(kRoot / name / "config.json"));
    settings_ = json["rorqual"];
    config_ = config_from_hugging_face(json, name);
    weights_ = std::make_unique<Weights>(config_, precision_from_name(precision), true, arena_);
    model_ = std::make_unique<Model>(config_, *weights_, 1, arena_);
    const SafetensorsFile start(kRoot / name / "weights.safetensors");
    for (size_t i = 0; i < weights_->list().size(); ++i)
      convert({flat(start.tensor(weights_->list()[i].name)), flat(weights_->master(i))}, stream_);
    weights_->pack(stream_);
    read_batch();
    run_steps(recompute);
  }

  const SafetensorsFile& golden() const { return golden_; }
  // Values under the golden's key; empty if the run does not produce that key.
  const std::map<std::string, std::vector<double>>& values() const { return values_; }

  static std::vector<double> to_double(const Tensor& t) {
    std::vector<double> out(static_cast<size_t>(t.count()));
    if (t.dtype == DType::kI64) {
      for (int64_t i = 0; i < t.count(); ++i) out[static_cast<size_t>(i)] = static_cast<double>(t.ptr<int64_t>()[i]);
      return out;
    }
    visit_float(t.dtype, [&](auto zero) {
      for (int64_t i = 0; i < t.count(); ++i)
        out[static_cast<size_t>(i)] = static_cast<double>(static_cast<decltype(zero)*>(t.data)[i]);
    });
    return out;
  }

 private:
  static Tensor flat(const Tensor& t) { return {t.data, t.dtype, 1, t.count()}; }

  void read_batch() {
    const Tensor tokens = golden_.tensor("tokens"), weight = golden_.tensor("token_weights");
    batch_.sequences = tokens.rows;
    batch_.length = tokens.cols - 1;
    for (int64_t i = 0; i < tokens.count(); ++i) batch_.tokens.push_back(static_cast<int32_t>(tokens.ptr<int64_t>()[i]));
    batch_.weight = to_double(weight);
    loss_.normaliser = 0;
    for (const double w : batch_.weight) loss_.normaliser += w;
    loss_.sequences = static_cast<double>(batch_.sequences);
    loss_.mtp_lambda = settings_["mtp_lambda"];
    loss_.balance_alpha = settings_["balance_alpha"];
  }

  void first_step(const MicroBatchResult& r, const GradientBuffer& g, double norm) {
    values_["loss"] = {r.loss};
    values_["mtp_loss"] = {r.mtp_loss};
    values_["balance_loss"] = {r.balance_loss};
    values_["grad_norm"] = {norm};
    for (size_t i = 0; i < weights_->list().size(); ++i)
      if (weights_->list()[i].trainable()) values_["grad." + weights_->list()[i].name] = to_double(g.of(i));
    const auto names = model_->moe_block_names();
    for (size_t b = 0; b < names.size(); ++b) {
      const std::string layer = names[b].substr(std::string("model.layers.").size());
      values_["expert_load." + layer.substr(0, layer.size() - 1)] = {r.expert_load[b].begin(), r.expert_load[b].end()};
    }
  }

  void run_steps(bool recompute) {
    Workspace work(nullptr);
    values_["logits"] = model_->logits(batch_, work, stream_);
    values_["token_nll"] = model_->score(batch_, work, stream_);
    for (int64_t k = 1; k <= config_.num_nextn_predict_layers; ++k)
      values_[fmt::format("mtp_logits.{}", k)] = model_->mtp_logits(batch_, k, work, stream_);
    AdamWSettings adam{settings_["adam_beta1"], settings_["adam_beta2"], settings_["adam_eps"], settings_["weight_decay"],
                       settings_["clip_norm"]};
    Optimizer optimizer(*weights_, adam, arena_);
    GradientAccumulators accumulators(*weights_, config_, 1, 1, arena_);
    for (int64_t step = 1; step <= settings_["steps"].get<int64_t>(); ++step) {
      accumulators.begin_group(stream_);
      const MicroBatchResult r = model_->train(batch_, loss_, accumulators.buffer(0), recompute, work, stream_);
      accumulators.end_group(stream_);
      const GradientBuffer g = accumulators.total(stream_);
      const double norm = optimizer.gradient_norm(g, stream_).norm;
      values_["losses10"].push_back(r.loss + loss_.mtp_lambda * r.mtp_loss + r.balance_loss);
      values_["grad_norms10"].push_back(norm);
      if (step == 1) first_step(r, g, norm);
      optimizer.step(g, norm, settings_["learning_rate"], step, stream_);
      const auto names = model_->moe_block_names();
      for (size_t b = 0; config_.has_router_bias() && b < names.size(); ++b)
        update_routing_bias(weights_->master(weights_->list().at(names[b] + "mlp.gate.e_score_correction_bias")),
                            r.expert_load[b], settings_["bias_update_speed"]);
      weights_->pack(stream_);
    }
    for (size_t i = 0; i < weights_->list().size(); ++i)
      values_["weight10." + weights_->list()[i].name] = to_double(weights_->master(i));
  }

  ThreadPool pool_;
  Stream stream_;
  Arena arena_;
  SafetensorsFile golden_;
  nlohmann::json settings_;
  ModelConfig config_;
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<Model> model_;
  MicroBatch batch_;
  LossSettings loss_;
  std::map<std::string, std::vector<double>> values_;
};

struct Worst {
  double error = 0;
  size_t index = 0;
};

// Largest absolute difference; a NaN is infinitely wrong.
Worst worst_difference(const std::vector<double>& got, const std::vector<double>& want) {
  Worst w;
  for (size_t i = 0; i < want.size(); ++i) {
    double e = std::abs(got[i] - want[i]);
    if (std::isnan(e)) e = INFINITY;
    if (e > w.error) w = {e, i};
  }
  return w;
}

double largest(const std::vector<double>& values) {
  double m = 0;
  for (const double v : values) m = std::max(m, std::abs(v));
  return m;
}

// Compares every key of the golden that a run produces; `bound` gives the allowed error of a key. Returns the keys compared.
template <class Bound>
int compare(const GoldenRun& run, const Bound& bound) {
  int compared = 0;
  for (const SafetensorsEntry& entry : run.golden().entries()) {
    const std::string& key = entry.name;
    if (key == "tokens" || key == "token_weights" || key == "total_loss" || key.starts_with("fp32_error.") ||
        key.starts_with("hidden."))
      continue;
    const auto it = run.values().find(key);
    if (it == run.values().end()) {
      ADD_FAILURE() << key << " is in the golden, but the run did not produce it";
      continue;
    }
    const std::vector<double> want = GoldenRun::to_double(run.golden().tensor(entry));
    if (want.size() != it->second.size()) {
      ADD_FAILURE() << key << " has " << it->second.size() << " values, the golden " << want.size();
      continue;
    }
    const Worst w = worst_difference(it->second, want);
    const double allowed = bound(key, want);
    EXPECT_LE(w.error, allowed) << key << " element " << w.index << ": got " << it->second[w.index] << ", want "
                                << want[w.index];
    ++compared;
  }
  return compared;
}

class ModelGolden : public testing::TestWithParam<std::string> {};

// Both sides compute in FP64; they differ in the order of sums and in exp. 1e-9 is what the project promises; sums of a few
// hundred terms of size 1 come within about 1e-13 of each other, ten AdamW steps amplify that by 1 / sqrt(v), far below 1e-9 as
// well.
TEST_P(ModelGolden, ScalarTruthInDouble) {
  const GoldenRun run(GetParam(), "fp64", 2, true);
  const int compared = compare(run, [](const std::string&, const std::vector<double>&) { return 1e-9; });
  EXPECT_GT(compared, 20);
}

// Each FP32 kernel set: at most 4 × max(what PyTorch's own FP32 run is off, 2^-23 · the tensor's largest value).
TEST_P(ModelGolden, EveryFp32KernelSet) {
  for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    SCOPED_TRACE(isa_name(isa));
    if (isa > cpu_isa()) {
      std::cout << "this CPU lacks " << isa_name(isa) << ": not run\n";
      continue;
    }
    const ScopedIsa scoped(isa);
    const GoldenRun run(GetParam(), "fp32", 2, true);
    compare(run, [&](const std::string& key, const std::vector<double>& want) {
      const SafetensorsEntry* e = run.golden().find("fp32_error." + key);
      const double torch = e ? GoldenRun::to_double(run.golden().tensor(*e))[0] : 0;
      return 4 * std::max(torch, 0x1p-23 * largest(want));
    });
  }
}

// Recompute, and the number of threads, change no bit.
TEST_P(ModelGolden, RecomputeAndThreadsChangeNothing) {
  for (const std::string precision : {"fp32", "bf16"}) {
    const GoldenRun a(GetParam(), precision, 1, true), b(GetParam(), precision, 1, false), c(GetParam(), precision, 2, true),
        d(GetParam(), precision, 3, false);
    EXPECT_EQ(a.values(), b.values()) << precision << ": recompute changed something";
    EXPECT_EQ(a.values(), c.values()) << precision << ": two threads changed something";
    EXPECT_EQ(a.values(), d.values()) << precision << ": three threads changed something";
  }
}

INSTANTIATE_TEST_SUITE_P(All, ModelGolden, testing::ValuesIn(golden_names()), [](const auto& i) { return i.param; });

// The comparison itself must fail on a wrong run.
TEST(ModelGoldenComparison, SeesOneWrongElement) {
  std::vector<double> want(100, 1.0), got = want;
  got[63] += 1e-8;
  const Worst w = worst_difference(got, want);
  EXPECT_EQ(w.index, 63u);
  EXPECT_GT(w.error, 1e-9);
  got[5] = NAN;
  EXPECT_EQ(worst_difference(got, want).error, INFINITY);
}

}  // namespace
}  // namespace rorqual
