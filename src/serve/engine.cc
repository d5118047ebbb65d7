#include "serve/engine.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/machine.h"
#include "serve/runner.h"

namespace rorqual {
namespace {

// The cache's memory: zeros that take no room before they are written.
struct Memory {
  explicit Memory(int64_t bytes) : data(std::calloc(static_cast<size_t>(bytes + 63), 1), std::free) {
    if (!data) fail("out of memory: the cache needs {} bytes; choose fewer --cache-tokens", bytes);
  }
  void* aligned() const { return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(data.get()) + 63) / 64 * 64); }
  std::unique_ptr<void, void (*)(void*)> data;
};

int64_t cache_pages(const EngineSettings& s, int64_t context, int64_t bytes_per_token) {
  const int64_t available = machine_memory().available_bytes;
  int64_t tokens = s.cache_tokens;
  if (tokens == 0) tokens = std::clamp(available / 4 / bytes_per_token, context, context * std::max<int64_t>(1, s.max_running));
  const int64_t pages = Sequence::pages_for(tokens);
  if (available > 0 &&
      static_cast<double>(pages * kPageTokens) * static_cast<double>(bytes_per_token) > static_cast<double>(available))
    fail_usage("a cache of {} tokens takes {:.1f} GiB, {:.1f} are free: choose a smaller one", tokens,
               static_cast<double>(pages * kPageTokens) * static_cast<double>(bytes_per_token) / 0x1p30,
               static_cast<double>(available) / 0x1p30);
  return pages;
}

EngineSettings checked(const EngineSettings& s, const ModelConfig& config) {
  if (s.cache_tokens < 0) fail_usage("cache tokens = {} must be 0 (automatic) or more", s.cache_tokens);
  if (s.batch_tokens < 1) fail_usage("batch tokens = {} must be above 0", s.batch_tokens);
  if (s.max_running < 1) fail_usage("max running = {} must be above 0", s.max_running);
  if (s.max_waiting_tokens < 0) fail_usage("max waiting tokens = {} must be 0 or more", s.max_waiting_tokens);
  if (s.draft_tokens < 0 || s.draft_tokens > config.num_nextn_predict_layers)
    fail_usage("draft tokens = {}: the model has {} modules that predict further tokens", s.draft_tokens,
               config.num_nextn_predict_layers);
  return s;
}

}  // namespace

class Engine::Impl {
 public:
  Impl(const EngineModel& model, const EngineSettings& settings)
      : model_(model),
        settings_(checked(settings, model.model.config())),
        inference_(model.model, settings.draft_tokens, model.stream),
        pages_(cache_pages(settings, model.model.config().max_position_embeddings, inference_.cache_bytes_per_token())),
        memory_(pages_ * kPageTokens * inference_.cache_bytes_per_token()),
        cache_(inference_.make_cache(memory_.aligned(), pages_)),
        scheduler_({pages_, settings.batch_tokens, settings.max_running, settings.prefix_cache}),
        runner_(inference_, model.tokenizer, cache_, model.work, model.stream) {
    stats_.cache_blocks = pages_;
    thread_ = std::thread([this] { loop(); });
  }

  ~Impl() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  int64_t context() const { return std::min(model_.model.config().max_position_embeddings, pages_ * kPageTokens); }

  uint64_t submit(EngineRequest&& request) {
    check(request);
    std::unique_lock lock(mutex_);
    auto sequence = std::make_unique<Sequence>(next_id_, std::move(request), context());
    if (waiting_tokens_ > 0 && waiting_tokens_ + sequence->limit > settings_.max_waiting_tokens) {
      const double seconds = static_cast<double>(waiting_tokens_) / std::max(1.0, tokens_per_s_);
      throw EngineFull(std::chrono::seconds(std::clamp<int64_t>(static_cast<int64_t>(seconds) + 1, 1, 60)));
    }
    waiting_tokens_ += sequence->limit;
    ++stats_.waiting;
    incoming_.push_back(std::move(sequence));
    const uint64_t id = next_id_++;
    lock.unlock();
    wake_.notify_one();
    return id;
  }

  void cancel(uint64_t id) {
    {
      const std::lock_guard lock(mutex_);
      cancelled_.push_back(id);
    }
    wake_.notify_one();
  }

  EngineStats stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  void check(const EngineRequest& r) const {
    const auto size = static_cast<int64_t>(r.prompt.size());
    if (size == 0) fail_usage("the prompt is empty, and there is no begin-of-sentence token to start from");
    if (size >= context() + (r.max_tokens == 0 ? 1 : 0))
      fail_usage("the prompt has {} tokens, the {} is {}: shorten it", size,
                 context() < model_.model.config().max_position_embeddings ? "room of the cache" : "model's context",
                 context());
    for (const int32_t token : r.prompt)
      if (token < 0 || token >= model_.model.config().vocab_size)
        fail_usage("token {} of the prompt lies outside the vocabulary of {}", token, model_.model.config().vocab_size);
    if (r.max_tokens < 0) fail_usage("max tokens = {} must be 0 or more", r.max_tokens);
    validate(r.sampling);
  }

