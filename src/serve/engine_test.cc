// The engine over a random model: a request's tokens and logprobs, bit for bit, whatever else happens.
#include "serve/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <future>
#include <map>

#include "base/rng.h"

namespace rorqual {
namespace {

ModelConfig engine_config(int64_t drafts) {
  ModelConfig c;
  c.vocab_size = 270;
  c.hidden_size = 16;
  c.intermediate_size = 24;
  c.moe_intermediate_size = 8;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 2;
  c.q_lora_rank = 8;
  c.kv_lora_rank = 8;
  c.qk_nope_head_dim = 8;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 8;
  c.n_routed_experts = 4;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = drafts;
  c.max_position_embeddings = 512;
  return c;
}

const Tokenizer& bytes_tokenizer() {
  static const Tokenizer tokenizer = [] {
    ThreadPool pool(1);
    const std::string_view document = "abc";
    return train_tokenizer({.vocab_size = 262, .min_frequency = 2}, {&document, 1}, Stream(pool));
  }();
  return tokenizer;
}

struct TestModel {
  explicit TestModel(const std::string& precision = "bf16", int threads = 2, int64_t drafts = 2)
      : pool(threads),
        stream(pool),
        weights(engine_config(drafts), precision_from_name(precision), false, arena),
        model(engine_config(drafts), weights, 1, arena) {
    weights.initialise(0.4, 5, stream);
    weights.pack(stream);
  }
  EngineModel view() { return {model, bytes_tokenizer(), work, stream}; }
  ThreadPool pool;
  Stream stream;
  Arena arena;
  Workspace work{nullptr};
  Weights weights;
  Model model;
};

struct Result {
  std::vector<GeneratedToken> tokens, prompt;
  std::string text, error;
  FinishReason finish = FinishReason::kFailed;
  TokenUsage usage;
};

std::vector<std::pair<int32_t, float>> bits_of(const std::vector<GeneratedToken>& tokens) {
  std::vector<std::pair<int32_t, float>> out;
  for (const GeneratedToken& t : tokens) {
    out.emplace_back(t.token, t.logprob);
    for (const TokenLogprob& p : t.top) out.emplace_back(p.token, p.logprob);
  }
  return out;
}

// Submits, and gathers the events.
std::future<Result> start(Engine& engine, EngineRequest request, uint64_t* id = nullptr) {
  struct State {
    Result result;
    std::promise<Result> done;
  };
  auto state = std::make_shared<State>();
  request.on_event = [state](EngineEvent&& e) {
    Result& r = state->result;
    r.tokens.insert(r.tokens.end(), e.tokens.begin(), e.tokens.end());
    r.prompt.insert(r.prompt.end(), e.prompt_tokens.begin(), e.prompt_tokens.end());
    r.text += e.text;
    r.usage = e.usage;
    r.error += e.error;
    if (!e.finish) return;
    r.finish = *e.finish;
    state->done.set_value(std::move(r));  // a second end would throw
  };
  std::future<Result> future = state->done.get_future();
  const uint64_t number = engine.submit(std::move(request));
  if (id) *id = number;
  return future;
}

std::vector<int32_t> prompt_of(uint64_t seed, int64_t length) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < length; ++i)
    tokens.push_back(static_cast<int32_t>(random_below({.seed = seed}, static_cast<uint64_t>(i), 256)));
  return tokens;
}

// Twelve requests of every kind: greedy and sampled, penalties, stops, prompts that begin alike, scored prompts.
EngineRequest request_of(size_t i) {
  EngineRequest r;
  r.prompt = prompt_of(i % 3, 3 + static_cast<int64_t>(i * 29 % 150));
  if (i % 4 == 1) r.prompt.back() = 7;
  r.max_tokens = 10 + static_cast<int64_t>(i * 7 % 60);
  r.sampling.seed = i;
  r.sampling.temperature = i % 3 == 0 ? 0 : 0.8;
  if (i % 5 == 1) r.sampling.top_p = 0.9;
  if (i % 5 == 2) r.sampling.top_k = 20;
  if (i % 5 == 3) r.sampling.frequency_penalty = 0.5, r.sampling.repetition_penalty = 1.2;
  if (i % 6 == 4) r.stop = {"ab", "\n"};
  r.logprobs = static_cast<int64_t>(i % 3);
  r.prompt_logprobs = i % 4 == 2;
  return r;
}
constexpr size_t kRequests = 12;

