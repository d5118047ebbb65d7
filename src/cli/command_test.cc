#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <functional>
#include <new>

#include "base/error.h"
#include "cli/command_test_support.h"

namespace rorqual {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A command with every kind of option; what it does is set by the test.
std::function<void()> work;
int steps = 0;

void add_try(CLI::App& app) {
  CLI::App* command = add_command(app, "try", "Does what the test says", "rorqual try run --steps 3");
  struct Options {
    std::string model, dtype;
    std::vector<std::string> data;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  command->add_option("MODEL", options->model, "a model")->required()->type_name("MODEL");
  command->add_option("--steps", steps, "how many")->check(CLI::Range(1, 100));
  command->add_option("--data", options->data, "texts")->type_name("PATH")->allow_extra_args(false);
  command->add_option("--dtype", options->dtype, "type")->check(CLI::IsMember({"f32", "bf16"}));
  add_json_flag(*command, options->json);
  command->callback([options] { work(); });  // keeps the options alive
  CLI::App* inner = add_command(*command, "inner", "A command of a command", "rorqual try inner");
  inner->callback([] {});
}

constexpr AddCommand kCommands[] = {add_try, add_completion};

Outcome run(const std::vector<std::string>& arguments) {
  return run_command(arguments, kCommands);
}

class CommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    work = [] {};
    steps = 0;
  }
};

TEST_F(CommandTest, RunsTheCommand) {
  bool ran = false;
  work = [&] { ran = true; };
  const Outcome outcome = run({"try", "--data", "a", "m", "--data", "b", "--steps", "7"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(ran);
  EXPECT_EQ(steps, 7);
  EXPECT_THAT(outcome.out, IsEmpty());
  EXPECT_THAT(outcome.err, IsEmpty());
}

TEST_F(CommandTest, MistakesExitWithTwoAndNameTheOption) {
  const struct {
    std::vector<std::string> arguments;
    std::string message;
  } cases[] = {
      {{}, "rorqual: which command?"},
      {{"tyr"}, "rorqual: unknown command 'tyr'; did you mean try?"},
      {{"quux"}, "rorqual: unknown command 'quux'\n"},
      {{"--vresion"}, "rorqual: unknown option --vresion; did you mean --version?"},
      {{"try", "m", "--stpes=3"}, "rorqual try: unknown option --stpes; did you mean --steps?"},
      {{"try", "--bogus"}, "rorqual try: unknown option --bogus\n"},
      {{"try", "m", "more"}, "rorqual try: unknown command 'more'"},
      {{"try"}, "rorqual try: MODEL is required"},
      {{"try", "m", "--steps", "many"}, "--steps"},
      {{"try", "m", "--steps", "101"}, "--steps"},
      {{"try", "m", "--steps"}, "--steps"},
      {{"try", "m", "--dtype", "f16"}, "--dtype"},
      {{"completion", "zsh"}, "SHELL"},
  };
  work = [] { ADD_FAILURE() << "the command ran"; };
  for (const auto& c : cases) {
    const Outcome outcome = run(c.arguments);
    EXPECT_EQ(outcome.code, 2) << c.message;
    EXPECT_THAT(outcome.err, HasSubstr(c.message));
    EXPECT_THAT(outcome.err, HasSubstr("--help' shows how to use it"));
    EXPECT_THAT(outcome.out, IsEmpty());
  }
}

TEST_F(CommandTest, FailuresHaveTheirExitCodes) {
  work = [] { fail("the disk is full"); };
  Outcome outcome = run({"try", "m"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "rorqual: the disk is full\n");
  work = [] { fail_usage("heads is 0"); };
  outcome = run({"try", "m"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "rorqual: heads is 0\n");
  work = [] { throw std::bad_alloc(); };
  outcome = run({"try", "m"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("out of memory"));
  work = [] { throw std::logic_error("odd"); };
  outcome = run({"try", "m"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("unexpected failure: odd"));
}

TEST_F(CommandTest, HelpAndVersionGoToStandardOutput) {
  work = [] { ADD_FAILURE() << "the command ran"; };
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--help"}, {"try", "--help"}, {"try", "inner", "--help"}}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0);
    EXPECT_THAT(outcome.out, HasSubstr("\nExample:\n  rorqual "));
    EXPECT_THAT(outcome.err, IsEmpty());
  }
  EXPECT_THAT(run({"try", "--help"}).out, HasSubstr("Usage: rorqual try [OPTIONS]"));
  EXPECT_EQ(run({"--version"}).out, "rorqual " RORQUAL_VERSION "\n");
}

TEST_F(CommandTest, JsonIsOneObject) {
  work = [] { print_json({{"b", 1}, {"a", "\xff\xc3\xa4"}}); };
  const Outcome outcome = run({"try", "m", "--json"});
  EXPECT_EQ(outcome.code, 0);
  const auto parsed = nlohmann::ordered_json::parse(outcome.out);
  EXPECT_EQ(parsed["a"], "\xef\xbf\xbd\xc3\xa4") << "what is not UTF-8 becomes U+FFFD";
  EXPECT_EQ(parsed.begin().key(), "b") << "keys keep their order";
  EXPECT_DEATH(print_json(nlohmann::ordered_json::array()), "is_object");
}

// In a process of its own: standard output is replaced for good.
TEST(CommandDeathTest, OutputThatCannotBeWrittenFails) {
  work = [] { print_text("x"); };
  const char* arguments[] = {"rorqual", "try", "m"};
  EXPECT_EXIT(
      {
        if (!std::freopen("/dev/full", "w", stdout)) std::abort();
        std::_Exit(run_program(3, arguments, kCommands));
      },
      ::testing::ExitedWithCode(1), "cannot write to standard output: No space left on device");
  EXPECT_EXIT(
      {
        int ends[2];
        if (pipe(ends) != 0 || dup2(ends[1], STDOUT_FILENO) < 0) std::abort();
        close(ends[0]);
        std::_Exit(run_program(3, arguments, kCommands));
      },
      ::testing::ExitedWithCode(128 + SIGPIPE), "^$");
}

// What bash offers behind the words, as the generated script computes it.
std::string offered(const std::string& words) {
  CLI::App app("", "rorqual");
  for (const AddCommand add : kCommands) add(app);
  const std::string script = bash_completion(app) + "COMP_WORDS=(rorqual " + words +
                             "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _rorqual; echo \"${COMPREPLY[*]}\"";
  setenv("RORQUAL_SCRIPT", script.c_str(), 1);
  FILE* pipe = popen("bash -c \"$RORQUAL_SCRIPT\" 2>&1", "r");
  std::string text;
  for (char buffer[256]; pipe && std::fgets(buffer, sizeof(buffer), pipe);) text += buffer;
  EXPECT_EQ(pclose(pipe), 0) << script;
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

TEST(Completion, OffersCommandsOptionsValuesAndFiles) {
  EXPECT_EQ(offered("''"), "try completion --help");
  EXPECT_EQ(offered("tr"), "try");
  EXPECT_EQ(offered("try --s"), "--steps");
  EXPECT_EQ(offered("try --dtype ''"), "f32 bf16");
  EXPECT_EQ(offered("try --dtype b"), "bf16");
  EXPECT_EQ(offered("try --data CMakeL"), "CMakeLists.txt");
  EXPECT_EQ(offered("try CMakeL"), "CMakeLists.txt") << "MODEL is a path";
  EXPECT_EQ(offered("try --steps CMakeL"), "") << "a number is no file";
  EXPECT_EQ(offered("try inner --h"), "--help");
  EXPECT_EQ(offered("completion b"), "bash");
}

}  // namespace
}  // namespace rorqual
