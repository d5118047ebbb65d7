// HTTP/1.1 on one thread: every connection is a coroutine, a waiting stream costs a few kilobytes and no thread. Knows no
// routes: a handler gets each request with an exchange, through which it answers at once, later, or piece by piece.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rorqual {

struct HttpRequest {
  std::string method, path, query;                        // path: as sent, without what follows '?'
  std::string host, origin, content_type, authorization;  // empty where the header is missing
  std::string body;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpAnswer {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpHeaders headers;
};

// Why an exchange is asked to end before its answer is whole.
enum class HttpEnd {
  kGone,       // the client closed, or reads too slowly: nothing can be sent any more
  kTimeLimit,  // HttpSettings::request_limit is over
  kStopping,   // the server stops
};

// One request and its answer. For the server's thread alone (HttpServer::post leads there).
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  // The whole answer; or a status line and headers now, then pieces, then the end. Calls after the end, or after the client has
  // gone, do nothing.
  virtual void answer(HttpAnswer answer) = 0;
  virtual void begin(HttpAnswer head) = 0;
  virtual void send(std::string_view piece) = 0;
  virtual void finish() = 0;
  // Called at most once, on the server's thread. After kTimeLimit and kStopping an end is still due, soon.
  virtual void on_end(std::function<void(HttpEnd)> callback) = 0;
};

struct HttpSettings {
  std::string host = "127.0.0.1";
  uint16_t port = 8080;  // 0: any free one
  int64_t header_bytes = 16 << 10, body_bytes = 8 << 20;
  int64_t pending_bytes = 1 << 20;                     // of answers written faster than the client reads; beyond, it has gone
  int64_t max_connections = 4096;                      // beyond: 503
  std::chrono::milliseconds header_limit{30'000};      // an idle connection, and its next request's header
  std::chrono::milliseconds body_limit{30'000};        // a request's body
  std::chrono::milliseconds write_limit{30'000};       // a client that takes nothing
  std::chrono::milliseconds request_limit{3'600'000};  // from the request to the last piece
  std::chrono::milliseconds drain{10'000};             // after a signal: streams may go on so long
};

class HttpServer {
 public:
  using Handler = std::function<void(HttpRequest&&, std::shared_ptr<HttpExchange>)>;

  // Binds and listens. Error: the address cannot be bound.
  explicit HttpServer(const HttpSettings& settings);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const;  // the bound one
  // Serves on this thread until stop(), SIGINT or SIGTERM, then lets what runs finish within the time to drain. What the
  // handler throws becomes a 500 without its text.
  void run(const Handler& handler);
  // From any thread: run() ends as after a signal.
  void stop();
  // From any thread: calls `task` on the server's thread; never, if run() has ended.
  void post(std::function<void()> task);
  int64_t connections() const;  // open now; the server's thread alone

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rorqual
