#include <sys/resource.h>

#include <set>

#include "base/error.h"
#include "base/log.h"
#include "cli/command.h"
#include "serve/api.h"
#include "serve/http_server.h"

namespace rorqual {
namespace {

struct ServeCommand {
  std::vector<std::string> models, allowed_hosts;
  std::string key_file;
  int64_t port = 8080, drain_s = 10;
  bool no_prefix_cache = false;
  HttpSettings http;
  HostSettings host;
};

// A stream is an open file.
void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

void load(ModelHost& host, ModelStore& store, const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    const NamedModel m = find_model(word, store);
    host.load(m.name, m.path, store.facts(m.name, m.path, host.settings().precision));
  }
}

void run_serve(const ServeCommand& c) {
  ApiSettings api_settings{c.http.host, c.allowed_hosts, {}, {}};
  if (!c.key_file.empty()) api_settings.keys = read_api_keys(c.key_file);
  HttpSettings http = c.http;
  http.port = static_cast<uint16_t>(c.port);
  http.drain = std::chrono::seconds(c.drain_s);
  raise_file_limit();
  HttpServer server(http);  // first: a port that is in use shows before a model is loaded
  HostSettings host_settings = c.host;
  host_settings.engine.prefix_cache = !c.no_prefix_cache;
  ModelStore store(ModelStore::default_folder());
  ModelHost host(host_settings);
  load(host, store, c.models);
  api_settings.connections = [&server] { return server.connections(); };
  Api api(api_settings, host, store, [&server](std::function<void()> task) { server.post(std::move(task)); });
  const std::string address = http.host.find(':') == std::string::npos ? http.host : "[" + http.host + "]";
  print_text(fmt::format("http://{}:{}/\n", address, server.port()));
  if (api_settings.keys.empty() && !host_allowed(address, {}))
    warn("everybody who reaches {} may use this server: --api-key-file asks for a key", address);
  server.run([&api](HttpRequest&& request, std::shared_ptr<HttpExchange> exchange) {
    api.handle(std::move(request), std::move(exchange));
  });
}

}  // namespace

void add_serve(CLI::App& app) {
  auto c = std::make_shared<ServeCommand>();
  CLI::App* command = add_command(app, "serve", "Serve models to OpenAI clients and to a browser",
                                  "rorqual serve runs/tiny\nrorqual serve tiny other --port 9000 --api-key-file keys.txt");
  command->add_option("MODEL", c->models, "model or run directories, or names of the models folder")->type_name("MODEL");
  command->add_option("--host", c->http.host, "address to listen on; 0.0.0.0: everywhere")->capture_default_str();
  command->add_option("--port", c->port, "port to listen on; 0: a free one")
      ->check(integer_in(0, 65535))
      ->capture_default_str();
  command->add_option("--api-key-file", c->key_file, "keys, one a line: every route but / and /health asks for one")
      ->type_name("FILE");
  command->add_option("--allow-host", c->allowed_hosts, "a name that clients may know this server by; may be repeated")
      ->allow_extra_args(false)
      ->type_name("NAME");
  command->add_option("--precision", c->host.precision, "fp8, bf16 or fp32 (default: the run's own; bf16 for others)")
      ->check(CLI::IsMember({"fp8", "bf16", "fp32"}));
  command->add_flag("--ema", c->host.ema, "use the averaged weights");
  EngineSettings& e = c->host.engine;
  command->add_option("--cache-tokens", e.cache_tokens, "tokens that each model's cache holds; 0: a quarter of the free memory")
      ->check(integer_in(0))
      ->capture_default_str();
  command->add_option("--max-running", e.max_running, "sequences in one step")->check(integer_in(1))->capture_default_str();
  command->add_option("--batch-tokens", e.batch_tokens, "rows of one step")->check(integer_in(1))->capture_default_str();
  command->add_option("--max-waiting-tokens", e.max_waiting_tokens, "prompt and output tokens that may wait; beyond: 429")
      ->check(integer_in(0))
      ->capture_default_str();
  command->add_option("--draft", e.draft_tokens, "tokens that MTP modules guess ahead")
      ->check(integer_in(0))
      ->capture_default_str();
  command->add_flag("--no-prefix-cache", c->no_prefix_cache, "compute every prompt anew");
  command->add_option("--drain-s", c->drain_s, "seconds that answers may go on after Ctrl-C or SIGTERM")
      ->check(integer_in(0, 86400))
      ->capture_default_str();
  command->callback([c] { run_serve(*c); });
}

}  // namespace rorqual
