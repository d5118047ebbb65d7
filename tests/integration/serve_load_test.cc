// The server under load, bounded: a thousand streams at once, and a hundred thousand requests that are none.
// RORQUAL_LOAD_S: seconds of the streams (20).
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/rng.h"
#include "tests/integration/serve_program.h"

namespace rorqual {
namespace {

constexpr size_t kStreams = 1000;

int connect_to(uint16_t port) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  CHECK(socket >= 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  ::inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
  CHECK(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  return socket;
}

void send_all(int socket, const std::string& text) {
  CHECK(::send(socket, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
}

std::string request_with(const std::string& body) {
  return "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

// Streams that begin anew when they end, on connections that stay. A stream that is cut off, refused or without its end counts
// as lost.
class Streams {
 public:
  Streams(uint16_t port, std::string body) : request_(request_with(body)) {
    for (size_t i = 0; i < kStreams; ++i) {
      polled_.push_back({connect_to(port), POLLIN, 0});
      text_.emplace_back();
      send_all(polled_[i].fd, request_);
    }
  }
  ~Streams() {
    for (const pollfd& p : polled_) ::close(p.fd);
  }
  Streams(const Streams&) = delete;
  Streams& operator=(const Streams&) = delete;

  // Until every stream has ended after `end_s`.
  void run(double end_s) {
    size_t open = kStreams;
    while (open > 0 && seconds_now() < end_s + 300) {
      CHECK(::poll(polled_.data(), polled_.size(), 1000) >= 0);
      for (size_t i = 0; i < kStreams; ++i)
        if (polled_[i].fd >= 0 && polled_[i].revents != 0 && !take(i, seconds_now() < end_s)) --open;
    }
    lost_ += static_cast<int64_t>(open);
  }
  int64_t finished() const { return finished_; }
  int64_t lost() const { return lost_; }

 private:
  // False: this connection is done.
  bool take(size_t i, bool again) {
    char buffer[1 << 16];
    const ssize_t n = ::recv(polled_[i].fd, buffer, sizeof buffer, 0);
    if (n > 0) text_[i].append(buffer, static_cast<size_t>(n));
    const bool whole = text_[i].ends_with("data: [DONE]\n\n\r\n0\r\n\r\n");
    if (n > 0 && !whole) {
      if (text_[i].size() > 4096 && text_[i].starts_with("HTTP/1.1 200")) text_[i].erase(12, text_[i].size() - 12 - 64);
      return true;
    }
    const bool good = whole && text_[i].starts_with("HTTP/1.1 200");
    ++(good ? finished_ : lost_);
    text_[i].clear();
    if (good && again) {
      send_all(polled_[i].fd, request_);
      return true;
    }
    ::close(polled_[i].fd);
    polled_[i].fd = -1;
    return false;
  }

  std::string request_;
  std::vector<pollfd> polled_;
  std::vector<std::string> text_;
  int64_t finished_ = 0, lost_ = 0;
};

int64_t resident(const ServeProgram& s) {
  const std::string text = s.curl("/metrics").body, name = "\nprocess_resident_memory_bytes ";
  return std::atoll(text.c_str() + text.find(name) + name.size());
}

void raise_file_limit() {
  rlimit limit{};
  CHECK(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  limit.rlim_cur = limit.rlim_max;
  CHECK(::setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > kStreams + 100, "raise the limit of open files");
}

TEST(ServeLoadLongTest, AThousandStreamsLoseNothingAndHoldMemory) {
  raise_file_limit();
  const char* seconds = std::getenv("RORQUAL_LOAD_S");
  const double time_s = seconds ? std::atof(seconds) : 20;
  const ServedRuns models;
  const ServeProgram s(models, {models.run(), "--max-running", "256", "--cache-tokens", "65536"});
  const std::string body = R"({"prompt": "the page ", "stream": true, "max_tokens": 32})";
  {
    Streams warm(s.port(), body);  // buffers grow to what a thousand streams need
    warm.run(seconds_now() + 0.2 * time_s);
    EXPECT_EQ(warm.lost(), 0);
  }
  const int64_t before = resident(s);
  Streams streams(s.port(), body);
  const double begin = seconds_now();
  streams.run(begin + time_s);
  const int64_t after = resident(s);
  info("{} streams in {:.0f} s, {} lost; memory {:.1f} MiB, then {:.1f} MiB", streams.finished(), seconds_now() - begin,
       streams.lost(), static_cast<double>(before) / 0x1p20, static_cast<double>(after) / 0x1p20);
  EXPECT_EQ(streams.lost(), 0);
  EXPECT_GE(streams.finished(), static_cast<int64_t>(kStreams));
  // The allocator's own slack; a leak of 1 KiB a stream would pass it within minutes.
  EXPECT_LE(after, before + (16 << 20));
  EXPECT_TRUE(s.becomes("rorqual_cache_blocks_used", 0));
}

// A good request with bytes changed, taken out, doubled or put in.
std::string mangled(std::string text, uint64_t n) {
  const RandomKey key{n, RandomPurpose::kTest, 0, 0};
  const uint64_t changes = 1 + random_below(key, 0, 8);
  for (uint64_t c = 0; c < changes && !text.empty(); ++c) {
    const auto at = static_cast<size_t>(random_below(key, 4 * c + 1, text.size()));
    const auto byte = static_cast<char>(random_below(key, 4 * c + 2, 256));
    switch (random_below(key, 4 * c + 3, 5)) {
      case 0:
        text[at] = byte;
        break;
      case 1:
        text.erase(at, 1 + random_below(key, 4 * c + 4, 16));
        break;
      case 2:
        text.insert(at, text.substr(at, 16));
        break;
      case 3:
        text.insert(at, 1, byte);
        break;
      default:
        text[at] = "{}[]\",:0-\r\n\\\xff"[static_cast<size_t>(random_below(key, 4 * c + 4, 13))];
    }
  }
  return text;
}

TEST(ServeLoadLongTest, AHundredThousandBadRequestsGetNo500) {
  const ServedRuns models;
  const ServeProgram s(models, {models.run(), models.talker()});
  const std::vector<std::string> good = {
      request_with(R"({"model": "run", "prompt": "a", "max_tokens": 1, "stop": ["x"], "logit_bias": {"5": 1.5}, "seed": 3})"),
      request_with(R"({"model": "run", "prompt": [[1, 2], [3]], "max_tokens": 1, "logprobs": 2, "echo": true})"),
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 103\r\n\r\n"
      R"({"model": "talker", "max_tokens": 1, "n": 2, "messages": [{"role": "user", "content": "Hi \u00e9\ud83d\ude00"}]})",
      "GET /api/models HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\r\n",
  };
  int64_t failed = 0, answered = 0;
  for (uint64_t n = 0; n < 100'000; ++n) {
    const int socket = connect_to(s.port());
    const linger reset{1, 0};  // leave no port in TIME_WAIT
    ::setsockopt(socket, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    const std::string text = mangled(good[n % good.size()], n);
    ::send(socket, text.data(), text.size(), MSG_NOSIGNAL);
    ::shutdown(socket, SHUT_WR);
    std::string answer;
    char buffer[4096];
    for (ssize_t got = 0; (got = ::recv(socket, buffer, sizeof buffer, 0)) > 0;)
      answer.append(buffer, static_cast<size_t>(got));
    ::close(socket);
    answered += answer.starts_with("HTTP/1.1 ");
    if (answer.starts_with("HTTP/1.1 500")) ++failed, ADD_FAILURE() << "request " << n << ": " << text << "\n" << answer;
    ASSERT_LT(failed, 10);
  }
  info("{} of 100000 answered", answered);
  EXPECT_EQ(s.curl("/health").status, 200) << "it still lives";
  EXPECT_TRUE(s.becomes("rorqual_requests_running", 0));
}

}  // namespace
}  // namespace rorqual
