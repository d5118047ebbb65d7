#include "serve/api_generation.h"

#include <ctime>

#include "base/clock.h"
#include "base/error.h"
#include "serve/api_json.h"

namespace rorqual {
namespace {

struct Choice {
  size_t prompt = 0;
  uint64_t id = 0;   // of the engine
  std::string text;  // of an answer that is no stream
  ApiJson logprobs;
  int64_t offset = 0;  // characters, for a completion's logprobs
  bool echo_due = false;
  ToolCallParser parser;
  std::vector<ToolCall> calls;
  std::string finish;  // empty: runs
  TokenUsage usage;
  double last_s = 0;
  int64_t seen = 0;  // tokens
};

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  Generation(GenerationJob&& job, const std::shared_ptr<ServedModel>& model, std::shared_ptr<HttpExchange> exchange,
             ServeMetrics& metrics)
      : job_(std::move(job)),
        model_(model),
        name_(model->name),
        tokenizer_(model->tokenizer()),
        exchange_(std::move(exchange)),
        metrics_(metrics),
        id_(new_id(job_.chat ? "chatcmpl-" : "cmpl-")),
        created_(static_cast<int64_t>(std::time(nullptr))) {}

  void start(const PostTask& post) {
    submit_all(post);
    exchange_->on_end([weak = weak_from_this()](HttpEnd reason) {
      if (const auto self = weak.lock()) self->end(reason);
    });
    if (!job_.options.stream) return;
    exchange_->begin({200, "text/event-stream; charset=utf-8", "", {{"X-Accel-Buffering", "no"}}});
    if (job_.chat)
      for (size_t i = 0; i < choices_.size(); ++i) send_choice(i, {{"role", "assistant"}, {"content", ""}}, nullptr, "");
  }

 private:
  bool scores() const { return job_.options.logprobs >= 0; }

  EngineRequest request_of(size_t index, uint64_t seed, const PostTask& post) {
    const GenerationOptions& o = job_.options;
    const auto n = static_cast<size_t>(o.n);
    EngineRequest r;
    r.prompt = job_.prompts[index / n];
    r.sampling = o.sampling;
    r.sampling.seed = choice_seed(seed, static_cast<int64_t>(index % n));
    r.max_tokens = o.max_tokens.value_or(INT32_MAX);
    r.stop = o.stop;
    r.logprobs = o.logprobs;
    r.prompt_logprobs = scores() && !job_.echo.empty();
    r.constraint = constraint_ ? constraint_->clone() : nullptr;
    r.on_event = [self = shared_from_this(), post, index](EngineEvent&& e) {
      post([self, index, event = std::move(e)] { self->on_event(index, event); });
    };
    return r;
  }

  void submit_all(const PostTask& post) {
    const auto model = model_.lock();
    const GenerationOptions& o = job_.options;
    constraint_ = model->constraints.compile(o.response_format, job_.forced_end.empty() ? "response_format" : "tools");
    const uint64_t seed = o.seed ? *o.seed : random_seed();
    choices_.resize(job_.prompts.size() * static_cast<size_t>(o.n));
    for (size_t i = 0; i < choices_.size(); ++i) {
      choices_[i].prompt = i / static_cast<size_t>(o.n);
      choices_[i].echo_due = !job_.echo.empty();
      if (!job_.forced.empty()) choices_[i].parser.add(job_.forced, false);
    }
    try {
      for (size_t i = 0; i < choices_.size(); ++i) {
        choices_[i].id = model->engine.submit(request_of(i, seed, post));
        ++running_;
      }
    } catch (const EngineFull& full) {
      abandon();
      ApiError error(429, "the server has as much to do as it takes on: try again later", {}, "engine_full");
      error.retry_after = full.retry_after;
      throw error;
    } catch (const Error& e) {
      abandon();
      throw ApiError(400, e.what());
    }
  }

  // What is submitted runs no further; its events are passed over.
  void abandon() {
    gone_ = true;
    cancel();
    exchange_.reset();
  }
  void cancel() {
    const auto model = model_.lock();
    for (const Choice& c : choices_)
      if (model && c.id != 0 && c.finish.empty()) model->engine.cancel(c.id);
  }
  void end(HttpEnd reason) {
    if (reason == HttpEnd::kGone) return abandon();
    ended_ = reason;
    cancel();
  }

