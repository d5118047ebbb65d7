// The routes of `rorqual serve`: OpenAI's, /tokenize and /detokenize, /health and /metrics, the page and what it asks for.
// docs/serving.md describes them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "serve/api_generation.h"
#include "serve/http_server.h"
#include "serve/model_host.h"
#include "serve/model_store.h"
#include "serve/serve_metrics.h"

namespace rorqual {

struct ApiSettings {
  std::string host = "127.0.0.1";          // the bound address
  std::vector<std::string> allowed_hosts;  // names beside loopback's and the bound address
  std::vector<std::string> keys;           // empty: none is asked for
  std::function<int64_t()> connections;    // for /metrics; may be empty
};

class Api {
 public:
  // All outlive the tasks that `post` runs.
  Api(ApiSettings settings, ModelHost& host, ModelStore& store, PostTask post);
  ~Api();  // waits for a model that is being loaded
  Api(const Api&) = delete;
  Api& operator=(const Api&) = delete;

  // Server's thread. Answers, now or later, whatever the request; never with a 500 for what a client sent.
  void handle(HttpRequest&& request, std::shared_ptr<HttpExchange> exchange);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// The keys of a file, one a line; empty lines and those with # are left out. Error: none, or one that a header cannot hold.
std::vector<std::string> read_api_keys(const std::filesystem::path& file);

// Takes as long for a wrong key as for a right one.
bool constant_time_equal(std::string_view a, std::string_view b);

// Whether a Host header names this server: a page of another site that has its name point here must not reach it.
bool host_allowed(std::string_view header, const ApiSettings& settings);

}  // namespace rorqual
