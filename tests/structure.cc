#include "tests/structure.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <sstream>

#include "base/file.h"

namespace rorqual {
namespace {

constexpr size_t kMostLines = 600;

// From the ground up; a folder includes its own files and those of lower floors (docs/architecture.md).
const std::map<std::string, int, std::less<>>& floors() {
  static const std::map<std::string, int, std::less<>> table = {
      {"base", 0},  {"numerics", 1}, {"plan", 1},    {"data", 1},     {"grammar", 1}, {"jinja", 2},      {"tensor", 2},
      {"comm", 2},  {"hopper", 2},   {"kernels", 3}, {"exchange", 4}, {"model", 5},   {"checkpoint", 6}, {"train", 7},
      {"serve", 7}, {"sim", 8},      {"rl", 8},      {"eval", 8},     {"bench", 8},   {"experiment", 8}, {"cli", 9}};
  return table;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> parts_of(std::string_view path) {
  std::vector<std::string> parts(1);
  for (const char c : path) {
    if (c == '/')
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

bool is_isa_file(std::string_view path) {
  return path.ends_with("avx2.cc") || path.ends_with("avx512.cc") || path.ends_with("amx.cc");
}

bool is_test_like(std::string_view path) {
  return !path.starts_with("src/") || path.ends_with("_test.cc") || path.ends_with("_bench.cc") || path.ends_with("_fuzz.cc") ||
         path.find("test_util") != std::string_view::npos || path.find("_testing.h") != std::string_view::npos;
}

std::string at(const SourceFile& file, size_t line) {
  return fmt::format("{}:{}: ", file.path, line + 1);
}

// What stands between the quotes (or, for `system`, the angles) of an #include line; empty if it is none.
std::string include_of(const std::string& line, bool system = false) {
  const size_t hash = line.find_first_not_of(" \t");
  if (hash == std::string::npos || line.compare(hash, 8, "#include") != 0) return "";
  const size_t open = line.find(system ? '<' : '"'), close = line.find(system ? '>' : '"', open + 1);
  return open == std::string::npos || close == std::string::npos ? "" : line.substr(open + 1, close - open - 1);
}

// Why src/<from> may not include "<to>"; empty if it may.
std::string floor_objection(const std::vector<std::string>& from, const std::vector<std::string>& to, bool test) {
  const std::string& a = from[1];
  const std::string& b = to[0];
  if (to.size() < 2) return "write the path from src/, as in \"base/file.h\"";
  if (test && b == "tests") return "";
  if (!floors().contains(b)) return fmt::format("the house has no folder '{}'", b);
  if (!floors().contains(a)) return fmt::format("the house has no folder '{}': give it a floor", a);
  const int own = floors().at(a), other = floors().at(b);
  if (other > own) return fmt::format("{}/ stands above {}/", b, a);
  if (test) return "";
  if (other == own && a != b) return fmt::format("{}/ is a neighbour of {}/ on the same floor", b, a);
  if (a != "kernels" || from.size() < 4) return "";
  if (from.back() == "all.cc" && from[2] == "common") return "";  // the list of operations
  if (b == "kernels" && to.size() > 2 && to[1] != from[2] && to[1] != "common")
    return fmt::format("kernels/{} is another operation: shared code stands in kernels/common", to[1]);
  const bool gpu = b == "hopper" && from.back().find("sm90a") != std::string::npos;
  if (b != "kernels" && b != "tensor" && b != "numerics" && b != "base" && !gpu) return "kernels know tensors and numbers only";
  return "";
}

std::vector<std::string> check_floors(const SourceFile& file) {
  std::vector<std::string> wrong;
  const auto from = parts_of(file.path);
  if (from[0] != "src" || from.size() < 3) return wrong;
  const auto lines = lines_of(file.text);
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string include = include_of(lines[i]);
    if (include.empty()) continue;
    const std::string why = floor_objection(from, parts_of(include), is_test_like(file.path));
    if (!why.empty()) wrong.push_back(at(file, i) + "includes \"" + include + "\": " + why);
  }
  return wrong;
}

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
}

// A symbol of an instruction set: its namespace followed by ::, or an identifier that ends in its name.
bool names_isa_symbol(std::string_view line) {
  for (const std::string_view isa : {"avx2", "avx512", "amx"}) {
    for (size_t p = line.find(isa); p != std::string_view::npos; p = line.find(isa, p + 1)) {
      const size_t end = p + isa.size();
      if (end < line.size() && is_word(line[end])) continue;
      const bool qualified = line.substr(end).starts_with("::") && (p == 0 || !is_word(line[p - 1]));
      const bool suffix = p > 1 && line[p - 1] == '_' && is_word(line[p - 2]) && (end >= line.size() || line[end] != '.');
      if (qualified || suffix) return true;
    }
  }
  return false;
}

std::string_view without_comment(std::string_view line) {
  return line.substr(0, line.find("//"));
}

std::vector<std::string> check_isa_symbols(const SourceFile& file) {
  std::vector<std::string> wrong;
  const bool may =
      is_isa_file(file.path) || file.path.ends_with("/select.cc") || is_test_like(file.path) || file.path.ends_with(".h");
  if (may) return wrong;
  const auto lines = lines_of(file.text);
  for (size_t i = 0; i < lines.size(); ++i)
    if (names_isa_symbol(without_comment(lines[i])))
      wrong.push_back(at(file, i) +
                      "names a symbol of an instruction set: only select.cc does, everyone else calls the operation");
  return wrong;
}

// Inline code of other headers, compiled with an ISA's flags, may be the copy that the linker keeps for every CPU. The C
// headers and what the table of rows includes anyway are harmless or not to be had without.
std::vector<std::string> check_isa_includes(const SourceFile& file) {
  static constexpr std::array<std::string_view, 9> kSystem = {"immintrin.h", "x86intrin.h", "cstdint",  "cstddef", "cstring",
                                                              "stdint.h",    "stddef.h",    "string.h", "math.h"};
  std::vector<std::string> wrong;
  if (!is_isa_file(file.path) || !file.path.starts_with("src/kernels/")) return wrong;
  const std::string own = file.path.substr(4, file.path.rfind('/') - 3);
  const auto lines = lines_of(file.text);
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string include = include_of(lines[i]), system = include_of(lines[i], true);
    const bool allowed =
        include.empty() || include.starts_with(own) || include.starts_with("kernels/common/") || include == "base/threads.h";
    const bool allowed_system = system.empty() || std::find(kSystem.begin(), kSystem.end(), system) != kSystem.end();
    if (!allowed || !allowed_system)
      wrong.push_back(at(file, i) + "an ISA file includes only its operation's headers, kernels/common and intrinsics, not " +
                      (allowed ? system : include));
  }
  return wrong;
}

// Code for GPUs is compiled for the emulator too, so it is written in the functions of hopper/device.h alone.
std::vector<std::string> check_device_code(const SourceFile& file) {
  static constexpr std::array<std::string_view, 14> kCuda = {
      "__global__",    "__device__", "__shared__", "threadIdx", "blockIdx",      "blockDim", "gridDim",
      "__syncthreads", "__shfl",     "__ballot",   "<<<",       "__nv_bfloat16", "__nv_fp8", "asm"};
  std::vector<std::string> wrong;
  if (!file.path.ends_with(".cu")) return wrong;
  const std::string own = file.path.substr(4, file.path.rfind('/') - 3);
  const auto lines = lines_of(file.text);
  for (size_t i = 0; i < lines.size(); ++i) {
    for (const std::string_view word : kCuda)
      if (without_comment(lines[i]).find(word) != std::string_view::npos)
        wrong.push_back(at(file, i) + fmt::format("'{}': device code is written in the functions of hopper/device.h", word));
    const std::string include = include_of(lines[i]), system = include_of(lines[i], true);
    const bool allowed = include.empty() || include.starts_with(own) || include.starts_with("hopper/") ||
                         include.starts_with("numerics/") || include.starts_with("kernels/common/sm90a");
    if (!allowed || (!system.empty() && system != "cstdint" && system != "cstddef" && system != "type_traits"))
      wrong.push_back(at(file, i) + "device code includes hopper/, numerics/ and its operation's headers, not " +
                      (allowed ? system : include));
  }
  return wrong;
}

std::vector<std::string> check_length(const SourceFile& file) {
  const auto lines = lines_of(file.text);
  const bool generated = !lines.empty() && lines[0].find("enerated by") != std::string::npos;
  if (!file.path.starts_with("src/") || generated || lines.size() <= kMostLines) return {};
  return {fmt::format("{}:1: {} lines, {} are allowed: cut it at a seam", file.path, lines.size(), kMostLines)};
}

struct Ban {
  std::string_view text, instead;
  bool tests_too;
};

// The strings are cut in two so that this file keeps its own rule.
constexpr std::array<Ban, 8> kBans = {{
    {"#pragma "
     "omp",
     "use Stream::parallel (base/threads.h): the sanitizers see its threads", true},
    {"using namespace "
     "std",
     "write std::", true},
    {"TO"
     "DO",
     "do it, or open an issue", true},
    {"FIX"
     "ME",
     "fix it, or open an issue", true},
    {"XX"
     "X:",
     "say it as a fact, or open an issue", true},
    {"std::mt19937", "draw from base/rng.h: its numbers depend on the key alone", false},
    {"std::random_device", "draw from base/rng.h: its numbers depend on the key alone", false},
    {"std::"
     "rand(",
     "draw from base/rng.h: its numbers depend on the key alone", true},
}};

std::vector<std::string> check_bans(const SourceFile& file) {
  std::vector<std::string> wrong;
  const auto lines = lines_of(file.text);
  for (size_t i = 0; i < lines.size(); ++i)
    for (const Ban& ban : kBans)
      if (lines[i].find(ban.text) != std::string::npos && (ban.tests_too || !is_test_like(file.path)))
        wrong.push_back(at(file, i) + fmt::format("'{}': {}", ban.text, ban.instead));
  return wrong;
}

}  // namespace

const std::vector<StructureRule>& structure_rules() {
  static const std::vector<StructureRule> rules = {
      {"floors", check_floors},           {"isa symbols", check_isa_symbols}, {"isa includes", check_isa_includes},
      {"device code", check_device_code}, {"length", check_length},           {"bans", check_bans}};
  return rules;
}

std::vector<SourceFile> read_source_files() {
  std::vector<SourceFile> files;
  for (const char* top : {"src", "tests", "bench"}) {
    if (!std::filesystem::exists(top)) continue;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(top)) {
      const std::string extension = entry.path().extension().string();
      if (extension == ".h" || extension == ".cc" || extension == ".cu")
        files.push_back({entry.path().generic_string(), read_file(entry.path())});
    }
  }
  std::sort(files.begin(), files.end(), [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  return files;
}

}  // namespace rorqual
