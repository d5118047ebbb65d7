#include "serve/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <stdexcept>
#include <thread>

#include "base/error.h"

namespace rorqual {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class Client {
 public:
  explicit Client(uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    ::inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    CHECK(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  }
  ~Client() { ::close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void send(const std::string& text) const {
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t n = ::send(socket_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return;  // refused: the answer says why
      sent += static_cast<size_t>(n);
    }
  }
  // Up to `end`, or to the end of the connection.
  std::string read(const std::string& end = "") {
    char buffer[4096];
    for (;;) {
      const size_t at = end.empty() ? std::string::npos : pending_.find(end);
      if (at != std::string::npos) {
        std::string text = pending_.substr(0, at + end.size());
        pending_.erase(0, text.size());
        return text;
      }
      const ssize_t n = ::recv(socket_, buffer, sizeof buffer, 0);
      if (n <= 0) return std::exchange(pending_, {});
      pending_.append(buffer, static_cast<size_t>(n));
    }
  }

 private:
  int socket_;
  std::string pending_;
};

// A server on a thread of its own; stops with the object.
class Running {
 public:
  explicit Running(HttpServer::Handler handler, HttpSettings settings = {}) : server_(free_port(settings)) {
    thread_ = std::thread([this, handler = std::move(handler)] { server_.run(handler); });
  }
  ~Running() { stop(); }
  void stop() {
    server_.stop();
    if (thread_.joinable()) thread_.join();
  }
  HttpServer& server() { return server_; }
  uint16_t port() const { return server_.port(); }

 private:
  static HttpSettings free_port(HttpSettings s) {
    s.port = 0;
    return s;
  }
  HttpServer server_;
  std::thread thread_;
};

void echo(HttpRequest&& r, const std::shared_ptr<HttpExchange>& exchange) {
  exchange->answer({200, "text/plain", r.method + " " + r.path + " " + r.query + " " + r.host + " " + r.body, {}});
}

const std::string kGet = "GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n";

TEST(HttpServer, AnswersSeveralRequestsOnOneConnection) {
  Running s(echo);
  Client c(s.port());
  for (int i = 0; i < 3; ++i) {
    c.send(kGet);
    EXPECT_THAT(c.read("GET /a b=c h "), AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("Content-Length: 13\r\n"),
                                               HasSubstr("X-Content-Type-Options: nosniff\r\n")));
  }
  c.send("POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
  EXPECT_THAT(c.read(), ::testing::EndsWith("POST /x  h abc"));
}

TEST(HttpServer, PipelinedRequestsAreAnsweredInOrder) {
  Running s(echo);
  Client c(s.port());
  c.send(kGet + "GET /second HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  const std::string all = c.read();
  EXPECT_LT(all.find("GET /a"), all.find("GET /second"));
  EXPECT_NE(all.find("GET /second"), std::string::npos);
}

TEST(HttpServer, StreamsInChunksAndToOldClientsWithoutThem) {
  Running s([](HttpRequest&&, const std::shared_ptr<HttpExchange>& e) {
    e->begin({200, "text/event-stream", "", {}});
    e->send("one");
    e->send("two");
    e->finish();
  });
  Client c(s.port());
  c.send(kGet);
  EXPECT_THAT(c.read("0\r\n\r\n"),
              AllOf(HasSubstr("Transfer-Encoding: chunked\r\n"), HasSubstr("\r\n6\r\nonetwo\r\n0\r\n\r\n")));
  Client old(s.port());
  old.send("GET / HTTP/1.0\r\nHost: h\r\n\r\n");
  EXPECT_THAT(old.read(), AllOf(::testing::Not(HasSubstr("chunked")), ::testing::EndsWith("\r\n\r\nonetwo")));
}

TEST(HttpServer, RefusesWhatIsTooLargeOrNoRequest) {
  HttpSettings settings;
  settings.body_bytes = 100;
  settings.header_bytes = 1000;
  Running s(echo, settings);
  const auto answer = [&](const std::string& text) {
    Client c(s.port());
    c.send(text);
    return c.read();
  };
  EXPECT_THAT(answer("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 101\r\n\r\n" + std::string(101, 'x')),
              AllOf(StartsWith("HTTP/1.1 413 "), HasSubstr("\"code\":\"too_large\"")));
  EXPECT_THAT(answer("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nc8\r\n" + std::string(200, 'x') +
                     "\r\n0\r\n\r\n"),
              StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(answer("GET / HTTP/1.1\r\nHost: h\r\nX: " + std::string(2000, 'x') + "\r\n\r\n"), StartsWith("HTTP/1.1 431 "));
  EXPECT_THAT(answer("what is this\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(answer("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
}

TEST(HttpServer, ClosesWhoIsTooSlow) {
  HttpSettings settings;
  settings.header_limit = settings.body_limit = std::chrono::milliseconds(100);
  Running s(echo, settings);
  Client silent(s.port()), half(s.port()), body(s.port());
  half.send("GET / HTTP/1.1\r\n");
  body.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab");
  EXPECT_EQ(silent.read(), "");
  EXPECT_EQ(half.read(), "");
  EXPECT_EQ(body.read(), "");
}

TEST(HttpServer, AnExceptionIsA500WithoutItsText) {
  Running s([](HttpRequest&&, const std::shared_ptr<HttpExchange>&) { throw std::runtime_error("/secret/path"); });
  Client c(s.port());
  c.send(kGet);
  EXPECT_THAT(c.read("}}"), AllOf(StartsWith("HTTP/1.1 500 "), ::testing::Not(HasSubstr("secret"))));
}

TEST(HttpServer, SeesAClientLeaveBeforeAndWhileItIsAnswered) {
  for (const bool begun : {false, true}) {
    std::promise<HttpEnd> ended;
    std::promise<void> arrived;
    std::shared_ptr<HttpExchange> kept;
    Running s([&](HttpRequest&&, const std::shared_ptr<HttpExchange>& e) {
      e->on_end([&](HttpEnd reason) { ended.set_value(reason); });
      if (begun) e->begin({});
      arrived.set_value();
    });
    {
      Client c(s.port());
      c.send(kGet);
      arrived.get_future().wait();
    }
    EXPECT_EQ(ended.get_future().get(), HttpEnd::kGone);
  }
}

TEST(HttpServer, WhoReadsTooSlowlyHasGone) {
  HttpSettings settings;
  settings.pending_bytes = 1 << 16;
  std::promise<HttpEnd> ended;
  Running s(
      [&](HttpRequest&&, const std::shared_ptr<HttpExchange>& e) {
        e->on_end([&](HttpEnd reason) { ended.set_value(reason); });
        e->begin({});
        for (int i = 0; i < 3; ++i) e->send(std::string(40'000, 'x'));
      },
      settings);
  Client c(s.port());
  c.send(kGet);
  EXPECT_EQ(ended.get_future().get(), HttpEnd::kGone);
}

TEST(HttpServer, EndsWhatTakesTooLong) {
  HttpSettings settings;
  settings.request_limit = std::chrono::milliseconds(50);
  Running s(
      [&](HttpRequest&&, const std::shared_ptr<HttpExchange>& e) {
        e->on_end([e](HttpEnd reason) { e->answer({reason == HttpEnd::kTimeLimit ? 504 : 500, "text/plain", "late", {}}); });
      },
      settings);
  Client c(s.port());
  c.send(kGet);
  EXPECT_THAT(c.read("late"), StartsWith("HTTP/1.1 504 "));
}

TEST(HttpServer, StoppingLetsStreamsFinishThenEndsThem) {
  HttpSettings settings;
  settings.drain = std::chrono::milliseconds(100);
  std::promise<void> arrived;
  std::atomic<int> requests{0};
  Running s(
      [&](HttpRequest&&, const std::shared_ptr<HttpExchange>& e) {
        e->begin({});
        e->send("first");
        e->on_end([e](HttpEnd reason) {
          e->send(reason == HttpEnd::kStopping ? "stopping" : "other");
          e->finish();
        });
        if (++requests == 1) arrived.set_value();
      },
      settings);
  Client c(s.port()), idle(s.port());
  c.send(kGet);
  arrived.get_future().wait();
  s.stop();
  EXPECT_THAT(c.read(), AllOf(HasSubstr("first"), HasSubstr("stopping"), ::testing::EndsWith("0\r\n\r\n")));
  EXPECT_EQ(idle.read(), "");
}

TEST(HttpServer, PiecesMayComeFromOtherThreads) {
  HttpServer* server = nullptr;
  std::vector<std::thread> threads;
  Running s([&](HttpRequest&&, const std::shared_ptr<HttpExchange>& e) {
    e->begin({});
    threads.emplace_back([&server, e] {
      for (int i = 0; i < 100; ++i) server->post([e] { e->send("x"); });
      server->post([e] { e->finish(); });
    });
  });
  server = &s.server();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 20; ++i) clients.push_back(std::make_unique<Client>(s.port()));
  for (const auto& c : clients) c->send("GET / HTTP/1.0\r\nHost: h\r\n\r\n");
  for (const auto& c : clients) EXPECT_THAT(c->read(), ::testing::EndsWith("\r\n\r\n" + std::string(100, 'x')));
  s.stop();
  for (std::thread& t : threads) t.join();
}

TEST(HttpServer, APortInUseIsAnError) {
  Running s(echo);
  HttpSettings settings;
  settings.port = s.port();
  EXPECT_THROW(HttpServer{settings}, Error);
  settings.host = "example.org";
  EXPECT_THROW(HttpServer{settings}, Error);
}

}  // namespace
}  // namespace rorqual
