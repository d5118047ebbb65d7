#include "bench/serve.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>
#include <map>
#include <mutex>

#include "base/clock.h"
#include "base/error.h"
#include "base/rng.h"
#include "bench/compare.h"
#include "serve/engine.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kDecodePrompt = 16;
constexpr int64_t kTextPrompt = 64, kTextTokens = 64, kTextPrompts = 6;
constexpr int64_t kScoredWindows = 24;

// Recipes have no tokenizer yet: bytes.
const Tokenizer& byte_tokenizer() {
  static const Tokenizer tokenizer = [] {
    ThreadPool pool(1);
    const std::string_view document = "bytes";
    return train_tokenizer({.vocab_size = 262, .min_frequency = 2}, {&document, 1}, Stream(pool));
  }();
  return tokenizer;
}

// A model with random weights, as long as nobody trained one.
struct RandomModel {
  RandomModel(const ModelConfig& config, const std::string& precision)
      : pool(default_thread_count()),
        stream(pool),
        weights(config, precision_from_name(precision), false, arena),
        model(config, weights, 1, arena) {
    weights.initialise(config.initializer_range, 1, stream);
    weights.pack(stream);
  }
  ThreadPool pool;
  Stream stream;
  Arena arena;
  Workspace work{nullptr};
  Weights weights;
  Model model;
};

// What a wave of requests did.
struct Wave {
  double first_s = 0;   // from submitting to the last sequence's first token
  double decode_s = 0;  // from there to the end
  int64_t tokens = 0;   // in decode_s
  TokenUsage usage;
};

Wave run_wave(Engine& engine, const std::vector<std::vector<int32_t>>& prompts, int64_t max_tokens) {
  struct State {
    std::mutex mutex;
    size_t started = 0, ended = 0;
    double first_s = 0, end_s = 0;
    Wave wave;
    std::promise<void> done;
  } state;
  const double begin_s = seconds_now();
  for (const std::vector<int32_t>& prompt : prompts) {
    EngineRequest r;
    r.prompt = prompt;
    r.max_tokens = max_tokens;
    r.ignore_end = true;
    r.sampling.temperature = 0;
    r.on_event = [&state, count = prompts.size(), seen = false](EngineEvent&& e) mutable {
      const double now = seconds_now();
      const std::lock_guard lock(state.mutex);
      const auto n = static_cast<int64_t>(e.tokens.size());
      if (state.started == count) state.wave.tokens += n;
      if (!seen && n > 0) {
        seen = true;
        if (++state.started == count) state.first_s = now;
      }
      if (!e.finish) return;
      state.wave.usage.generated_tokens += e.usage.generated_tokens;
      state.wave.usage.drafted_tokens += e.usage.drafted_tokens;
      state.wave.usage.accepted_tokens += e.usage.accepted_tokens;
      if (++state.ended < count) return;
      state.end_s = now;
      state.done.set_value();
    };
    engine.submit(std::move(r));
  }
  state.done.get_future().wait();
  const std::lock_guard lock(state.mutex);
  state.wave.first_s = state.first_s - begin_s;
  state.wave.decode_s = state.end_s - state.first_s;
  return state.wave;
}

std::vector<int32_t> random_prompt(int64_t length, uint64_t number, int64_t vocabulary) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < length; ++i)
    tokens.push_back(static_cast<int32_t>(
        random_below({.seed = 7, .step = number}, static_cast<uint64_t>(i), static_cast<uint64_t>(vocabulary))));
  return tokens;
}

// One precision's model, engines and timings.
class Side {
 public:
  Side(const ServeBenchRequest& request, const std::string& precision) : request_(request), precision_(precision) {
    const double begin_s = seconds_now();
    if (request.model) {
      loaded_ = std::make_unique<LoadedModel>(*request.model, precision, false, !request.text.empty());
    } else {
      random_ = std::make_unique<RandomModel>(request.config, precision);
    }
    engine_ = std::make_unique<Engine>(view(), settings(0));
    run_wave(*engine_, {random_prompt(8, 1, config().vocab_size)}, 1);
    cold_start_s_ = seconds_now() - begin_s;
  }

  const ModelConfig& config() const { return view_model().config(); }
  int64_t prefill_tokens() const { return std::min(request_.prompt_tokens, engine_->context_tokens() - 1); }
  int64_t decode_tokens() const { return std::min(request_.decode_tokens, engine_->context_tokens() - kDecodePrompt); }

  void prefill_once(uint64_t number) {
    prefill_s_.push_back(run_wave(*engine_, {random_prompt(prefill_tokens(), 1000 + number, config().vocab_size)}, 1).first_s);
  }
  void decode_once(int64_t batch, uint64_t number) {
    std::vector<std::vector<int32_t>> prompts;
    for (int64_t i = 0; i < batch; ++i)
      prompts.push_back(random_prompt(kDecodePrompt, 100000 * (number + 1) + static_cast<uint64_t>(i), config().vocab_size));
    const Wave wave = run_wave(*engine_, prompts, decode_tokens());
    decode_rate_[batch].push_back(static_cast<double>(wave.tokens) / wave.decode_s);
  }

