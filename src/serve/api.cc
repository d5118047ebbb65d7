#include "serve/api.h"

#include <condition_variable>
#include <deque>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "base/machine.h"
#include "serve/api_json.h"
#include "serve/chat_page.h"

namespace rorqual {
namespace {

using Exchange = std::shared_ptr<HttpExchange>;

// One thread for what takes long: reading models' files, loading them.
class Worker {
 public:
  Worker() : thread_([this] { loop(); }) {}
  ~Worker() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  void add(std::function<void()> task) {
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }

 private:
  void loop() {
    for (;;) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || !tasks_.empty(); });
      if (stop_) return;
      const auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stop_ = false;
  std::thread thread_;
};

// What a loaded model's prompt may have at most, said before the engine says it, with the parameter's name.
void check_length(const ServedModel& m, size_t tokens, const char* param) {
  const int64_t context = m.engine.context_tokens();
  if (static_cast<int64_t>(tokens) >= context)
    throw ApiError(400, fmt::format("the prompt has {} tokens, the limit is {}: shorten it", tokens, context - 1), param,
                   "context_length_exceeded");
}

void resolve_bias(GenerationOptions& o, int64_t vocabulary) {
  for (const auto& [token, bias] : o.logit_bias) {
    char* end = nullptr;
    errno = 0;
    const long id = std::strtol(token.c_str(), &end, 10);
    const bool digits = !token.empty() && token[0] >= '0' && token[0] <= '9' && *end == '\0' && errno == 0;
    if (!digits || id >= vocabulary)
      throw ApiError(400, fmt::format("'logit_bias' must have token ids from 0 to {} as its members", vocabulary - 1),
                     "logit_bias");
    o.sampling.logit_bias.emplace_back(static_cast<int32_t>(id), bias);
  }
}

std::vector<int32_t> with_bos(const Tokenizer& t, std::string_view text) {
  std::vector<int32_t> tokens;
  if (const auto bos = t.bos_id()) tokens.push_back(*bos);
  t.encode(text, tokens);
  return tokens;
}

}  // namespace

class Api::Impl {
 public:
  Impl(ApiSettings&& settings, ModelHost& host, ModelStore& store, PostTask&& post)
      : settings_(std::move(settings)), host_(host), store_(store), post_(std::move(post)) {}

  void handle(HttpRequest&& r, const Exchange& exchange) {
    try {
      check_access(r);
      route(r, exchange);
    } catch (const ApiError& error) {
      refuse(exchange, error);
    } catch (const Error& error) {  // a usage error of the engine or a template: they name no path
      if (error.kind() == ErrorKind::kUsage) return refuse(exchange, ApiError(400, error.what()));
      warn("{} {}: {}", r.method, r.path, error.what());
      refuse(exchange, ApiError(500, "the server failed at this request; its log says why"));
    }
  }

 private:
  using Json = ApiJson;
  using Handler = void (Impl::*)(const HttpRequest&, const Exchange&);
  struct Route {
    const char* method;
    const char* path;
    Handler handler;
    bool open;  // without a key
  };
  static constexpr std::array<Route, 11> routes() {
    return {{{"GET", "/", &Impl::page, true},
             {"GET", "/health", &Impl::health, true},
             {"GET", "/metrics", &Impl::metrics, false},
             {"GET", "/v1/models", &Impl::models, false},
             {"POST", "/v1/chat/completions", &Impl::chat, false},
             {"POST", "/v1/completions", &Impl::complete, false},
             {"POST", "/tokenize", &Impl::tokenize, false},
             {"POST", "/detokenize", &Impl::detokenize, false},
             {"GET", "/api/models", &Impl::my_models, false},
             {"POST", "/api/models/load", &Impl::load, false},
             {"POST", "/api/models/unload", &Impl::unload, false}}};
  }

  // ---- access
  void check_access(const HttpRequest& r) const {
    if (!host_allowed(r.host, settings_))
      throw ApiError(403, "the Host header names another server; --allow-host adds a name", {}, "host_not_allowed");
    if (!r.origin.empty() && r.origin != "http://" + r.host && r.origin != "https://" + r.host)
      throw ApiError(403, "requests from pages of other sites are refused", {}, "origin_not_allowed");
    for (const Route& route : routes())
      if (route.open && r.path == route.path) return;
    if (settings_.keys.empty()) return;
    bool known = false;
    constexpr std::string_view kBearer = "Bearer ";
    const bool bearer = r.authorization.starts_with(kBearer);
    const std::string_view given = bearer ? std::string_view(r.authorization).substr(kBearer.size()) : std::string_view();
    for (const std::string& key : settings_.keys) known |= constant_time_equal(given, key);
    if (!known) throw ApiError(401, "an API key is needed: Authorization: Bearer KEY", {}, "invalid_api_key");
  }

