// Runs the built program as a user does.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace rorqual {

struct ProgramResult {
  int code = 0;  // 128 + signal where a signal ended it
  std::string out, err;
};

// `arguments` as typed in a shell, behind the program's name; `environment` as in "OMP_NUM_THREADS=2", or any shell words that
// stand before a command ("ulimit -f 8;").
ProgramResult run_rorqual(const std::string& arguments, const std::string& environment = "");

// A program that runs beside the test. Its output is thrown away.
class BackgroundProgram {
 public:
  explicit BackgroundProgram(const std::vector<std::string>& arguments);
  ~BackgroundProgram();
  BackgroundProgram(const BackgroundProgram&) = delete;
  BackgroundProgram& operator=(const BackgroundProgram&) = delete;

  void signal(int number) const;
  int wait();  // its exit code; 128 + signal where a signal ended it

 private:
  pid_t pid_ = -1;
};

// A folder of its own, removed with the object, that holds a corpus of about 24 kB (folder "text", 60 documents of a few
// phrases) and "mini.toml", a copy of tests/mini.toml with what the design has (query LoRA, groups, a shared expert, a dense
// layer, MTP, fill-in-the-middle, EMA), 8 steps of a few milliseconds.
class Workbench {
 public:
  Workbench();
  ~Workbench();
  Workbench(const Workbench&) = delete;
  Workbench& operator=(const Workbench&) = delete;

  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }
  std::string at(std::string_view name) const { return (path_ / name).string(); }
  void write(std::string_view name, std::string_view content) const;
  // train mini.toml --out NAME, with the corpus unless `arguments` resume.
  ProgramResult train(const std::string& name, const std::string& arguments = "", const std::string& environment = "") const;

 private:
  std::filesystem::path path_;
};

// What a run has computed: its newest checkpoint's files as bytes but for state.json's paths, and the metrics without what
// depends on the clock.
std::map<std::string, std::string> outcome(const std::filesystem::path& run);

// The difference in words, "" if there is none.
std::string outcome_difference(const std::map<std::string, std::string>& a, const std::map<std::string, std::string>& b);

}  // namespace rorqual
