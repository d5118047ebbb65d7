// Errors: a user's mistake throws Error; a programmer's mistake hits CHECK, kept in release builds.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace rorqual {

// What the program's exit code says of an error.
enum class ErrorKind {
  kUsage = 2,    // a flag, a recipe or a config that cannot be right
  kRuntime = 1,  // a file, a disk, a checkpoint, the data
};

// The one exception users see. The message says what is wrong, where, and what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }

 private:
  ErrorKind kind_;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::kRuntime, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::kUsage, fmt::format(format, std::forward<Args>(args)...));
}

// Prints file, line, condition and message to standard error and aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& message);

}  // namespace rorqual

// CHECK(condition) or CHECK(condition, "format {}", value): true in every correct program, whatever the input.
#define CHECK(condition, ...)                                                                                         \
  do {                                                                                                                \
    if (!(condition)) ::rorqual::check_failed(__FILE__, __LINE__, #condition, ::rorqual::check_message(__VA_ARGS__)); \
  } while (false)

namespace rorqual {
inline std::string check_message() {
  return {};
}
template <class... Args>
std::string check_message(fmt::format_string<Args...> format, Args&&... args) {
  return fmt::format(format, std::forward<Args>(args)...);
}
}  // namespace rorqual