  void route(const HttpRequest& r, const Exchange& exchange) {
    const std::string method = r.method == "HEAD" ? "GET" : r.method;
    std::string other;
    for (const Route& route : routes()) {
      if (r.path != route.path) continue;
      if (method == route.method) {
        if (method == "POST") check_type(r);
        return (this->*route.handler)(r, exchange);
      }
      other = route.method;
    }
    constexpr std::string_view kModel = "/v1/models/";
    if (r.path.starts_with(kModel)) {
      if (method == "GET") return one_model(r.path.substr(kModel.size()), exchange);
      other = "GET";
    }
    if (other.empty()) throw ApiError(404, "there is no such route", {}, "not_found");
    throw ApiError(405, fmt::format("this route takes {} alone", other), {}, "method_not_allowed");
  }
  static void check_type(const HttpRequest& r) {
    std::string type = r.content_type.substr(0, r.content_type.find(';'));
    while (type.ends_with(' ')) type.pop_back();
    if (type != "application/json")
      throw ApiError(415, "the body must be JSON: Content-Type: application/json", {}, "unsupported_media_type");
  }

  // ---- answers
  void refuse(const Exchange& exchange, const ApiError& error) {
    HttpAnswer a{error.status, "application/json", dump_json(error_json(error)), {}};
    if (error.status == 401) a.headers.emplace_back("WWW-Authenticate", "Bearer");
    if (error.retry_after) a.headers.emplace_back("Retry-After", std::to_string(error.retry_after->count()));
    send(exchange, std::move(a));
  }
  void send(const Exchange& exchange, HttpAnswer&& a) {
    metrics_.count_answer(a.status);
    exchange->answer(std::move(a));
  }
  void send_json(const Exchange& exchange, const Json& json) {
    send(exchange, HttpAnswer{200, "application/json", dump_json(json), {}});
  }

  // ---- routes
  void page(const HttpRequest&, const Exchange& exchange) {
    send(exchange,
         {200,
          "text/html; charset=utf-8",
          std::string(kChatPage),
          {{"Content-Security-Policy",
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
            "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"},
           {"Referrer-Policy", "no-referrer"},
           {"X-Frame-Options", "DENY"}}});
  }
  void health(const HttpRequest&, const Exchange& exchange) { send_json(exchange, Json{{"status", "ok"}}); }
  void metrics(const HttpRequest&, const Exchange& exchange) {
    std::vector<ServeMetrics::Served> served;
    for (const auto& m : host_.all()) served.push_back({m->name, m->engine.stats()});
    send(exchange, {200,
                    "text/plain; version=0.0.4; charset=utf-8",
                    metrics_.text(served, settings_.connections ? settings_.connections() : 0),
                    {}});
  }

  static Json model_json(const ServedModel& m) {
    return {{"id", m.name},
            {"object", "model"},
            {"created", m.created},
            {"owned_by", "rorqual"},
            {"max_model_len", m.engine.context_tokens()}};
  }
  void models(const HttpRequest&, const Exchange& exchange) {
    Json list = Json::array();
    for (const auto& m : host_.all()) list.push_back(model_json(*m));
    send_json(exchange, Json{{"object", "list"}, {"data", std::move(list)}});
  }
  void one_model(const std::string& name, const Exchange& exchange) { send_json(exchange, model_json(*model_of(name))); }

  std::shared_ptr<ServedModel> model_of(const std::string& name) const {
    if (name.empty()) {
      const auto all = host_.all();
      if (all.size() == 1) return all[0];
      throw ApiError(400, "'model' is missing: GET /v1/models lists which there are", "model");
    }
    if (auto model = host_.find(name)) return model;
    const bool there = store_.has(name);
    throw ApiError(404, fmt::format("the model '{}' {}", name, there ? "is not loaded" : "does not exist"), "model",
                   "model_not_found");
  }