std::vector<Result> run_all(TestModel& model, const EngineSettings& settings, bool together, EngineStats* stats = nullptr) {
  Engine engine(model.view(), settings);
  std::vector<Result> results;
  std::vector<std::future<Result>> futures;
  for (size_t i = 0; i < kRequests; ++i) {
    futures.push_back(start(engine, request_of(i)));
    if (!together) futures.back().wait();
  }
  for (auto& f : futures) results.push_back(f.get());
  if (stats) *stats = engine.stats();
  EXPECT_EQ(engine.stats().cache_blocks_used, 0);
  return results;
}

void expect_same(const std::vector<Result>& got, const std::vector<Result>& want, const std::string& what) {
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(bits_of(got[i].tokens), bits_of(want[i].tokens)) << what << ", request " << i;
    EXPECT_EQ(bits_of(got[i].prompt), bits_of(want[i].prompt)) << what << ", request " << i;
    EXPECT_EQ(got[i].text, want[i].text) << what << ", request " << i;
    EXPECT_EQ(got[i].finish, want[i].finish) << what << ", request " << i;
  }
}

EngineSettings roomy() {
  EngineSettings s;
  s.cache_tokens = 4096;
  return s;
}

TEST(Engine, OutputDoesNotDependOnWhatElseHappens) {
  for (const std::string precision : {"bf16", "fp8"}) {
    TestModel model(precision);
    EngineSettings plain = roomy();
    plain.prefix_cache = false;
    const std::vector<Result> want = run_all(model, plain, false);
    int sampled = 0;
    for (const Result& r : want) sampled += static_cast<int>(r.tokens.size());
    EXPECT_GT(sampled, 200);
    expect_same(run_all(model, plain, true), want, "together");
    EngineStats stats;
    expect_same(run_all(model, roomy(), false, &stats), want, "prefix cache");
    EXPECT_GT(stats.prefix_hit_tokens, 0);
    for (const int64_t batch : {1, 70}) {
      EngineSettings s = roomy();
      s.batch_tokens = batch;
      expect_same(run_all(model, s, true), want, fmt::format("batches of {}", batch));
    }
    EngineSettings tiny = roomy();
    tiny.cache_tokens = 320;
    expect_same(run_all(model, tiny, true, &stats), want, "preemption");
    EXPECT_GT(stats.preemptions, 0);
    TestModel one(precision, 1);
    expect_same(run_all(one, roomy(), true), want, "one thread");
    for (const int64_t drafts : {1, 2}) {
      EngineSettings s = roomy();
      s.draft_tokens = drafts;
      expect_same(run_all(model, s, false), want, fmt::format("{} drafts", drafts));
      s.batch_tokens = 2;  // the last token of a prompt comes alone
      expect_same(run_all(model, s, false), want, fmt::format("{} drafts in small batches", drafts));
      s.cache_tokens = 384;
      s.batch_tokens = 30;
      expect_same(run_all(model, s, true, &stats), want, fmt::format("{} drafts, together in a small cache", drafts));
      EXPECT_GT(stats.drafted_tokens, 0);
    }
  }
}

// With a draft of everything right, each step gives two tokens: a greedy model whose module was made to agree.
TEST(Engine, CountsDrafts) {
  TestModel model("fp32");
  EngineSettings s = roomy();
  s.draft_tokens = 1;
  Engine engine(model.view(), s);
  EngineRequest r = request_of(0);
  r.max_tokens = 40;
  const Result result = start(engine, std::move(r)).get();
  EXPECT_GT(result.usage.drafted_tokens, 15);
  EXPECT_LE(result.usage.accepted_tokens, result.usage.drafted_tokens);
  // Every step gives one token and what was accepted.
  EXPECT_LE(result.usage.drafted_tokens + result.usage.accepted_tokens, result.usage.generated_tokens + 1);
}

