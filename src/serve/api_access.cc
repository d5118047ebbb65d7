// Who may ask: keys and names.
#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "serve/api.h"

namespace rorqual {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  return out;
}

// "[::1]:8080" → "::1", "localhost:8080" → "localhost".
std::string name_of(std::string_view header) {
  if (header.starts_with("[")) {
    const size_t close = header.find(']');
    return close == header.npos ? std::string() : lower(header.substr(1, close - 1));
  }
  return lower(header.substr(0, header.find(':')));
}

// An address in digits cannot be made to point elsewhere.
bool is_address(const std::string& name) {
  const bool v4 = std::all_of(name.begin(), name.end(), [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
  return !name.empty() && (v4 || name.find(':') != name.npos);
}

}  // namespace

std::vector<std::string> read_api_keys(const std::filesystem::path& file) {
  std::vector<std::string> keys;
  const std::string text = read_file(file);
  for (size_t begin = 0, line = 1; begin < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string key = text.substr(begin, end - begin);
    begin = end + 1;
    while (!key.empty() && (key.back() == '\r' || key.back() == ' ' || key.back() == '\t')) key.pop_back();
    if (key.empty() || key[0] == '#') continue;
    if (!std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < '\x7f'; }))
      fail_usage("{}:{}: a key may hold visible ASCII letters alone", file.string(), line);
    keys.push_back(std::move(key));
  }
  if (keys.empty()) fail_usage("{}: there is no key in it: write one a line", file.string());
  return keys;
}

bool constant_time_equal(std::string_view a, std::string_view b) {
  volatile unsigned char difference = a.size() != b.size();
  for (size_t i = 0; i < a.size(); ++i) {
    const char other = b.empty() ? '\0' : b[i % b.size()];
    difference = static_cast<unsigned char>(difference | static_cast<unsigned char>(a[i] ^ other));
  }
  return difference == 0;
}

bool host_allowed(std::string_view header, const ApiSettings& settings) {
  const std::string name = name_of(header);
  if (name.empty()) return false;
  if (name == "localhost" || name == "127.0.0.1" || name == "::1") return true;
  if (name == lower(settings.host)) return true;
  const bool everywhere = settings.host == "0.0.0.0" || settings.host == "::";
  if (everywhere && is_address(name)) return true;
  return std::any_of(settings.allowed_hosts.begin(), settings.allowed_hosts.end(),
                     [&](const std::string& allowed) { return lower(allowed) == name; });
}

}  // namespace rorqual
