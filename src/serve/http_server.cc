#include "serve/http_server.h"

#include <sys/socket.h>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <csignal>
#include <unordered_set>

#include "base/error.h"
#include "base/log.h"
#include "serve/http_parse.h"

namespace rorqual {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;
using boost::system::error_code;

asio::redirect_error_t<asio::use_awaitable_t<>> into(error_code& error) {
  return asio::redirect_error(asio::use_awaitable, error);
}

HttpAnswer plain_error(int status, std::string_view message, std::string_view code) {
  HttpAnswer a;
  a.status = status;
  a.body = fmt::format(R"({{"error":{{"message":"{}","type":"{}","param":null,"code":"{}"}}}})", message,
                       status >= 500 ? "server_error" : "invalid_request_error", code);
  return a;
}

http::response_header<> header_of(const HttpAnswer& a, unsigned version) {
  http::response_header<> header;
  header.version(version);
  header.result(static_cast<unsigned>(a.status));
  header.set(http::field::server, "rorqual");
  header.set(http::field::content_type, a.content_type);
  header.set(http::field::cache_control, "no-store");
  header.set("X-Content-Type-Options", "nosniff");
  for (const auto& [name, value] : a.headers) header.set(name, value);
  return header;
}

std::string chunk_of(std::string_view data) {
  return fmt::format("{:x}\r\n{}\r\n", data.size(), data);
}

// Readable and at its end: the client has closed. Readable with data: it has sent its next request already.
enum class Peek { kNothing, kData, kClosed };
Peek peek(int socket) {
  char byte = 0;
  const ssize_t got = ::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (got > 0) return Peek::kData;
  return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? Peek::kNothing : Peek::kClosed;
}

class Exchange : public HttpExchange, public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(asio::io_context& io, int64_t pending_bytes) : pending_bytes_(pending_bytes), wake_(io), limit_(io) {}

  void answer(HttpAnswer a) override {
    if (begun_ || gone_) return;
    pending_ = std::move(a.body);
    head_ = std::move(a);
    begun_ = whole_ = finished_ = true;
    wake_.cancel();
  }
  void begin(HttpAnswer head) override {
    if (begun_ || gone_) return;
    head_ = std::move(head);
    begun_ = true;
    wake_.cancel();
  }
  void send(std::string_view piece) override {
    if (finished_ || gone_ || piece.empty()) return;
    CHECK(begun_);
    pending_ += piece;
    if (static_cast<int64_t>(pending_.size()) > pending_bytes_) end(HttpEnd::kGone);
    wake_.cancel();
  }
  void finish() override {
    finished_ = true;
    wake_.cancel();
  }
  void on_end(std::function<void(HttpEnd)> callback) override {
    on_end_ = std::move(callback);
    if (gone_) tell(HttpEnd::kGone);
  }

  void end(HttpEnd reason) {
    if (reason == HttpEnd::kGone) {
      if (gone_) return;
      gone_ = true;
      wake_.cancel();
    }
    if (!finished_ || reason == HttpEnd::kGone) tell(reason);
  }
  // Returns when there is something to write, or nothing more to wait for.
  asio::awaitable<void> wait() {
    while (!ready()) {
      wake_.expires_at(std::chrono::steady_clock::time_point::max());
      error_code cancelled;
      co_await wake_.async_wait(into(cancelled));
    }
  }
  bool begun() const { return begun_; }
  bool whole() const { return whole_; }
  bool finished() const { return finished_; }
  bool gone() const { return gone_; }
  const HttpAnswer& head() const { return head_; }
  std::string take() { return std::exchange(pending_, {}); }
  bool has_pending() const { return !pending_.empty(); }
  void limit(std::chrono::milliseconds time) {
    limit_.expires_after(time);
    limit_.async_wait([weak = weak_from_this()](const error_code& cancelled) {
      const auto self = weak.lock();
      if (self && !cancelled) self->end(HttpEnd::kTimeLimit);
    });
  }
  // The answer is written. The callback keeps the request's objects, and they keep the exchange.
  void close() {
    finished_ = true;
    limit_.cancel();
    on_end_ = nullptr;
  }
  void head_written() { head_written_ = true; }

 private:
  bool ready() const { return gone_ || finished_ || !pending_.empty() || (begun_ && !head_written_); }
  void tell(HttpEnd reason) {
    if (auto callback = std::exchange(on_end_, nullptr)) callback(reason);
  }

  int64_t pending_bytes_;
  asio::steady_timer wake_, limit_;
  HttpAnswer head_;
  std::string pending_;
  bool begun_ = false, whole_ = false, finished_ = false, gone_ = false, head_written_ = false;
  std::function<void(HttpEnd)> on_end_;
};

struct Connection {
  explicit Connection(tcp::socket&& socket) : stream(std::move(socket)) {}
  beast::tcp_stream stream;
  beast::flat_buffer buffer;
  std::shared_ptr<Exchange> exchange;  // of the request that is being answered
};

}  // namespace

