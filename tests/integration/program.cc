#include "tests/integration/program.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

fs::path temporary_folder() {
  std::string folder = fs::temp_directory_path() / "rorqual_program_XXXXXX";
  CHECK(::mkdtemp(folder.data()) != nullptr);
  return folder;
}

int code_of(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

ProgramResult run_rorqual(const std::string& arguments, const std::string& environment) {
  const fs::path folder = temporary_folder();
  const std::string command = environment + " \"" RORQUAL_PROGRAM "\" </dev/null " + arguments + " >" +
                              (folder / "out").string() + " 2>" + (folder / "err").string();
  const int status = std::system(command.c_str());
  const ProgramResult result{code_of(status), read_file(folder / "out"), read_file(folder / "err")};
  fs::remove_all(folder);
  return result;
}

BackgroundProgram::BackgroundProgram(const std::vector<std::string>& arguments) {
  std::vector<const char*> argv = {RORQUAL_PROGRAM};
  for (const std::string& a : arguments) argv.push_back(a.c_str());
  argv.push_back(nullptr);
  pid_ = ::fork();
  CHECK(pid_ >= 0);
  if (pid_ > 0) return;
  const int nothing = ::open("/dev/null", O_RDWR);
  for (const int fd : {0, 1, 2}) ::dup2(nothing, fd);
  ::execv(argv[0], const_cast<char* const*>(argv.data()));
  ::_exit(127);
}

BackgroundProgram::~BackgroundProgram() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  wait();
}

void BackgroundProgram::signal(int number) const {
  ::kill(pid_, number);
}

int BackgroundProgram::wait() {
  int status = 0;
  CHECK(::waitpid(pid_, &status, 0) == pid_);
  pid_ = -1;
  return code_of(status);
}

Workbench::Workbench() : path_(temporary_folder()) {
  write("mini.toml", read_file("tests/mini.toml"));
  fs::create_directory(path_ / "text");
  for (uint64_t document = 0; document < 60; ++document) {
    std::string text;
    for (uint64_t i = 0; i < 40; ++i) {
      const uint64_t r = random_below({document, RandomPurpose::kTest, 0, 0}, i, 6);
      text += std::array{"the page ", "of memory ", "is locked ", "by the scheduler, ", "and then ", "freed.\n"}[r];
    }
    write("text/" + std::to_string(document) + ".txt", text);
  }
}

Workbench::~Workbench() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void Workbench::write(std::string_view name, std::string_view content) const {
  std::ofstream out(path_ / name, std::ios::binary);
  out << content;
  CHECK(out.good());
}

ProgramResult Workbench::train(const std::string& name, const std::string& arguments, const std::string& environment) const {
  const bool resume = arguments.find("--resume") != std::string::npos;
  return run_rorqual(
      "train " + at("mini.toml") + " --out " + at(name) + (resume ? " " : " --data " + at("text") + " ") + arguments,
      environment);
}

std::map<std::string, std::string> outcome(const fs::path& run) {
  std::map<std::string, std::string> out;
  fs::path newest;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints")) newest = std::max(newest, entry.path());
  out["name"] = newest.filename();
  for (const auto& entry : fs::directory_iterator(newest)) out[entry.path().filename()] = read_file(entry.path());
  const std::string metrics = read_file(run / "metrics.jsonl");
  for (size_t begin = 0; begin < metrics.size();) {
    const size_t end = metrics.find('\n', begin);
    nlohmann::ordered_json line = nlohmann::ordered_json::parse(metrics.substr(begin, end - begin));
    line.erase("tokens_per_s");
    line.erase("step_ms");
    out["metrics"] += line.dump() + "\n";
    begin = end == std::string::npos ? metrics.size() : end + 1;
  }
  return out;
}

std::string outcome_difference(const std::map<std::string, std::string>& a, const std::map<std::string, std::string>& b) {
  std::string difference;
  for (const auto& [key, value] : a) {
    const auto it = b.find(key);
    if (it == b.end()) {
      difference += key + " is missing; ";
    } else if (it->second != value) {
      difference += key + " differs; ";
    }
  }
  return difference + (a.size() < b.size() ? "there is something more" : "");
}

}  // namespace rorqual
