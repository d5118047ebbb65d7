// Runs a command in the test's own process.
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <vector>

#include "cli/command.h"

namespace rorqual {

struct Outcome {
  int code = 0;
  std::string out, err;
};

// `arguments` as typed behind the program's name.
inline Outcome run_command(std::vector<std::string> arguments, std::span<const AddCommand> commands) {
  arguments.insert(arguments.begin(), "rorqual");
  std::vector<const char*> words;
  words.reserve(arguments.size());
  for (const std::string& word : arguments) words.push_back(word.c_str());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.code = run_program(static_cast<int>(words.size()), words.data(), commands);
  outcome.out = ::testing::internal::GetCapturedStdout();
  outcome.err = ::testing::internal::GetCapturedStderr();
  return outcome;
}

inline Outcome run_plan(std::vector<std::string> arguments) {
  static constexpr AddCommand kPlan[] = {add_plan};
  arguments.insert(arguments.begin(), "plan");
  return run_command(std::move(arguments), kPlan);
}

}  // namespace rorqual
