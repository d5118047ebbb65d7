// The rules of the house that a program can check, as functions from a file's text to what is wrong with it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rorqual {

struct SourceFile {
  std::string path;  // from the repository's root, as in "src/base/file.cc"
  std::string text;
};

struct StructureRule {
  std::string_view name;
  // "path:line: what is wrong, what to do", one entry a place; empty where the rule is kept.
  std::vector<std::string> (*check)(const SourceFile& file);
};

const std::vector<StructureRule>& structure_rules();

// All .h and .cc files below src/, tests/ and bench/, in the order of their paths.
std::vector<SourceFile> read_source_files();

}  // namespace rorqual
