// What holds for every command of the program, whichever there are.
#include "tests/integration/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

namespace rorqual {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The commands that the help of `command` lists.
std::vector<std::string> commands_below(const std::string& command) {
  std::istringstream help(run_rorqual(command + " --help").out);
  std::vector<std::string> names;
  bool listed = false;
  for (std::string line; std::getline(help, line);) {
    if (line == "Subcommands:") {
      listed = true;
    } else if (listed && line.starts_with("  ") && line[2] != ' ') {
      names.push_back(command + " " + line.substr(2, line.find(' ', 2) - 2));
    } else if (line.empty()) {
      listed = false;
    }
  }
  return names;
}

void check_help(const std::string& command, int& checked) {
  const ProgramResult result = run_rorqual(command + " --help");
  EXPECT_EQ(result.code, 0) << command;
  EXPECT_THAT(result.out, AllOf(HasSubstr("\nExample:\n  "), HasSubstr("rorqual "))) << command;
  EXPECT_THAT(result.err, IsEmpty());
  const ProgramResult wrong = run_rorqual(command + " --no-such-option");
  EXPECT_EQ(wrong.code, 2) << command;
  EXPECT_THAT(wrong.err, HasSubstr("--no-such-option"));
  EXPECT_THAT(wrong.out, IsEmpty());
  ++checked;
  for (const std::string& inner : commands_below(command)) check_help(inner, checked);
}

TEST(Program, EveryCommandHelpsWithAnExample) {
  int checked = 0;
  check_help("", checked);
  EXPECT_GE(checked, 3) << "the program, doctor and completion at least";
}

TEST(Program, DoctorPrintsOneJsonObject) {
  const ProgramResult result = run_rorqual("doctor --json", "OMP_NUM_THREADS=1 RORQUAL_ISA=reference");
  ASSERT_EQ(result.code, 0) << result.err;
  const auto report = nlohmann::json::parse(result.out);
  EXPECT_EQ(report["cpu"]["threads"], 1);
  EXPECT_EQ(report["cpu"]["isa"], "reference");
  EXPECT_GT(report["memory"]["available_bytes"], 0);
  ASSERT_FALSE(report["kernels"].empty());
  for (const auto& row : report["kernels"])
    EXPECT_THAT(row["kernels"], ::testing::SizeIs(1)) << row << ": the reference alone is allowed, and there is one";
}

TEST(Program, DoctorSaysWhatIsWrong) {
  const ProgramResult threads = run_rorqual("doctor", "OMP_NUM_THREADS=1000");
  EXPECT_EQ(threads.code, 0);
  EXPECT_THAT(threads.out, HasSubstr("problem: OMP_NUM_THREADS asks for 1000 threads"));
  const ProgramResult isa = run_rorqual("doctor", "RORQUAL_ISA=sse9");
  EXPECT_EQ(isa.code, 0);
  EXPECT_THAT(isa.out, HasSubstr("problem: RORQUAL_ISA is 'sse9'"));
}

TEST(Program, CompletionIsValidBash) {
  const ProgramResult result = run_rorqual("completion bash | bash -n");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, IsEmpty());
}

}  // namespace
}  // namespace rorqual