  // Takes what came since the last step; false: the engine ends.
  bool receive() {
    std::unique_lock lock(mutex_);
    if (scheduler_.idle()) wake_.wait(lock, [&] { return stop_ || !incoming_.empty() || !cancelled_.empty(); });
    if (stop_) return false;
    for (auto& s : incoming_) scheduler_.add(std::move(s));
    incoming_.clear();
    for (const uint64_t id : cancelled_)
      if (Sequence* s = scheduler_.find(id)) s->end(FinishReason::kCancelled);
    cancelled_.clear();
    return true;
  }

  // Frees what finished, brings the figures up to date, then tells: who hears of the end finds its pages free.
  void settle(const std::vector<StepPart>& plan, double seconds) {
    int64_t rows = 0;
    std::vector<Sequence*> going;
    for (const StepPart& p : plan) {
      rows += p.rows;
      if (!p.sequence->finish) going.push_back(p.sequence);
    }
    const std::vector<std::unique_ptr<Sequence>> finished = scheduler_.settle();
    {
      const std::lock_guard lock(mutex_);
      if (rows > 0) {
        ++stats_.steps;
        const double rate = static_cast<double>(rows) / std::max(seconds, 1e-6);
        tokens_per_s_ = tokens_per_s_ == 0 ? rate : 0.9 * tokens_per_s_ + 0.1 * rate;
      }
      count(finished);
    }
    for (Sequence* s : going) s->report();
    for (const auto& s : finished) s->report();
  }

  void count(const std::vector<std::unique_ptr<Sequence>>& finished) {
    for (const auto& s : finished) {
      const TokenUsage& u = s->usage;
      ++(s->finish == FinishReason::kCancelled ? stats_.cancelled : stats_.finished);
      done_.prompt_tokens += u.prompt_tokens;
      done_.generated_tokens += u.generated_tokens;
      done_.drafted_tokens += u.drafted_tokens;
      done_.accepted_tokens += u.accepted_tokens;
    }
    TokenUsage all = done_;
    waiting_tokens_ = 0;
    scheduler_.visit([&](Sequence& s) {
      if (!s.admitted) waiting_tokens_ += s.limit;
      if (s.admitted) all.prompt_tokens += s.usage.prompt_tokens;
      all.generated_tokens += s.usage.generated_tokens;
      all.drafted_tokens += s.usage.drafted_tokens;
      all.accepted_tokens += s.usage.accepted_tokens;
    });
    for (const auto& s : incoming_) waiting_tokens_ += s->limit;
    stats_.prompt_tokens = all.prompt_tokens;
    stats_.generated_tokens = all.generated_tokens;
    stats_.drafted_tokens = all.drafted_tokens;
    stats_.accepted_tokens = all.accepted_tokens;
    stats_.running = scheduler_.running();
    stats_.waiting = static_cast<int64_t>(scheduler_.waiting().size() + incoming_.size());
    stats_.cache_blocks_used = scheduler_.pool().used();
    stats_.preemptions = scheduler_.preemptions();
    stats_.prefix_hit_tokens = scheduler_.prefix_hit_tokens();
    stats_.prefix_asked_tokens = scheduler_.prefix_asked_tokens();
  }

  void loop() {
    while (receive()) {
      settle({}, 0);  // what was cancelled
      std::vector<StepPart> plan;
      const double begin = seconds_now();
      try {
        plan = scheduler_.plan();
        if (!plan.empty()) runner_.run(plan);
      } catch (const std::exception& e) {
        const bool none_ran = scheduler_.running() == 0;
        scheduler_.visit([&](Sequence& s) {
          if (none_ran || !s.pages.empty()) s.end(FinishReason::kFailed, e.what());
        });
        plan.clear();
      }
      if (!plan.empty() || !scheduler_.idle()) settle(plan, seconds_now() - begin);
    }
    {
      const std::lock_guard lock(mutex_);
      for (auto& s : incoming_) scheduler_.add(std::move(s));
      incoming_.clear();
    }
    scheduler_.visit([&](Sequence& s) { s.end(FinishReason::kCancelled); });
    settle({}, 0);
  }

  EngineModel model_;
  EngineSettings settings_;
  InferenceModel inference_;
  int64_t pages_;
  Memory memory_;
  PagedCache cache_;
  Scheduler scheduler_;  // the engine's thread alone, like runner_
  StepRunner runner_;

  mutable std::mutex mutex_;  // of what follows
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Sequence>> incoming_;
  std::vector<uint64_t> cancelled_;
  EngineStats stats_;
  TokenUsage done_;  // of finished requests
  int64_t waiting_tokens_ = 0;
  double tokens_per_s_ = 0;
  uint64_t next_id_ = 1;
  bool stop_ = false;
  std::thread thread_;
};

Engine::Engine(LoadedModel& model, const EngineSettings& settings)
    : loaded_(&model),
      impl_(std::make_unique<Impl>(EngineModel{model.model(), model.tokenizer(), model.work(), model.stream()}, settings)) {}
Engine::Engine(const EngineModel& model, const EngineSettings& settings) : impl_(std::make_unique<Impl>(model, settings)) {}
Engine::~Engine() = default;

uint64_t Engine::submit(EngineRequest request) {
  return impl_->submit(std::move(request));
}
void Engine::cancel(uint64_t id) {
  impl_->cancel(id);
}
int64_t Engine::context_tokens() const {
  return impl_->context();
}
EngineStats Engine::stats() const {
  return impl_->stats();
}
const LoadedModel& Engine::model() const {
  CHECK(loaded_ != nullptr, "the engine runs no loaded model");
  return *loaded_;
}

}  // namespace rorqual