TEST(Engine, StopsWhereItIsTold) {
  TestModel model;
  Engine engine(model.view(), roomy());
  EngineRequest r = request_of(3);
  r.max_tokens = 30;
  r.stop.clear();
  const auto again = [&](auto change) {
    EngineRequest c = request_of(3);
    c.max_tokens = 30;
    c.stop.clear();
    change(c);
    return start(engine, std::move(c)).get();
  };
  const Result whole = again([](EngineRequest&) {});
  ASSERT_EQ(whole.finish, FinishReason::kLength);
  ASSERT_EQ(whole.tokens.size(), 30u);
  const int32_t id = whole.tokens[12].token;
  const Result by_id = again([&](EngineRequest& c) { c.stop_ids = {id}; });
  EXPECT_EQ(by_id.finish, FinishReason::kStop);
  size_t first = 0;
  while (whole.tokens[first].token != id) ++first;
  EXPECT_EQ(by_id.tokens.size(), first);
  const std::string stop(1, *std::find_if(whole.text.begin() + 9, whole.text.end(), [](char c) { return c > ' ' && c < 127; }));
  const Result by_text = again([&](EngineRequest& c) { c.stop = {stop}; });
  EXPECT_EQ(by_text.finish, FinishReason::kStop);
  EXPECT_EQ(by_text.text, whole.text.substr(0, whole.text.find(stop)));
  const Result by_context = again([](EngineRequest& c) {
    c.max_tokens = 1 << 20;
    c.ignore_end = true;
  });
  EXPECT_EQ(by_context.finish, FinishReason::kContext);
  EXPECT_EQ(by_context.usage.prompt_tokens + by_context.usage.generated_tokens, engine.context_tokens());
  const Result none = again([](EngineRequest& c) {
    c.max_tokens = 0;
    c.prompt_logprobs = true;
  });
  EXPECT_EQ(none.finish, FinishReason::kLength);
  EXPECT_EQ(none.prompt.size(), request_of(3).prompt.size() - 1);
  EXPECT_EQ(none.tokens.size(), 0u);
}

TEST(Engine, ScoresPromptsAsModelScoreDoes) {
  TestModel model("fp64", 2, 0);
  Engine engine(model.view(), roomy());
  EngineRequest r;
  r.prompt = prompt_of(4, 100);
  r.max_tokens = 0;
  r.prompt_logprobs = true;
  const std::vector<int32_t> prompt = r.prompt;
  const Result result = start(engine, std::move(r)).get();
  const std::vector<double> nll = model.model.score({1, 99, prompt, {}}, model.work, model.stream);
  ASSERT_EQ(result.prompt.size(), nll.size());
  // Logits become FP32: a logprob of magnitude below 32 is off by a few 2^-19.
  for (size_t i = 0; i < nll.size(); ++i) EXPECT_NEAR(-static_cast<double>(result.prompt[i].logprob), nll[i], 1e-5) << i;
}

TEST(Engine, CancelFreesEverything) {
  TestModel model;
  EngineSettings s = roomy();
  s.max_running = 2;
  Engine engine(model.view(), s);
  std::vector<uint64_t> ids(5);
  std::vector<std::future<Result>> results;
  for (size_t i = 0; i < ids.size(); ++i) {
    EngineRequest r = request_of(0);
    r.max_tokens = 400;
    r.ignore_end = true;
    results.push_back(start(engine, std::move(r), &ids[i]));
  }
  for (const size_t i : {4, 0, 1, 3, 2}) {  // some run, some wait
    engine.cancel(ids[i]);
    const Result r = results[i].get();
    EXPECT_EQ(r.finish, FinishReason::kCancelled);
  }
  engine.cancel(ids[0]);
  engine.cancel(12345);
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.cache_blocks_used, 0);
  EXPECT_EQ(stats.running + stats.waiting, 0);
  EXPECT_EQ(stats.cancelled, 5);
}

TEST(Engine, EndsWhatRunsWithItself) {
  TestModel model;
  std::vector<std::future<Result>> results;
  {
    Engine engine(model.view(), roomy());
    for (size_t i = 0; i < 4; ++i) {
      EngineRequest r = request_of(0);
      r.max_tokens = 400;
      r.ignore_end = true;
      results.push_back(start(engine, std::move(r)));
    }
  }
  for (auto& r : results) EXPECT_EQ(r.get().finish, FinishReason::kCancelled);
}

