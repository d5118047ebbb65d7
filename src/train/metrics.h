// RUN/metrics.jsonl: one line per optimizer step (docs/formats/metrics.md).
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace rorqual {

// Appends JSON lines; each line is flushed whole.
class JsonLines {
 public:
  // Keeps the lines whose "step" is at most `last_step` (a resumed run repeats what came after its checkpoint) and appends to
  // them.
  JsonLines(std::filesystem::path path, int64_t last_step);
  void append(const nlohmann::ordered_json& line);

 private:
  std::filesystem::path path_;
  std::ofstream out_;
};

// The lines of such a file. A torn last line (a killed process) is left out; any other damage is an Error with its line number.
std::vector<nlohmann::ordered_json> read_json_lines(const std::filesystem::path& path);

}  // namespace rorqual
