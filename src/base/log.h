// Messages for people, always on standard error: standard output belongs to results.
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace rorqual {

void log_line(std::string_view text);     // as it is
void log_warning(std::string_view text);  // behind "warning: "

template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  log_warning(fmt::format(format, std::forward<Args>(args)...));
}

// One line that is rewritten in place on a terminal; elsewhere a plain line at most every `plain_interval_s` seconds.
// Messages logged meanwhile appear above it. Thread-safe.
class ProgressLine {
 public:
  explicit ProgressLine(double plain_interval_s = 5.0);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  // `always` prints also when the interval has not passed (the last step).
  void update(std::string_view text, bool always = false);

 private:
  double plain_interval_s_;
  double last_s_ = -1e9;
};

}  // namespace rorqual
