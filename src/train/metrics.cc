#include "train/metrics.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {

JsonLines::JsonLines(std::filesystem::path path, int64_t last_step) : path_(std::move(path)) {
  std::string kept;
  if (std::filesystem::exists(path_))
    for (const nlohmann::ordered_json& line : read_json_lines(path_))
      if (line.value("step", int64_t{0}) <= last_step) kept += line.dump() + "\n";
  write_file_atomically(path_, kept);
  out_.open(path_, std::ios::app);
  if (!out_) fail("cannot write {}", path_.string());
}

void JsonLines::append(const nlohmann::ordered_json& line) {
  out_ << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n" << std::flush;
  if (!out_) fail("cannot write {}: free some space and go on with --resume", path_.string());
}

std::vector<nlohmann::ordered_json> read_json_lines(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  std::vector<nlohmann::ordered_json> lines;
  for (size_t begin = 0, number = 1; begin < text.size(); ++number) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // torn
    nlohmann::ordered_json line = nlohmann::ordered_json::parse(text.substr(begin, end - begin), nullptr, false);
    if (!line.is_object()) fail("{}:{}: not a JSON object", path.string(), number);
    lines.push_back(std::move(line));
    begin = end + 1;
  }
  return lines;
}

}  // namespace rorqual