TEST(Engine, AdmitsByTokens) {
  TestModel model;
  EngineSettings s = roomy();
  s.max_running = 1;
  s.max_waiting_tokens = 500;
  Engine engine(model.view(), s);
  const auto request = [] {
    EngineRequest r;
    r.prompt = prompt_of(1, 10);
    r.max_tokens = 300;
    r.ignore_end = true;
    return r;
  };
  std::vector<std::future<Result>> results;
  int full = 0;
  for (int i = 0; i < 5; ++i) try {
      results.push_back(start(engine, request()));
    } catch (const EngineFull& e) {
      ++full;
      EXPECT_GE(e.retry_after.count(), 1);
    }
  EXPECT_GE(full, 2);
  for (auto& r : results) EXPECT_EQ(r.get().usage.generated_tokens, 300);
}

TEST(Engine, RefusesWhatCannotRun) {
  TestModel model;
  EngineSettings s = roomy();
  s.cache_tokens = 128;
  Engine engine(model.view(), s);
  EXPECT_EQ(engine.context_tokens(), 128);
  const auto refused = [&](auto change) {
    EngineRequest r;
    r.prompt = {1, 2};
    change(r);
    EXPECT_THROW(engine.submit(std::move(r)), Error);
  };
  refused([](EngineRequest& r) { r.prompt.clear(); });
  refused([](EngineRequest& r) { r.prompt.resize(128); });
  refused([](EngineRequest& r) { r.prompt[0] = 270; });
  refused([](EngineRequest& r) { r.prompt[0] = -1; });
  refused([](EngineRequest& r) { r.max_tokens = -1; });
  refused([](EngineRequest& r) { r.sampling.top_p = 2; });
  refused([](EngineRequest& r) { r.stop = {""}; });
  EngineSettings wrong = roomy();
  wrong.draft_tokens = 3;
  EXPECT_THROW(Engine(model.view(), wrong), Error);
  wrong = roomy();
  wrong.cache_tokens = int64_t{1} << 50;
  EXPECT_THROW(Engine(model.view(), wrong), Error);
  EngineRequest longest;
  longest.prompt = prompt_of(0, 127);
  longest.ignore_end = true;
  EXPECT_EQ(start(engine, std::move(longest)).get().usage.generated_tokens, 1);
}

// χ² of the first three tokens of 3,000 seeds with drafts, two tokens allowed: 8 outcomes, whose probabilities the logprobs
// say; 7 degrees of freedom, the 0.1% point is 24.3. Seeds are fixed.
TEST(Engine, DraftedTokensFollowTheModelsDistribution) {
  TestModel model("fp32", 1, 1);
  EngineSettings s = roomy();
  s.draft_tokens = 1;
  s.batch_tokens = 90;  // cuts prompts
  Engine engine(model.view(), s);
  constexpr size_t kSeeds = 3000, kTokens = 3;
  std::vector<std::future<Result>> results;
  for (size_t i = 0; i < kSeeds; ++i) {
    EngineRequest r;
    r.prompt = prompt_of(6, 20);
    r.max_tokens = kTokens;
    r.ignore_end = true;
    r.logprobs = 270;
    r.sampling = {.temperature = 1, .seed = i};
    for (int32_t t = 0; t < 270; ++t)
      if (t != 40 && t != 41) r.sampling.logit_bias.emplace_back(t, -100);
    results.push_back(start(engine, std::move(r)));
  }
  std::map<std::vector<int32_t>, double> count, probability;
  int64_t accepted = 0;
  for (auto& f : results) {
    const Result r = f.get();
    std::vector<int32_t> outcome;
    double p = 1;
    for (const GeneratedToken& t : r.tokens) {
      outcome.push_back(t.token);
      double both = 0;
      for (const TokenLogprob& other : t.top)
        if (other.token == 40 || other.token == 41) both += std::exp(static_cast<double>(other.logprob));
      p *= std::exp(static_cast<double>(t.logprob)) / both;
    }
    ++count[outcome];
    probability[outcome] = p;
    accepted += r.usage.accepted_tokens;
  }
  EXPECT_GT(accepted, 1000);
  double chi = 0, total = 0;
  for (const auto& [outcome, p] : probability) {
    const double expected = p * kSeeds;
    chi += (count[outcome] - expected) * (count[outcome] - expected) / expected;
    total += p;
  }
  EXPECT_NEAR(total, 1, 1e-2) << "a likely outcome never came";
  EXPECT_LT(chi, 24.3);
}