class HttpServer::Impl {
 public:
  explicit Impl(const HttpSettings& settings) : settings_(settings), acceptor_(io_), signals_(io_), drain_(io_) {
    error_code error;
    const auto address = asio::ip::make_address(settings.host == "localhost" ? "127.0.0.1" : settings.host, error);
    if (error) fail_usage("--host {}: an address such as 127.0.0.1, ::1 or 0.0.0.0 is needed", settings.host);
    const tcp::endpoint endpoint(address, settings.port);
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(1024, error);
    if (error)
      fail("cannot listen on {}, port {}: {}; choose another --port or --host", settings.host, settings.port, error.message());
  }

  uint16_t port() const { return acceptor_.local_endpoint().port(); }
  int64_t connections() const { return static_cast<int64_t>(connections_.size()); }

  void run(const Handler& handler) {
    handler_ = handler;
    signals_.add(SIGINT);
    signals_.add(SIGTERM);
    wait_for_signal();
    asio::co_spawn(io_, accept(), asio::detached);
    io_.run();
    handler_ = nullptr;
  }
  void stop() {
    asio::post(io_, [this] { begin_stop(); });
  }
  void post(std::function<void()> task) { asio::post(io_, std::move(task)); }

 private:
  void wait_for_signal() {
    signals_.async_wait([this](const error_code& error, int) {
      if (error) return;
      if (stopping_) return end_exchanges();
      info("stopping: answers may go on for {} s; a second signal ends them", settings_.drain.count() / 1000);
      wait_for_signal();
      begin_stop();  // cancels that wait if nothing is left to do
    });
  }

  void begin_stop() {
    if (std::exchange(stopping_, true)) return;
    error_code ignored;
    acceptor_.close(ignored);
    for (Connection* c : connections_)
      if (!c->exchange) c->stream.close();
    drain_.expires_after(settings_.drain);
    drain_.async_wait([this](const error_code& error) {
      if (!error) end_exchanges();
    });
    leave_if_done();
  }

  // What still runs is told to end; what does not within five seconds is cut off.
  void end_exchanges() {
    for (Connection* c : std::vector<Connection*>(connections_.begin(), connections_.end()))
      if (const auto exchange = c->exchange) exchange->end(HttpEnd::kStopping);
    drain_.expires_after(std::chrono::seconds(5));
    drain_.async_wait([this](const error_code& error) {
      if (!error) io_.stop();
    });
  }
  void leave_if_done() {
    if (!stopping_ || !connections_.empty()) return;
    drain_.cancel();
    error_code ignored;
    signals_.cancel(ignored);
  }

  asio::awaitable<void> accept() {
    while (!stopping_) {
      error_code error;
      tcp::socket socket = co_await acceptor_.async_accept(into(error));
      if (stopping_) co_return;
      if (error) {  // too many open files, most likely: closing ones make room
        asio::steady_timer pause(io_, std::chrono::milliseconds(50));
        co_await pause.async_wait(into(error));
        continue;
      }
      socket.set_option(tcp::no_delay(true), error);
      asio::co_spawn(io_, serve(std::move(socket)), asio::detached);
    }
  }

  asio::awaitable<void> serve(tcp::socket socket) {
    const auto c = std::make_shared<Connection>(std::move(socket));
    connections_.insert(c.get());
    try {
      bool go_on = connections() <= settings_.max_connections;
      if (!go_on) co_await refuse(*c, 503, "too many connections: try again later", "too_many_connections");
      while (go_on && !stopping_) go_on = co_await one_request(c);
    } catch (const std::exception& e) {
      warn("a connection failed: {}", e.what());
    }
    if (c->exchange) c->exchange->end(HttpEnd::kGone);
    connections_.erase(c.get());
    c->stream.close();
    leave_if_done();
  }

  // One request and its answer; whether another may follow.
  asio::awaitable<bool> one_request(std::shared_ptr<Connection> connection) {
    Connection& c = *connection;
    http::request_parser<http::string_body> parser;
    parser.header_limit(static_cast<uint32_t>(settings_.header_bytes));
    parser.body_limit(static_cast<uint64_t>(settings_.body_bytes));
    error_code error;
    c.stream.expires_after(settings_.header_limit);
    co_await http::async_read_header(c.stream, c.buffer, parser, into(error));
    if (!error && beast::iequals(parser.get()[http::field::expect], "100-continue"))
      co_await write(c, "HTTP/1.1 100 Continue\r\n\r\n", error);
    if (!error) {
      c.stream.expires_after(settings_.body_limit);
      co_await http::async_read(c.stream, c.buffer, parser, into(error));
    }
    if (error) {
      const int status = status_of(error);
      if (status == 413) co_await refuse(c, status, "the request's body is too large", "too_large");
      if (status == 431) co_await refuse(c, status, "the request's header is too large", "too_large");
      if (status == 400) co_await refuse(c, status, "this is no HTTP request", "bad_request");
      co_return false;
    }
    const bool head_only = parser.get().method() == http::verb::head;
    const bool keep_alive = parser.get().keep_alive() && parser.get().version() >= 11;
    const unsigned version = std::min(parser.get().version(), 11U);
    const auto exchange = std::make_shared<Exchange>(io_, settings_.pending_bytes);
    c.exchange = exchange;
    c.stream.expires_never();
    exchange->limit(settings_.request_limit);
    asio::co_spawn(io_, watch(connection, exchange), asio::detached);
    dispatch(parser.release(), exchange);
    const bool written = co_await write_answer(c, *exchange, version, keep_alive, head_only);
    if (!written) exchange->end(HttpEnd::kGone);
    exchange->close();
    c.exchange.reset();
    error_code ignored;
    c.stream.socket().cancel(ignored);  // the watch
    co_return written&& keep_alive && !stopping_;
  }

