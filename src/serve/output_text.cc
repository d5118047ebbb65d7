#include "serve/output_text.h"

#include <algorithm>

#include "base/error.h"
#include "data/unicode.h"

namespace rorqual {
namespace {

// Bytes of `text` that end on a whole UTF-8 sequence; an invalid byte counts as whole.
size_t whole_utf8(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto c = static_cast<unsigned char>(text[text.size() - back]);
    if ((c & 0xc0) == 0x80) continue;
    const size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
    return length > back ? text.size() - back : text.size();
  }
  return text.size();
}

}  // namespace

std::string valid_utf8(std::string_view text) {
  std::string out;
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const int bytes = decode_utf8(p, end).bytes;
    if (bytes == 0)
      out += "\xEF\xBF\xBD";
    else
      out.append(p, static_cast<size_t>(bytes));
    p += std::max(bytes, 1);
  }
  return out;
}

OutputText::OutputText(std::vector<std::string> stop) : stop_(std::move(stop)) {
  for (const std::string& s : stop_)
    if (s.empty()) fail_usage("a stop string must not be empty");
}

bool OutputText::add(std::string_view bytes) {
  if (stopped_) return true;
  pending_ += bytes;
  // What was held back before begins with every stop string that is not yet ruled out.
  size_t first = std::string::npos;
  for (const std::string& s : stop_) first = std::min(first, pending_.find(s));
  if (first == std::string::npos) return false;
  pending_.resize(first);
  return stopped_ = true;
}

size_t OutputText::held_back() const {
  size_t held = 0;
  for (const std::string& s : stop_)
    for (size_t n = std::min(s.size() - 1, pending_.size()); n > held; --n)
      if (pending_.ends_with(std::string_view(s).substr(0, n))) held = n;
  return held;
}

std::string OutputText::take(bool end) {
  size_t shown = pending_.size();
  if (!end) shown = whole_utf8(std::string_view(pending_).substr(0, pending_.size() - (stopped_ ? 0 : held_back())));
  std::string text = valid_utf8(std::string_view(pending_).substr(0, shown));
  pending_.erase(0, shown);
  return text;
}

}  // namespace rorqual
