#include "base/log.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <mutex>
#include <string>

#include "base/clock.h"

namespace rorqual {
namespace {

// Writes to standard error and keeps the progress line, if one is shown, below everything else.
class TerminalSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  void set_progress(std::string text) {
    std::lock_guard lock(mutex_);
    progress_ = std::move(text);
    draw();
  }
  void clear_progress() {
    std::lock_guard lock(mutex_);
    erase();
    progress_.clear();
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& msg) override {
    erase();
    if (msg.level >= spdlog::level::warn) std::fputs("warning: ", stderr);
    std::fwrite(msg.payload.data(), 1, msg.payload.size(), stderr);
    std::fputc('\n', stderr);
    draw();
  }
  void flush_() override { std::fflush(stderr); }

 private:
  void erase() {
    if (!progress_.empty()) std::fputs("\r\x1b[K", stderr);
  }
  void draw() {
    if (!progress_.empty()) std::fprintf(stderr, "\r\x1b[K%s", progress_.c_str());
    std::fflush(stderr);
  }
  std::string progress_;
};

TerminalSink& sink() {
  static const auto instance = std::make_shared<TerminalSink>();
  return *instance;
}

spdlog::logger& logger() {
  static spdlog::logger instance("rorqual", std::shared_ptr<TerminalSink>(&sink(), [](TerminalSink*) {}));
  return instance;
}

}  // namespace

void log_line(std::string_view text) {
  logger().log(spdlog::level::info, "{}", text);
}
void log_warning(std::string_view text) {
  logger().log(spdlog::level::warn, "{}", text);
}

ProgressLine::ProgressLine(double plain_interval_s) : plain_interval_s_(plain_interval_s) {}

ProgressLine::~ProgressLine() {
  if (isatty(STDERR_FILENO)) sink().clear_progress();
}

void ProgressLine::update(std::string_view text, bool always) {
  if (isatty(STDERR_FILENO)) {
    sink().set_progress(std::string(text));
    return;
  }
  const double now = seconds_now();
  if (!always && now - last_s_ < plain_interval_s_) return;
  last_s_ = now;
  log_line(text);
}

}  // namespace rorqual
