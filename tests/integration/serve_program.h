// `rorqual serve` in the background, and curl to ask it.
#pragma once

#include <sys/types.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/integration/program.h"

namespace rorqual {

struct CurlAnswer {
  int status = 0;
  std::string head, body;
  nlohmann::ordered_json json() const { return nlohmann::ordered_json::parse(body, nullptr, false); }
};

// A run of a few steps with room for long texts, a copy of it with a chat template, and a models folder.
class ServedRuns {
 public:
  ServedRuns();
  const Workbench& bench() const { return bench_; }
  std::string run() const { return bench_.at("run"); }
  std::string talker() const { return bench_.at("talker"); }
  std::string environment() const { return "RORQUAL_MODELS=" + bench_.at("models"); }

 private:
  Workbench bench_;
};

// `rorqual serve` on a free port; killed with the object.
class ServeProgram {
 public:
  ServeProgram(const ServedRuns& runs, std::vector<std::string> arguments);
  ~ServeProgram();
  ServeProgram(const ServeProgram&) = delete;
  ServeProgram& operator=(const ServeProgram&) = delete;

  // curl with these further words of a shell.
  CurlAnswer curl(const std::string& path, const std::string& words = "") const;
  CurlAnswer post(const std::string& path, const std::string& json, const std::string& words = "") const;
  std::string command_of(const std::string& path, const std::string& words) const;
  // A model's figure in /metrics (of the first model), and a wait of up to a minute for it to have a value.
  int64_t metric(const std::string& name) const;
  bool becomes(const std::string& name, int64_t value) const;
  uint16_t port() const;
  void signal(int number) const;
  int wait();  // the exit code
  // The body of a completion that goes on until the context is full: the end token cannot come.
  std::string endless() const;

 private:
  const Workbench& bench_;
  pid_t pid_ = -1;
  std::string url_;
};

}  // namespace rorqual