  void chat(const HttpRequest& r, const Exchange& exchange) {
    ChatRequest request = parse_chat_completion(parse_api_body(r.body));
    const auto model = model_of(request.options.model);
    if (!model->chat_template)
      throw ApiError(400, fmt::format("the model '{}' has no chat template: use /v1/completions", model->name), "messages",
                     "no_chat_template");
    GenerationJob job;
    job.chat = true;
    job.options = std::move(request.options);
    resolve_bias(job.options, vocabulary(*model));
    Json variables = {{"messages", std::move(request.messages)}, {"add_generation_prompt", true}};
    if (!request.tools.is_null()) {
      if (!model->takes_tools)
        throw ApiError(400, fmt::format("the chat template of '{}' takes no tools", model->name), "tools",
                       "unsupported_parameter");
      if (request.tool_required && model->tool_format == ToolFormat::kNone)
        throw ApiError(400, "the model's form of calls is not known: 'tool_choice' must be \"auto\" or \"none\"", "tool_choice",
                       "unsupported_parameter");
      variables["tools"] = std::move(request.tools);
      job.tools = true;
      if (request.tool_required) job.forced = forced_tool_call(model->tool_format, request.tool_name);
      if (request.tool_strict) job.forced_end = end_of_tool_call(model->tool_format);
    }
    job.prompts.push_back(model->tokenizer().encode(model->render(variables) + job.forced));
    check_length(*model, job.prompts[0].size(), "messages");
    start_generation(std::move(job), model, exchange, post_, metrics_);
  }

  static int64_t vocabulary(const ServedModel& m) { return m.loaded.model().config().vocab_size; }

  void complete(const HttpRequest& r, const Exchange& exchange) {
    CompletionRequest request = parse_completion(parse_api_body(r.body));
    const auto model = model_of(request.options.model);
    const Tokenizer& t = model->tokenizer();
    GenerationJob job;
    job.options = std::move(request.options);
    resolve_bias(job.options, vocabulary(*model));
    for (const auto& prompt : request.prompts) {
      if (const auto* tokens = std::get_if<std::vector<int32_t>>(&prompt)) {
        for (const int32_t token : *tokens) token_of(token, "prompt", vocabulary(*model));
        if (request.suffix) throw ApiError(400, "'suffix' needs a prompt that is text", "suffix");
        job.prompts.push_back(*tokens);
      } else {
        const std::string& text = std::get<std::string>(prompt);
        job.prompts.push_back(request.suffix ? fill_in_the_middle(t, text, *request.suffix) : with_bos(t, text));
        job.bos_added = t.bos_id().has_value();
      }
      if (job.prompts.back().empty())
        throw ApiError(400, "the prompt is empty, and the model has no token that begins a text", "prompt");
      check_length(*model, job.prompts.back().size(), "prompt");
      if (request.echo) job.echo.push_back(echo_of(*model, prompt));
    }
    start_generation(std::move(job), model, exchange, post_, metrics_);
  }
  // Prefix, suffix, middle: as documents are cut in training (data/dataset_packing.h).
  static std::vector<int32_t> fill_in_the_middle(const Tokenizer& t, std::string_view prefix, std::string_view suffix) {
    const auto begin = t.fim_begin_id(), hole = t.fim_hole_id(), end = t.fim_end_id();
    if (!begin || !hole || !end)
      throw ApiError(400, "the model has no tokens to fill in the middle with", "suffix", "unsupported_parameter");
    std::vector<int32_t> tokens;
    if (const auto bos = t.bos_id()) tokens.push_back(*bos);
    tokens.push_back(*begin);
    t.encode_ordinary(prefix, tokens);
    tokens.push_back(*hole);
    t.encode_ordinary(suffix, tokens);
    tokens.push_back(*end);
    return tokens;
  }
  static std::string echo_of(const ServedModel& m, const std::variant<std::string, std::vector<int32_t>>& prompt) {
    if (const auto* text = std::get_if<std::string>(&prompt)) return *text;
    std::string text;
    for (const int32_t token : std::get<std::vector<int32_t>>(prompt)) text += token_bytes(m.tokenizer(), token);
    return text;
  }

  void tokenize(const HttpRequest& r, const Exchange& exchange) {
    const Json body = parse_api_body(r.body);
    ApiFields f(body);
    const auto model = model_of(f.string("model").value_or(""));
    const auto prompt = f.string("prompt");
    if (!prompt) f.refuse("prompt", "is missing");
    const bool special = f.boolean("add_special_tokens").value_or(true);
    f.finish();
    const Tokenizer& t = model->tokenizer();
    const std::vector<int32_t> tokens = special ? with_bos(t, *prompt) : t.encode(*prompt);
    send_json(exchange, Json{{"count", tokens.size()}, {"max_model_len", model->engine.context_tokens()}, {"tokens", tokens}});
  }
  void detokenize(const HttpRequest& r, const Exchange& exchange) {
    const Json body = parse_api_body(r.body);
    ApiFields f(body);
    const auto model = model_of(f.string("model").value_or(""));
    const Json* list = f.array("tokens");
    if (!list) f.refuse("tokens", "is missing");
    f.finish();
    std::string text;
    for (const Json& t : *list) text += token_bytes(model->tokenizer(), token_of(t, "tokens", vocabulary(*model)));
    send_json(exchange, Json{{"prompt", text}});
  }

