// Text as Python sees it: UTF-8 bytes counted by characters.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace rorqual::jinja {

// What goes wrong inside an operation. The evaluator adds the template's name and the line.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure(fmt::format(format, std::forward<Args>(args)...));
}

inline constexpr int64_t kStepWork = 32, kElementWork = 16;

// What a rendering may still cost.
class Budget {
 public:
  explicit Budget(int64_t work) : left_(work) {}
  void charge(size_t work) {
    if (work > static_cast<uint64_t>(left_))
      refuse("the template does more work than a chat template may (endless loops, huge texts)");
    left_ -= static_cast<int64_t>(work);
  }
  void charge_elements(size_t count) {
    if (count > static_cast<uint64_t>(left_ / kElementWork)) charge(SIZE_MAX);
    charge(count * kElementWork);
  }

 private:
  int64_t left_;
};

// A short form for messages.
std::string shortened(std::string_view text);

// Error that names `name` and the line of the first byte that is no UTF-8.
void check_utf8(std::string_view text, const std::string& name);
bool is_utf8(std::string_view text);

size_t character_count(std::string_view text);
// Where each character begins, and the end.
std::vector<size_t> character_starts(std::string_view text);

// Python's str.isspace: White_Space and U+001C to U+001F.
bool is_space(char32_t code);
size_t end_of_space(std::string_view text, size_t from);
size_t start_of_trailing_space(std::string_view text);
// Without the characters of `set` (nothing: white space) at the ends.
std::string_view strip(std::string_view text, const std::optional<std::string>& set, bool left, bool right);

enum class Case : uint8_t { kUpper, kLower };
// By Unicode's simple mappings; Error for the few characters whose mapping is longer or depends on their place.
std::string to_case(std::string_view text, Case to);
std::string capitalised(std::string_view text);

void append_utf8_escaped(std::string_view text, bool ensure_ascii, std::string& out);  // inside a JSON string
void append_repr(std::string_view text, std::string& out);                             // Python's repr of a str
std::string replaced(std::string_view text, std::string_view from, std::string_view to, int64_t count, Budget& budget);

}  // namespace rorqual::jinja