  void on_event(size_t index, const EngineEvent& e) {
    if (gone_ || !exchange_) return;
    Choice& c = choices_[index];
    count(c, e);
    if (e.finish == FinishReason::kFailed) return fail_all(500, e.error.empty() ? "the model failed" : e.error);
    if (e.finish == FinishReason::kCancelled && !ended_) return fail_all(503, "the model was unloaded");
    // A stream that the server ends is finished as if it had reached its length; a whole answer would hide what is missing.
    if (e.finish == FinishReason::kCancelled && !job_.options.stream)
      return fail_all(ended_ == HttpEnd::kStopping ? 503 : 504,
                      ended_ == HttpEnd::kStopping ? "the server is stopping" : "the request took too long");
    const ApiJson logprobs = logprobs_of(c, e);
    std::string text = std::exchange(c.echo_due, false) ? job_.echo[c.prompt] + e.text : e.text;
    ToolCallParser::Output out{std::move(text), {}};
    if (e.finish == FinishReason::kStop) out.content += job_.forced_end;
    if (job_.tools) out = c.parser.add(out.content, e.finish.has_value());
    if (e.finish) {
      c.usage = e.usage;
      const bool called = !c.calls.empty() || !out.calls.empty();
      c.finish = called && e.finish == FinishReason::kStop ? "tool_calls" : finish_word(*e.finish);
      --running_;
    }
    if (job_.options.stream)
      stream(index, out, logprobs);
    else
      keep(c, out, logprobs);
    c.calls.insert(c.calls.end(), out.calls.begin(), out.calls.end());
    if (running_ == 0) finish();
  }

  void count(Choice& c, const EngineEvent& e) {
    const double now = seconds_now();
    ModelLatencies& l = metrics_.of(name_);
    const auto n = static_cast<int64_t>(e.tokens.size());
    for (int64_t i = 0; i < n; ++i) {
      if (c.seen++ == 0)
        l.first_token.add(now - begin_s_);
      else
        l.inter_token.add((now - c.last_s) / static_cast<double>(n));
    }
    if (n > 0) c.last_s = now;
    if (e.finish) l.request.add(now - begin_s_);
  }

  ApiJson logprobs_of(Choice& c, const EngineEvent& e) const {
    if (!scores()) return nullptr;
    if (job_.chat) return e.tokens.empty() ? ApiJson(nullptr) : chat_logprobs(tokenizer_, e.tokens);
    ApiJson all;
    const int32_t* first = job_.bos_added || job_.echo.empty() ? nullptr : &job_.prompts[c.prompt][0];
    if (!e.prompt_tokens.empty() || (c.echo_due && first))
      append_logprobs(
          all, completion_logprobs(tokenizer_, c.echo_due ? first : nullptr, e.prompt_tokens, job_.options.logprobs, c.offset));
    if (!e.tokens.empty())
      append_logprobs(all, completion_logprobs(tokenizer_, nullptr, e.tokens, job_.options.logprobs, c.offset));
    return all;
  }

  // ---- streams
  ApiJson chunk() const {
    ApiJson j = {{"id", id_},
                 {"object", job_.chat ? "chat.completion.chunk" : "text_completion"},
                 {"created", created_},
                 {"model", name_},
                 {"choices", ApiJson::array()}};
    if (job_.options.include_usage) j["usage"] = nullptr;
    return j;
  }
  void send_choice(size_t index, const ApiJson& content, const ApiJson& logprobs, const std::string& finish_reason) {
    ApiJson choice = {{"index", index}};
    choice[job_.chat ? "delta" : "text"] = content;
    choice["logprobs"] = logprobs;
    choice["finish_reason"] = finish_reason.empty() ? ApiJson(nullptr) : ApiJson(finish_reason);
    ApiJson j = chunk();
    j["choices"].push_back(std::move(choice));
    exchange_->send(sse(j));
  }
  void stream(size_t index, const ToolCallParser::Output& out, const ApiJson& logprobs) {
    const Choice& c = choices_[index];
    if (!job_.chat) {
      if (!out.content.empty() || !logprobs.is_null() || !c.finish.empty()) send_choice(index, out.content, logprobs, c.finish);
      return;
    }
    if (!out.content.empty() || !logprobs.is_null()) send_choice(index, {{"content", out.content}}, logprobs, "");
    for (size_t i = 0; i < out.calls.size(); ++i)
      send_choice(index, {{"tool_calls", tool_calls_json({out.calls[i]}, c.calls.size() + i, true)}}, nullptr, "");
    if (!c.finish.empty()) send_choice(index, ApiJson::object(), nullptr, c.finish);
  }

