#include "train/trainer.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/clock.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "base/machine.h"
#include "base/trace.h"
#include "kernels/gemm/peak.h"
#include "model/flops.h"
#include "train/memory.h"
#include "train/schedule.h"

namespace rorqual {
namespace {

// Losses that a new one is held against.
constexpr size_t kRecentLosses = 32;
constexpr size_t kFewestLosses = 8;

Recipe checked_for_memory(const Recipe& recipe) {
  const MemoryNeed need = training_memory(recipe);
  const int64_t available = machine_memory().available_bytes;
  check_memory(need, available);
  info("memory of the run\n{}", memory_table(need, available));
  if (const std::string savings = activation_savings(recipe, need); !savings.empty()) info("what FP8 saves\n{}", savings);
  return recipe;
}

TokenIds ids_of(const Recipe& r, const Tokenizer& tokenizer) {
  return token_ids(tokenizer, r.model.vocab_size);
}

// Of one weight of the first linear layer: the last of the bits that BF16 keeps.
void flip_last_bit(const Weights& weights) {
  const auto& specs = weights.list().specs();
  const auto linear = std::find_if(specs.begin(), specs.end(), [](const TensorSpec& s) { return s.role == Role::kLinear; });
  if (linear == specs.end()) return;
  const Tensor master = weights.master(static_cast<size_t>(linear - specs.begin()));
  visit_float(master.dtype, [&](auto zero) {
    auto* value = static_cast<decltype(zero)*>(master.data);
    *value = static_cast<decltype(zero)>(std::bit_cast<float>(std::bit_cast<uint32_t>(static_cast<float>(*value)) ^ 0x10000u));
  });
}

nlohmann::ordered_json number(double value) {
  if (std::isfinite(value)) return value;
  return nullptr;  // JSON has no NaN
}

}  // namespace

Trainer::Trainer(const PreparedRun& run, const TrainOptions& options, bool resume, const Stream& stream)
    : recipe_(checked_for_memory(run.recipe)),
      directory_(run.directory),
      tokenizer_(*run.tokenizer),
      options_(options),
      stream_(stream),
      flops_per_token_(training_flops_per_token(recipe_.model, recipe_.train.sequence_length)),
      learner_(recipe_, &memory_, stream),
      training_(run.corpus.open_training(true), {recipe_.train.sequence_length, static_cast<uint64_t>(recipe_.seed),
                                                 recipe_.data.fim_rate, ids_of(recipe_, tokenizer_)}),
      heldout_(run.corpus.open_heldout(true), recipe_.train.sequence_length, ids_of(recipe_, tokenizer_),
               recipe_.train.heldout_sequences) {
  peak_gflops_ = measure_peak_flops(weights_.precision().compute, stream_);
  print_tables();
  checkpoints_ = std::make_unique<CheckpointWriter>(directory_, recipe_.train.checkpoints_kept, &memory_);
  start_from(run, resume);
  metrics_ = std::make_unique<JsonLines>(directory_ / "metrics.jsonl", step_);
  samples_ = std::make_unique<JsonLines>(directory_ / "samples.jsonl", step_);
}

Trainer::~Trainer() = default;

void Trainer::print_tables() const {
  const ParameterCount p = weights_.list().parameters();
  info("parameters: {:.2f}M total, {:.2f}M active per token, {:.2f}M more in {} MTP modules",
       static_cast<double>(p.total) / 1e6, static_cast<double>(p.active) / 1e6, static_cast<double>(p.mtp) / 1e6,
       recipe_.model.num_nextn_predict_layers);
  info("data: {} documents, {:.2f}M tokens to train on; {} documents, {:.2f}M tokens held out", training_.documents(),
       static_cast<double>(training_.tokens()) / 1e6, heldout_.documents(), static_cast<double>(heldout_.tokens()) / 1e6);
  info("precision {}, {} threads, measured peak {:.0f} GFLOP/s", recipe_.formats.precision, stream_.threads(), peak_gflops_);
}

void Trainer::start_from(const PreparedRun& run, bool resume) {
  if (!resume) {
    if (run.init) {
      run.init->load_weights(weights_, stream_);
    } else {
      weights_.initialise(recipe_.model.initializer_range, static_cast<uint64_t>(recipe_.seed), stream_);
    }
    if (recipe_.perturb_start) flip_last_bit(weights_);
    weights_.pack(stream_);
    if (learner_.ema()) learner_.ema()->reset();
    save_checkpoint();  // step 0: from here on the run can be taken up
    return;
  }
  const Checkpoint c = newest_for_resume(directory_);
  restore(c.model(), named_tensors(weights_));
  std::vector<NamedTensor> moments = named_tensors(weights_.list(), optimizer_.dense_m(), optimizer_.expert_m(), "m.", true);
  const auto v = named_tensors(weights_.list(), optimizer_.dense_v(), optimizer_.expert_v(), "v.", true);
  moments.insert(moments.end(), v.begin(), v.end());
  restore(c.moments(), moments);
  if (const Ema* ema = learner_.ema()) restore(c.ema(), named_tensors(weights_.list(), ema->dense(), ema->expert()));
  weights_.pack(stream_);
  step_ = c.step;
  tokens_ = c.tokens;
  sequences_ = c.sequences;
  learner_.set_updates(c.trainer.at("updates"));
  skipped_in_a_row_ = c.trainer.at("skipped_in_a_row");
  for (const auto& loss : c.trainer.at("recent_losses")) recent_.push_back(loss);
  if (c.trainer.contains("amax_history")) weights_.ledger().restore_amax_history(c.trainer["amax_history"]);
  if (c.trainer.contains("heldout_loss")) last_heldout_ = c.trainer["heldout_loss"].get<double>();
  info("resumed at step {}", step_);
}

MicroBatch Trainer::micro_batch(int64_t first_sequence) const {
  MicroBatch batch;
  batch.sequences = recipe_.train.micro_batch_sequences;
  batch.length = recipe_.train.sequence_length;
  batch.tokens.resize(static_cast<size_t>(batch.sequences * (batch.length + 1)));
  for (int64_t i = 0; i < batch.sequences; ++i)
    training_.sequence(
        first_sequence + i,
        std::span(batch.tokens).subspan(static_cast<size_t>(i * (batch.length + 1)), static_cast<size_t>(batch.length + 1)));
  return batch;
}

// What is wrong with the step's numbers; empty: nothing.
std::string Trainer::not_finite(const MicroBatchResult& losses, const GradientNorm& norm) const {
  if (const auto place = weights_.ledger().not_finite())
    return fmt::format("NaN or infinity in {}{}, before it was quantised", layer_prefix(place->block),
                       quantised_tensor_name(place->tensor));
  if (!norm.not_finite.empty()) return "NaN or infinity in the gradient of " + norm.not_finite;
  return std::isfinite(losses.loss) ? "" : "the loss is not finite";
}

bool Trainer::diverged(const MicroBatchResult& losses, const GradientNorm& norm) const {
  if (!not_finite(losses, norm).empty()) return true;
  if (recent_.size() < kFewestLosses) return false;
  const double mean = std::accumulate(recent_.begin(), recent_.end(), 0.0) / static_cast<double>(recent_.size());
  return losses.loss > mean + recipe_.train.spike_nats;
}

nlohmann::ordered_json Trainer::step() {
  const TraceSpan span("step");
  const double begin_s = seconds_now();
  const TrainRecipe& t = recipe_.train;
  const int64_t sequences = batch_sequences(t, recipe_.grad_lanes, tokens_), step_tokens = sequences * t.sequence_length;
  const double rate = learning_rate(t, step_ + 1, tokens_);
  weights_.ledger().reset();
  const Learner::Step step =
      learner_.accumulate(sequences, mtp_lambda(t, tokens_), [&](int64_t first) { return micro_batch(sequences_ + first); });
  const MicroBatchResult& losses = step.losses;
  const GradientNorm& norm = step.norm;
  const bool skipped = diverged(losses, norm);
  learner_.wait_for_averages();  // they were read from the weights while this step ran
  if (skipped) {
    ++skipped_in_a_row_;
    const std::string reason = not_finite(losses, norm);
    warn("step {} is skipped: loss {:.4f}, gradient norm {:.4g}; {}", step_ + 1, losses.loss, norm.norm,
         reason.empty() ? "the largest gradient is in " + norm.largest : reason);
  } else {
    learner_.update(step, rate, bias_speed(t, tokens_));
    skipped_in_a_row_ = 0;
    recent_.push_back(losses.loss);
    if (recent_.size() > kRecentLosses) recent_.pop_front();
  }
  if (weights_.precision().delayed_steps > 0) weights_.ledger().remember_amax(weights_.precision().delayed_steps);
  ++step_;
  tokens_ += step_tokens;
  sequences_ += sequences;
  const double seconds = seconds_now() - begin_s;
  nlohmann::ordered_json line;
  line["step"] = step_;
  line["tokens"] = tokens_;
  line["loss"] = number(losses.loss);
  line["mtp_loss"] = number(losses.mtp_loss);
  line["balance_loss"] = number(losses.balance_loss);
  line["lr"] = rate;
  line["grad_norm"] = number(norm.norm);
  line["batch_sequences"] = sequences;
  line["mtp_lambda"] = mtp_lambda(t, tokens_ - step_tokens);
  add_expert_metrics(line, losses);
  if (t.counter_steps > 0 && step_ % t.counter_steps == 0) add_quantiser_metrics(line);
  if (skipped) line["skipped"] = true;
  line["tokens_per_s"] = static_cast<double>(step_tokens) / seconds;
  line["step_ms"] = seconds * 1e3;
  return line;
}

void Trainer::add_expert_metrics(nlohmann::ordered_json& line, const MicroBatchResult& losses) const {
  if (losses.expert_load.empty()) return;
  std::vector<double> load;
  for (const auto& block : losses.expert_load) {
    const auto sum = static_cast<double>(std::accumulate(block.begin(), block.end(), int64_t{0}));
    load.push_back(static_cast<double>(*std::max_element(block.begin(), block.end())) * static_cast<double>(block.size()) /
                   std::max(sum, 1.0));
  }
  line["load_max_over_mean"] = load;
  if (!recipe_.model.has_router_bias()) return;
  double low = INFINITY, high = -INFINITY;
  for (const std::string& name : learner_.model().moe_block_names()) {
    const Tensor bias = weights_.master(weights_.list().at(name + "mlp.gate.e_score_correction_bias"));
    visit_float(bias.dtype, [&](auto zero) {
      for (int64_t i = 0; i < bias.count(); ++i) {
        const auto b = static_cast<double>(static_cast<decltype(zero)*>(bias.data)[i]);
        low = std::min(low, b);
        high = std::max(high, b);
      }
    });
  }
  line["bias_range"] = {number(low), number(high)};
}

// Of this step, by tensor; lists are by block.
void Trainer::add_quantiser_metrics(nlohmann::ordered_json& line) const {
  if (!weights_.precision().is_fp8()) return;
  const QuantiseLedger& ledger = weights_.ledger();
  const auto rounded = [](double x) { return std::stod(fmt::format("{:.3g}", x)); };
  nlohmann::ordered_json all;
  for (size_t i = 0; i < kQuantisedTensors; ++i) {
    const auto tensor = static_cast<QuantisedTensor>(i);
    nlohmann::ordered_json saturated, flushed, scale;
    bool any = false;
    for (int64_t block = 0; block < ledger.blocks(); ++block) {
      const QuantiseCounts c = ledger.at(block, tensor).read();
      const auto values = static_cast<double>(std::max<int64_t>(c.values, 1));
      saturated.push_back(rounded(static_cast<double>(c.saturated) / values));
      flushed.push_back(rounded(static_cast<double>(c.flushed) / values));
      scale.push_back({rounded(c.smallest_scale), rounded(c.largest_scale)});
      any = any || c.values > 0;
    }
    if (any)
      all[std::string(quantised_tensor_name(tensor))] = {{"saturated", saturated}, {"flushed", flushed}, {"scale", scale}};
  }
  line["quantised"] = all;
}

double Trainer::heldout_loss() {
  const TraceSpan span("held-out");
  const int64_t length = recipe_.train.sequence_length, most = recipe_.train.micro_batch_sequences;
  double sum = 0;
  for (int64_t first = 0; first < heldout_.count(); first += most) {
    MicroBatch batch;
    batch.sequences = std::min(most, heldout_.count() - first);
    batch.length = length;
    batch.tokens.resize(static_cast<size_t>(batch.sequences * (length + 1)));
    for (int64_t i = 0; i < batch.sequences; ++i)
      heldout_.sequence(
          first + i, std::span(batch.tokens).subspan(static_cast<size_t>(i * (length + 1)), static_cast<size_t>(length + 1)));
    for (const double nll : learner_.model().score(batch, learner_.work(), stream_)) sum += nll;
  }
  return sum / static_cast<double>(heldout_.count() * length);
}

void Trainer::write_samples() {
  if (!options_.sample) return;
  const TraceSpan span("sample");
  for (const std::string& prompt : recipe_.train.sample_prompts) {
    const Sample s = options_.sample(learner_.model(), tokenizer_, prompt, recipe_.train.sample_tokens,
                                     static_cast<uint64_t>(recipe_.seed), learner_.work(), stream_);
    nlohmann::ordered_json line;
    line["step"] = step_;
    line["prompt"] = s.prompt;
    line["text"] = s.text;
    samples_->append(line);
  }
}

void Trainer::save_checkpoint() {
  const TraceSpan span("snapshot");
  learner_.wait_for_averages();
  CheckpointContents c;
  c.step = step_;
  c.tokens = tokens_;
  c.sequences = sequences_;
  c.config = recipe_.model;
  c.precision = recipe_.formats.precision;
  c.recipe = print_recipe(recipe_);
  c.trainer["updates"] = learner_.updates();
  c.trainer["skipped_in_a_row"] = skipped_in_a_row_;
  c.trainer["recent_losses"] = recent_;
  if (last_heldout_) c.trainer["heldout_loss"] = *last_heldout_;
  if (weights_.precision().delayed_steps > 0) c.trainer["amax_history"] = weights_.ledger().amax_history();
  c.model = named_tensors(weights_);
  if (const Ema* ema = learner_.ema()) c.ema = named_tensors(weights_.list(), ema->dense(), ema->expert());
  c.moments = named_tensors(weights_.list(), optimizer_.dense_m(), optimizer_.expert_m(), "m.", true);
  const auto v = named_tensors(weights_.list(), optimizer_.dense_v(), optimizer_.expert_v(), "v.", true);
  c.moments.insert(c.moments.end(), v.begin(), v.end());
  checkpoints_->save(c, &stream_);
}

void Trainer::show_progress(const nlohmann::ordered_json& line, int64_t last_step, double begin_s, int64_t begin_step) {
  static ProgressLine progress;
  const double rate = line["tokens_per_s"], per_step_s = (seconds_now() - begin_s) / static_cast<double>(step_ - begin_step);
  const auto left = static_cast<int64_t>(per_step_s * static_cast<double>(last_step - step_));
  progress.update(
      fmt::format("step {}/{}  loss {:.4f}  {}{:.0f} tokens/s  {:.0f}% of peak  {:.1f}M tokens  ETA {}:{:02}", step_, last_step,
                  line["loss"].is_null() ? NAN : line["loss"].get<double>(),
                  last_heldout_ ? fmt::format("held-out {:.4f}  ", *last_heldout_) : "", rate,
                  100 * rate * flops_per_token_ / 1e9 / peak_gflops_, static_cast<double>(tokens_) / 1e6, left / 60, left % 60),
      step_ == last_step);
}

// What belongs to a step but not to its time: held-out loss, samples, checkpoint.
void Trainer::finish_step(nlohmann::ordered_json& line, int64_t last_step) {
  const TrainRecipe& t = recipe_.train;
  const bool last = step_ == last_step || InterruptGuard::interrupted();
  auto due = [&](int64_t every) { return every > 0 && (step_ % every == 0 || step_ == last_step); };
  if (due(t.heldout_steps) && heldout_.count() > 0) {
    last_heldout_ = heldout_loss();
    line["heldout_loss"] = number(*last_heldout_);
  }
  metrics_->append(line);
  if (due(t.sample_steps)) write_samples();
  if (skipped_in_a_row_ > t.skipped_steps_allowed)
    fail(
        "the run diverged: {} steps in a row were skipped; the last good checkpoint is in {}. Lower train.learning_rate, or "
        "raise "
        "train.spike_nats if the loss is still sound",
        skipped_in_a_row_, (directory_ / "checkpoints").string());
  if (!last && step_ % t.checkpoint_steps != 0) return;
  save_checkpoint();
  if (last) checkpoints_->wait();
  if (options_.report) options_.report(directory_);
}

TrainSummary Trainer::train() {
  name_trace_thread("train");
  const InterruptGuard guard;
  const int64_t last_step = options_.steps.value_or(recipe_.train.steps), begin_step = step_;
  if (step_ >= last_step) info("nothing to do: the run stands at step {} of {}", step_, last_step);
  TrainSummary summary;
  if (!recent_.empty()) summary.loss = recent_.back();
  const double begin_s = seconds_now();
  while (step_ < last_step && !InterruptGuard::interrupted()) {
    nlohmann::ordered_json line = step();
    finish_step(line, last_step);
    show_progress(line, last_step, begin_s, begin_step);
    summary.loss = line["loss"].is_null() ? NAN : line["loss"].get<double>();
  }
  checkpoints_->wait();
  summary.step = step_;
  summary.tokens = tokens_;
  summary.heldout_loss = last_heldout_;
  summary.seconds = seconds_now() - begin_s;
  summary.interrupted = step_ < last_step;
  if (summary.interrupted) info("interrupted: step {} is saved; go on with --resume", step_);
  return summary;
}

}  // namespace rorqual