  bool speculates() const { return loaded_ != nullptr && config().num_nextn_predict_layers > 0 && !request_.text.empty(); }
  Json speculation();
  Json result();

 private:
  EngineModel view() {
    if (loaded_) return {loaded_->model(), loaded_->tokenizer(), loaded_->work(), loaded_->stream()};
    return {random_->model, byte_tokenizer(), random_->work, random_->stream};
  }
  const Model& view_model() const { return loaded_ ? loaded_->model() : random_->model; }
  EngineSettings settings(int64_t drafts) const {
    EngineSettings s;
    s.prefix_cache = false;
    s.draft_tokens = drafts;
    const int64_t most = *std::max_element(request_.batches.begin(), request_.batches.end());
    s.cache_tokens =
        std::max(view_model().config().max_position_embeddings, most * (kDecodePrompt + request_.decode_tokens + 64));
    s.batch_tokens = std::max(s.batch_tokens, request_.prompt_tokens);
    return s;
  }
  void acceptance(const std::vector<int32_t>& tokens, Json& out);

  const ServeBenchRequest& request_;
  std::string precision_;
  std::unique_ptr<LoadedModel> loaded_;
  std::unique_ptr<RandomModel> random_;
  std::unique_ptr<Engine> engine_;
  double cold_start_s_ = 0;
  std::vector<double> prefill_s_;
  std::map<int64_t, std::vector<double>> decode_rate_;
};

// How often a draft is the model's likeliest token, behind every prefix of windows of the text's second half.
void Side::acceptance(const std::vector<int32_t>& tokens, Json& out) {
  const size_t half = tokens.size() / 2;
  std::map<int32_t, std::map<int32_t, int64_t>> successors;
  for (size_t i = 0; i + 1 < half; ++i) ++successors[tokens[i]][tokens[i + 1]];
  std::map<int32_t, int32_t> bigram;
  for (const auto& [token, counts] : successors)
    bigram[token] =
        std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; })->first;
  const int64_t length = std::min<int64_t>(config().max_position_embeddings, 256), vocabulary = config().vocab_size;
  const auto likeliest = [&](const std::vector<double>& logits, int64_t row) {
    const auto begin = logits.begin() + row * vocabulary;
    return static_cast<int32_t>(std::max_element(begin, begin + vocabulary) - begin);
  };
  int64_t asked = 0, by_mtp = 0, by_bigram = 0;
  for (int64_t w = 0; w < kScoredWindows; ++w) {
    const size_t begin = half + static_cast<size_t>(w * length);
    if (begin + static_cast<size_t>(length) + 1 > tokens.size()) break;
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
    const MicroBatch batch{1, length, {first, first + length + 1}, {}};
    const std::vector<double> main = loaded_->model().logits(batch, loaded_->work(), loaded_->stream());
    const std::vector<double> mtp = loaded_->model().mtp_logits(batch, 1, loaded_->work(), loaded_->stream());
    for (int64_t i = 0; i + 1 < length; ++i, ++asked) {
      const int32_t right = likeliest(main, i + 1);  // behind token i + 1
      const auto guess = bigram.find(batch.tokens[static_cast<size_t>(i) + 1]);
      by_mtp += likeliest(mtp, i) == right ? 1 : 0;
      by_bigram += guess != bigram.end() && guess->second == right ? 1 : 0;
    }
  }
  if (asked == 0) return;
  out["text_tokens"] = asked;
  out["mtp_acceptance"] = static_cast<double>(by_mtp) / static_cast<double>(asked);
  out["bigram_acceptance"] = static_cast<double>(by_bigram) / static_cast<double>(asked);
}