  // ---- the page's own
  // Where a model's files are: of the command line's models as it named them, else in the models folder.
  std::filesystem::path path_of(const std::string& name) const { return store_.folder() / name; }

  Json my_models_json() {
    std::map<std::string, std::shared_ptr<ServedModel>> loaded;
    for (const auto& m : host_.all()) loaded[m->name] = m;
    std::set<std::string> names;
    for (const std::string& name : store_.names()) names.insert(name);
    for (const auto& [name, m] : loaded) names.insert(name);
    Json list = Json::array();
    for (const std::string& name : names) {
      const auto it = loaded.find(name);
      const auto path = it != loaded.end() ? it->second->path : path_of(name);
      Json j = json_of(store_.facts(name, path, host_.settings().precision));
      j["loaded"] = it != loaded.end();
      j["loading"] = host_.loading(name);
      if (it != loaded.end()) {
        const EngineStats s = it->second->engine.stats();
        const auto blocks = static_cast<double>(std::max<int64_t>(1, s.cache_blocks));
        j["stats"] = {{"running", s.running},
                      {"waiting", s.waiting},
                      {"generated_tokens", s.generated_tokens},
                      {"cache_share", static_cast<double>(s.cache_blocks_used) / blocks}};
      }
      list.push_back(std::move(j));
    }
    return {{"available_bytes", machine_memory().available_bytes}, {"models", std::move(list)}};
  }
  void my_models(const HttpRequest&, const Exchange& exchange) {
    reader_.add([this, exchange] { reply_later(exchange, [this] { return my_models_json(); }); });
  }

  std::string name_in(const HttpRequest& r) const {
    const Json body = parse_api_body(r.body);
    ApiFields f(body);
    const auto name = f.string("name");
    if (!name) f.refuse("name", "is missing");
    f.finish();
    return *name;
  }
  void load(const HttpRequest& r, const Exchange& exchange) {
    const std::string name = name_in(r);
    if (!store_.has(name)) throw ApiError(404, "there is no such model in the models folder", "name", "model_not_found");
    if (host_.find(name) || host_.loading(name)) throw ApiError(409, "this model is loaded, or being loaded", "name");
    loader_.add([this, exchange, name] {
      reply_later(exchange, [this, name]() -> Json {
        const auto path = path_of(name);
        host_.load(name, path, store_.facts(name, path, host_.settings().precision));
        return {{"name", name}, {"loaded", true}};
      });
    });
  }
  void unload(const HttpRequest& r, const Exchange& exchange) {
    const std::string name = name_in(r);
    if (!host_.find(name)) throw ApiError(404, "this model is not loaded", "name", "model_not_found");
    loader_.add([this, exchange, name] {
      reply_later(exchange, [this, name]() -> Json {
        host_.unload(name);
        return {{"name", name}, {"loaded", false}};
      });
    });
  }

  // On a worker's thread: the answer goes back to the server's.
  void reply_later(const Exchange& exchange, const std::function<Json()>& work) {
    HttpAnswer a;
    try {
      a.body = dump_json(work());
    } catch (const TooLarge& e) {
      a = {409, "application/json", dump_json(error_json(ApiError(409, e.what(), "name", "out_of_memory"))), {}};
    } catch (const std::exception& e) {
      warn("{}", e.what());
      a = {409,
           "application/json",
           dump_json(error_json(ApiError(409, "this model cannot be loaded; the server's log says why", "name"))),
           {}};
    }
    post_([this, exchange, a = std::move(a)] { send(exchange, HttpAnswer(a)); });
  }

  ApiSettings settings_;
  ModelHost& host_;
  ModelStore& store_;
  PostTask post_;
  ServeMetrics metrics_;
  Worker reader_, loader_;  // last: they use what stands above
};

Api::Api(ApiSettings settings, ModelHost& host, ModelStore& store, PostTask post)
    : impl_(std::make_unique<Impl>(std::move(settings), host, store, std::move(post))) {}
Api::~Api() = default;

void Api::handle(HttpRequest&& request, std::shared_ptr<HttpExchange> exchange) {
  impl_->handle(std::move(request), exchange);
}

}  // namespace rorqual