  // ---- whole answers
  static void keep(Choice& c, const ToolCallParser::Output& out, const ApiJson& logprobs) {
    c.text += out.content;
    if (logprobs.is_null()) return;
    if (logprobs.contains("content") && !c.logprobs.is_null())
      for (const ApiJson& t : logprobs["content"]) c.logprobs["content"].push_back(t);
    else
      append_logprobs(c.logprobs, logprobs);
  }
  ApiJson whole_choice(size_t index) const {
    const Choice& c = choices_[index];
    ApiJson j = {{"index", index}};
    if (job_.chat) {
      ApiJson message = {{"role", "assistant"}, {"content", c.text}, {"refusal", nullptr}};
      if (!c.calls.empty()) {
        if (c.text.empty()) message["content"] = nullptr;
        message["tool_calls"] = tool_calls_json(c.calls, 0, false);
      }
      j["message"] = std::move(message);
    } else {
      j["text"] = c.text;
    }
    j["logprobs"] = c.logprobs;
    j["finish_reason"] = c.finish;
    return j;
  }

  // A prompt counts once, however many choices go on from it.
  TokenUsage usage() const {
    TokenUsage all;
    for (size_t i = 0; i < choices_.size(); ++i) {
      TokenUsage u = choices_[i].usage;
      if (i % static_cast<size_t>(job_.options.n) != 0) u.prompt_tokens = u.cached_prompt_tokens = 0;
      add_usage(all, u);
    }
    return all;
  }

  void finish() {
    const auto exchange = std::exchange(exchange_, nullptr);
    if (job_.options.stream) {
      if (job_.options.include_usage) {
        ApiJson j = chunk();
        j["usage"] = usage_json(usage());
        exchange->send(sse(j));
      }
      exchange->send("data: [DONE]\n\n");
      exchange->finish();
    } else {
      ApiJson j = {{"id", id_},
                   {"object", job_.chat ? "chat.completion" : "text_completion"},
                   {"created", created_},
                   {"model", name_},
                   {"choices", ApiJson::array()}};
      for (size_t i = 0; i < choices_.size(); ++i) j["choices"].push_back(whole_choice(i));
      j["usage"] = usage_json(usage());
      metrics_.count_answer(200);
      exchange->answer({200, "application/json", dump_json(j), {}});
      return;
    }
    metrics_.count_answer(200);
  }

  void fail_all(int status, const std::string& message) {
    gone_ = true;
    cancel();
    const auto exchange = std::exchange(exchange_, nullptr);
    const ApiError error(status, message);
    metrics_.count_answer(status);
    if (!job_.options.stream) return exchange->answer({status, "application/json", dump_json(error_json(error)), {}});
    exchange->send(sse(error_json(error)));
    exchange->send("data: [DONE]\n\n");
    exchange->finish();
  }

  const GenerationJob job_;
  const std::weak_ptr<ServedModel> model_;  // weak: the engine's requests hold this object
  const std::string name_;
  const Tokenizer tokenizer_;
  std::shared_ptr<HttpExchange> exchange_;  // null: answered
  ServeMetrics& metrics_;
  const std::string id_;
  const int64_t created_;
  const double begin_s_ = seconds_now();
  std::unique_ptr<Constraint> constraint_;
  std::vector<Choice> choices_;
  size_t running_ = 0;
  bool gone_ = false;
  std::optional<HttpEnd> ended_;
};

}  // namespace

void start_generation(GenerationJob job, const std::shared_ptr<ServedModel>& model, std::shared_ptr<HttpExchange> exchange,
                      const PostTask& post, ServeMetrics& metrics) {
  std::make_shared<Generation>(std::move(job), model, std::move(exchange), metrics)->start(post);
}

}  // namespace rorqual
