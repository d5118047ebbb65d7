#include "serve/tool_calls.h"

#include <algorithm>
#include <optional>

namespace rorqual {
namespace {

constexpr std::string_view kCallsBegin = "<｜tool▁calls▁begin｜>", kCallsEnd = "<｜tool▁calls▁end｜>",
                           kCallBegin = "<｜tool▁call▁begin｜>", kCallEnd = "<｜tool▁call▁end｜>",
                           kSeparator = "<｜tool▁sep｜>", kFence = "\n```json\n";

// Bytes at the end of `text` that could begin `marker`.
size_t held_back(std::string_view text, std::string_view marker) {
  for (size_t n = std::min(text.size(), marker.size() - 1); n > 0; --n)
    if (text.substr(text.size() - n) == marker.substr(0, n)) return n;
  return 0;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n"), end = text.find_last_not_of(" \t\r\n");
  return begin == text.npos ? std::string_view() : text.substr(begin, end + 1 - begin);
}

// What stands between call▁begin and call▁end.
std::optional<ToolCall> parse_call(std::string_view text) {
  const size_t separator = text.find(kSeparator);
  if (separator == text.npos) return {};
  const std::string_view before = trimmed(text.substr(0, separator)), after = text.substr(separator + kSeparator.size());
  const size_t fence = after.find(kFence);
  if (before == "function" && fence != after.npos) {
    std::string_view arguments = trimmed(after.substr(fence + kFence.size()));
    if (arguments.ends_with("```")) arguments.remove_suffix(3);
    return ToolCall{std::string(trimmed(after.substr(0, fence))), std::string(trimmed(arguments))};
  }
  if (before.empty()) return {};
  return ToolCall{std::string(before), std::string(trimmed(after))};
}

}  // namespace

// Takes one part off the pending text; false: more is needed.
bool ToolCallParser::step(Output& out, bool end) {
  if (!inside_) {
    const size_t begin = pending_.find(kCallsBegin);
    const size_t shown = begin != pending_.npos ? begin : pending_.size() - (end ? 0 : held_back(pending_, kCallsBegin));
    out.content += pending_.substr(0, shown);
    pending_.erase(0, shown + (begin != pending_.npos ? kCallsBegin.size() : 0));
    inside_ = begin != std::string::npos;
    return inside_;
  }
  const size_t last = pending_.find(kCallsEnd), call_end = pending_.find(kCallEnd);
  if (call_end != pending_.npos && call_end < last) {
    const size_t begin = pending_.find(kCallBegin);
    const size_t body = begin < call_end ? begin + kCallBegin.size() : 0;
    if (auto call = parse_call(std::string_view(pending_).substr(body, call_end - body)))
      out.calls.push_back(std::move(*call));
    else
      out.content += pending_.substr(0, call_end + kCallEnd.size());
    pending_.erase(0, call_end + kCallEnd.size());
    return true;
  }
  if (last != pending_.npos) {
    out.content += trimmed(std::string_view(pending_).substr(0, last));
    pending_.erase(0, last + kCallsEnd.size());
    inside_ = false;
    return !pending_.empty();
  }
  if (end) {
    out.content += trimmed(pending_);
    pending_.clear();
  }
  return false;
}

ToolCallParser::Output ToolCallParser::add(std::string_view piece, bool end) {
  Output out;
  pending_ += piece;
  while (!pending_.empty() && step(out, end)) {
  }
  return out;
}

std::string forced_tool_call(ToolFormat format, const std::string& name) {
  std::string text(kCallsBegin);
  text += kCallBegin;
  if (format == ToolFormat::kV3) {
    text += "function";
    text += kSeparator;
    if (!name.empty()) text += name + std::string(kFence);
  } else if (!name.empty()) {
    text += name + std::string(kSeparator);
  }
  return text;
}

std::string end_of_tool_call(ToolFormat format) {
  return std::string(format == ToolFormat::kV3 ? "\n```" : "") + std::string(kCallEnd) + std::string(kCallsEnd);
}

}  // namespace rorqual
