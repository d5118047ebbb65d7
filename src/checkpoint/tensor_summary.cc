#include "checkpoint/tensor_summary.h"

#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "base/error.h"

namespace rorqual {
namespace {

// "{0..2,5}", or "7" alone.
std::string ranges(const std::set<int64_t>& numbers) {
  std::string text;
  for (auto it = numbers.begin(); it != numbers.end();) {
    const int64_t first = *it;
    int64_t last = first;
    while (++it != numbers.end() && *it == last + 1) ++last;
    text += text.empty() ? "" : ",";
    text += first == last ? fmt::format("{}", first) : fmt::format("{}..{}", first, last);
  }
  return numbers.size() == 1 ? text : "{" + text + "}";
}

struct Numbered {
  std::string before, after;
  int64_t number = 0;
};

// Cuts "…word.N.…" at N.
std::optional<Numbered> cut(const std::string& name, const std::string& word) {
  const std::string mark = word + ".";
  const size_t at = name.find(mark);
  if (at == std::string::npos || (at > 0 && name[at - 1] != '.')) return std::nullopt;
  const char* begin = name.data() + at + mark.size();
  const char* const end = name.data() + name.size();
  Numbered result;
  const auto [stop, error] = std::from_chars(begin, end, result.number);
  if (error != std::errc() || stop == end || *stop != '.') return std::nullopt;
  result.before = name.substr(0, at + mark.size());
  result.after = std::string(stop, end);
  return result;
}

std::vector<TensorLine> fold(const std::vector<TensorLine>& lines, const std::string& word) {
  using Key = std::tuple<std::string, std::string, std::string, std::vector<int64_t>, int64_t>;
  std::map<Key, size_t> places;
  std::vector<TensorLine> folded;
  std::vector<std::optional<Numbered>> parts;  // of each line of `folded`
  std::vector<std::set<int64_t>> numbers;
  for (const TensorLine& line : lines) {
    const std::optional<Numbered> part = cut(line.name, word);
    if (!part) {
      folded.push_back(line);
      parts.emplace_back();
      numbers.emplace_back();
      continue;
    }
    const auto [it, fresh] =
        places.try_emplace({part->before, part->after, line.dtype, line.shape, line.tensors}, folded.size());
    if (fresh) {
      folded.push_back(line);
      folded.back().tensors = 0;
      parts.push_back(part);
      numbers.emplace_back();
    }
    folded[it->second].tensors += line.tensors;
    numbers[it->second].insert(part->number);
  }
  for (size_t i = 0; i < folded.size(); ++i)
    if (parts[i]) folded[i].name = parts[i]->before + ranges(numbers[i]) + parts[i]->after;
  return folded;
}

}  // namespace

std::vector<TensorLine> summarise(const std::vector<TensorLine>& tensors) {
  return fold(fold(fold(tensors, "experts"), "layers"), "blk");  // blk: the layers of a GGUF file
}

}  // namespace rorqual