// Digits only, then the end.
class Digits : public Constraint {
 public:
  explicit Digits(int left) : left_(left) {}
  void restrict_tokens(std::span<uint64_t> allowed) const override {
    std::vector<uint64_t> digits(allowed.size());
    for (const int32_t t : bytes_tokenizer().encode_ordinary("0123456789"))
      digits[static_cast<size_t>(t) / 64] |= uint64_t{1} << (t % 64);
    for (size_t i = 0; i < allowed.size(); ++i) allowed[i] &= digits[i];
  }
  void accept(int32_t) override { --left_; }
  bool finished() const override { return left_ == 0; }
  std::unique_ptr<Constraint> clone() const override { return std::make_unique<Digits>(left_); }

 private:
  int left_;
};

TEST(Engine, ObeysConstraintsWithAndWithoutDrafts) {
  TestModel model;
  std::vector<std::string> texts;
  for (const int64_t drafts : {0, 1, 2}) {
    EngineSettings s = roomy();
    s.draft_tokens = drafts;
    Engine engine(model.view(), s);
    EngineRequest r = request_of(1);
    r.constraint = std::make_unique<Digits>(9);
    const Result result = start(engine, std::move(r)).get();
    EXPECT_EQ(result.finish, FinishReason::kStop);
    EXPECT_EQ(result.text.size(), 9u) << result.text;
    EXPECT_EQ(result.text.find_first_not_of("0123456789"), std::string::npos);
    texts.push_back(result.text);
    EngineRequest never = request_of(1);
    never.sampling.logit_bias.clear();
    for (const int32_t t : bytes_tokenizer().encode_ordinary("0123456789")) never.sampling.logit_bias.emplace_back(t, -100);
    never.constraint = std::make_unique<Digits>(3);
    EXPECT_EQ(start(engine, std::move(never)).get().finish, FinishReason::kFailed);
  }
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_EQ(texts[0], texts[2]);
}

// Thousands of random requests, some cancelled at random moments, in a cache that is always too small.
TEST(Engine, LosesNoBlocks) {
  TestModel model;
  for (const int64_t drafts : {0, 2}) {
    EngineSettings s;
    s.cache_tokens = 512;
    s.batch_tokens = 96;
    s.max_running = 20;
    s.draft_tokens = drafts;
    Engine engine(model.view(), s);
    std::vector<std::future<Result>> results;
    for (uint64_t i = 0; i < 1200; ++i) {
      const auto draw = [&](uint64_t what, uint64_t n) { return random_below({.seed = 77 + i}, what, n); };
      EngineRequest r;
      r.prompt = prompt_of(draw(0, 3), 1 + static_cast<int64_t>(draw(1, 4) == 0 ? draw(2, 200) : draw(2, 20)));
      r.max_tokens = static_cast<int64_t>(draw(3, 12));
      r.sampling.seed = i;
      uint64_t id = 0;
      results.push_back(start(engine, std::move(r), &id));
      if (draw(4, 5) == 0) engine.cancel(id - draw(5, std::min<uint64_t>(id, 6)));
    }
    int64_t cancelled = 0;
    for (auto& r : results) cancelled += r.get().finish == FinishReason::kCancelled ? 1 : 0;
    const EngineStats stats = engine.stats();
    EXPECT_EQ(stats.cache_blocks_used, 0);
    EXPECT_EQ(stats.running + stats.waiting, 0);
    EXPECT_EQ(stats.cancelled, cancelled);
    EXPECT_EQ(stats.finished + stats.cancelled, 1200);
    // All of the cache can still be had.
    EngineRequest longest;
    longest.prompt = prompt_of(9, 500);
    longest.max_tokens = 12;
    longest.ignore_end = true;
    EXPECT_EQ(start(engine, std::move(longest)).get().usage.generated_tokens, 12);
  }
}

}  // namespace
}  // namespace rorqual
