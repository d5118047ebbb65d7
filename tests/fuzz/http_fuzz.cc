// Arbitrary bytes as HTTP requests to the routes of a server without a model. What parses must get one answer, JSON or a known
// text, and no 500. (tests/integration/serve_load_test.cc sends such bytes over connections.)
#include <cstdint>
#include <cstdlib>
#include <string>

#include "serve/api.h"
#include "serve/http_parse.h"

namespace {

using namespace rorqual;
namespace http = boost::beast::http;

class Recorder : public HttpExchange {
 public:
  void answer(HttpAnswer a) override {
    if (++answers > 1 || a.status == 500) std::abort();
    if (a.content_type == "application/json" && !nlohmann::json::accept(a.body)) std::abort();
  }
  void begin(HttpAnswer) override { std::abort(); }
  void send(std::string_view) override { std::abort(); }
  void finish() override {}
  void on_end(std::function<void(HttpEnd)>) override {}
  int answers = 0;
};

Api& api() {
  static ModelStore store("/nonexistent");
  static ModelHost host({});
  static Api api({}, host, store, [](const std::function<void()>&) {});
  return api;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  boost::beast::error_code error;
  for (size_t at = 0; at < size && !error;) {
    http::request_parser<http::string_body> parser;
    parser.eager(true);
    parser.header_limit(16 << 10);
    parser.body_limit(1 << 20);
    size_t used = 0;
    while (at < size && !error && !parser.is_done()) {
      used = parser.put(boost::asio::buffer(data + at, size - at), error);
      at += used;
      if (used == 0) break;
    }
    if (!parser.is_done()) return 0;
    HttpRequest request = to_request(parser.release());
    const bool later = request.path == "/api/models";  // a worker answers
    const auto exchange = std::make_shared<Recorder>();
    api().handle(std::move(request), exchange);
    if (exchange->answers != 1 && !later) std::abort();
  }
  return 0;
}