  static int status_of(const error_code& error) {
    if (error == http::error::body_limit || error == http::error::buffer_overflow) return 413;
    if (error == http::error::header_limit) return 431;
    const bool closed = error == http::error::end_of_stream || error == http::error::partial_message;
    return !closed && error.category() == make_error_code(http::error::bad_method).category() ? 400 : 0;
  }

  void dispatch(http::request<http::string_body>&& r, const std::shared_ptr<Exchange>& exchange) {
    try {
      handler_(to_request(std::move(r)), exchange);
    } catch (const std::exception& e) {
      warn("a request failed: {}", e.what());
      exchange->answer(plain_error(500, "the server failed at this request; its log says why", "internal"));
    }
  }

  // Sees the client leave while its answer is computed.
  static asio::awaitable<void> watch(std::shared_ptr<Connection> c, std::shared_ptr<Exchange> exchange) {
    while (c->exchange == exchange && c->stream.socket().is_open()) {
      error_code error;
      co_await c->stream.socket().async_wait(tcp::socket::wait_read, into(error));
      if (error || c->exchange != exchange) co_return;
      const Peek seen = peek(c->stream.socket().native_handle());
      if (seen == Peek::kClosed) exchange->end(HttpEnd::kGone);
      if (seen != Peek::kNothing) co_return;
    }
  }

  asio::awaitable<void> write(Connection& c, std::string_view bytes, error_code& error) {
    c.stream.expires_after(settings_.write_limit);
    co_await asio::async_write(c.stream, asio::buffer(bytes.data(), bytes.size()), into(error));
    c.stream.expires_never();
  }

  // True: the answer is written as it should be, and the connection may serve on.
  asio::awaitable<bool> write_answer(Connection& c, Exchange& exchange, unsigned version, bool keep_alive, bool head_only) {
    error_code error;
    co_await exchange.wait();
    if (exchange.gone() || !exchange.begun()) co_return false;
    const bool chunked = !exchange.whole() && version >= 11;
    http::response<http::empty_body> head(header_of(exchange.head(), version));
    head.keep_alive(keep_alive && (chunked || exchange.whole()));
    std::string first;
    if (exchange.whole()) {
      first = exchange.take();
      head.content_length(first.size());
    } else {
      head.chunked(chunked);
    }
    exchange.head_written();
    std::ostringstream text;
    text << head.base();
    if (!head_only) text << first;
    const std::string bytes = text.str();
    co_await write(c, bytes, error);
    bool last = exchange.whole() || head_only;
    while (!error && !last) {
      co_await exchange.wait();
      if (exchange.gone()) co_return false;
      last = exchange.finished();
      std::string piece = exchange.take();
      if (chunked && !piece.empty()) piece = chunk_of(piece);
      if (chunked && last) piece += "0\r\n\r\n";
      if (!piece.empty()) co_await write(c, piece, error);
    }
    co_return !error && (chunked || exchange.whole());
  }

  // An answer to what is no whole request. The client may still be sending: what it sends is read for a moment, or the answer
  // would be lost with the connection's reset.
  asio::awaitable<void> refuse(Connection& c, int status, std::string_view message, std::string_view code) {
    const HttpAnswer a = plain_error(status, message, code);
    http::response<http::empty_body> head(header_of(a, 11));
    head.keep_alive(false);
    head.content_length(a.body.size());
    std::ostringstream text;
    text << head.base() << a.body;
    error_code error;
    const std::string bytes = text.str();
    co_await write(c, bytes, error);
    if (!error) c.stream.socket().shutdown(tcp::socket::shutdown_send, error);
    c.stream.expires_after(std::chrono::seconds(2));
    std::vector<char> waste(1 << 16);
    for (int i = 0; i < 256 && !error; ++i) co_await c.stream.async_read_some(asio::buffer(waste), into(error));
  }

  HttpSettings settings_;
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  asio::signal_set signals_;
  asio::steady_timer drain_;
  Handler handler_;
  std::unordered_set<Connection*> connections_;
  bool stopping_ = false;
};

HttpServer::HttpServer(const HttpSettings& settings) : impl_(std::make_unique<Impl>(settings)) {}
HttpServer::~HttpServer() = default;

uint16_t HttpServer::port() const {
  return impl_->port();
}
void HttpServer::run(const Handler& handler) {
  impl_->run(handler);
}
void HttpServer::stop() {
  impl_->stop();
}
void HttpServer::post(std::function<void()> task) {
  impl_->post(std::move(task));
}
int64_t HttpServer::connections() const {
  return impl_->connections();
}

}  // namespace rorqual