Json Side::speculation() {
  Json out;
  std::vector<int32_t> tokens;
  loaded_->tokenizer().encode_ordinary(request_.text, tokens);
  engine_.reset();
  acceptance(tokens, out);
  const int64_t room = config().max_position_embeddings;
  const int64_t prompt = std::min(kTextPrompt, room / 2), generated = std::min(kTextTokens, room - prompt);
  Engine plain(view(), settings(0));
  std::vector<double> with_s, without_s, ratios;
  TokenUsage usage;
  {
    // Two engines share the model's workspace: one works at a time.
    Engine drafting(view(), settings(1));
    for (int64_t i = 0; i < kTextPrompts; ++i) {
      const size_t at = tokens.size() / 2 + static_cast<size_t>(i) * (tokens.size() / 2 / kTextPrompts);
      if (at + static_cast<size_t>(prompt) > tokens.size()) break;
      std::vector<int32_t> p;
      if (const auto bos = loaded_->tokenizer().bos_id()) p.push_back(*bos);
      for (size_t t = at; static_cast<int64_t>(p.size()) < prompt; ++t) p.push_back(tokens[t]);
      const Wave without = run_wave(plain, {p}, generated), with = run_wave(drafting, {p}, generated);
      usage.generated_tokens += with.usage.generated_tokens;
      usage.drafted_tokens += with.usage.drafted_tokens;
      usage.accepted_tokens += with.usage.accepted_tokens;
      with_s.push_back(with.decode_s / static_cast<double>(std::max<int64_t>(1, with.tokens)));
      without_s.push_back(without.decode_s / static_cast<double>(std::max<int64_t>(1, without.tokens)));
      ratios.push_back(without_s.back() / with_s.back());
    }
  }
  if (ratios.empty()) return out;
  out["generated_tokens"] = usage.generated_tokens;
  out["drafted_tokens"] = usage.drafted_tokens;
  out["accepted_tokens"] = usage.accepted_tokens;
  out["tokens_per_s"] = 1 / median(with_s);
  out["tokens_per_s_without"] = 1 / median(without_s);
  out["speed_up"] = median(ratios);
  return out;
}

Json Side::result() {
  Json j;
  j["precision"] = precision_;
  if (loaded_) j["cold_start_s"] = cold_start_s_;
  const double prefill = median(prefill_s_);
  j["prefill"] = {{"tokens", prefill_tokens()},
                  {"tokens_per_s", static_cast<double>(prefill_tokens()) / prefill},
                  {"time_to_first_token_ms", 1e3 * prefill}};
  j["decode"] = Json::array();
  for (const auto& [batch, rates] : decode_rate_)
    j["decode"].push_back(
        {{"batch", batch}, {"prompt_tokens", kDecodePrompt}, {"tokens", decode_tokens()}, {"tokens_per_s", median(rates)}});
  if (speculates()) j["speculation"] = speculation();
  return j;
}

}  // namespace

Json bench_serve(const ServeBenchRequest& request) {
  if (request.batches.empty() || request.precisions.empty()) fail_usage("nothing to measure: give precisions and batches");
  std::vector<std::unique_ptr<Side>> sides;
  for (const std::string& precision : request.precisions) sides.push_back(std::make_unique<Side>(request, precision));
  if (sides.front()->decode_tokens() < 2)
    fail_usage("the context of {} tokens leaves no room to decode", sides.front()->config().max_position_embeddings);
  for (int round = 0; round < request.rounds; ++round) {
    const auto number = static_cast<uint64_t>(round);
    for (auto& side : sides) side->prefill_once(number);
    for (const int64_t batch : request.batches)
      for (auto& side : sides) side->decode_once(batch, number);
  }
  Json j;
  j["threads"] = default_thread_count();
  j["context_tokens"] = sides.front()->config().max_position_embeddings;
  j["rounds"] = request.rounds;
  j["precisions"] = Json::array();
  for (auto& side : sides) j["precisions"].push_back(side->result());
  return j;
}

std::string serve_table(const Json& result) {
  std::string text =
      fmt::format("{} threads, median of {} rounds\n", result["threads"].get<int>(), result["rounds"].get<int>());
  for (const Json& p : result["precisions"]) {
    text += p["precision"].get<std::string>() + "\n";
    if (p.contains("cold_start_s"))
      text += fmt::format("  cold start to the first token {:.2f} s\n", p["cold_start_s"].get<double>());
    text += fmt::format("  prefill {:>4} tokens {:>10.1f} tokens/s   first token {:.1f} ms\n",
                        p["prefill"]["tokens"].get<int64_t>(), p["prefill"]["tokens_per_s"].get<double>(),
                        p["prefill"]["time_to_first_token_ms"].get<double>());
    for (const Json& d : p["decode"])
      text += fmt::format("  decode  batch {:>3}   {:>10.1f} tokens/s\n", d["batch"].get<int64_t>(),
                          d["tokens_per_s"].get<double>());
    if (!p.contains("speculation") || !p["speculation"].contains("speed_up")) continue;
    const Json& s = p["speculation"];
    if (s.contains("mtp_acceptance"))
      text += fmt::format("  drafts right on the text: MTP {:.1f}%, bigram {:.1f}%\n", 100 * s["mtp_acceptance"].get<double>(),
                          100 * s["bigram_acceptance"].get<double>());
    text += fmt::format("  drafting: {:.1f} tokens/s instead of {:.1f}, {:.2f} times as fast; {} of {} drafts right\n",
                        s["tokens_per_s"].get<double>(), s["tokens_per_s_without"].get<double>(), s["speed_up"].get<double>(),
                        s["accepted_tokens"].get<int64_t>(), s["drafted_tokens"].get<int64_t>());
  }
  return text;
}

}  // namespace rorqual
