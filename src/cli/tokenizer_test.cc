#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <sstream>

#include "base/file.h"
#include "cli/command.h"

namespace rorqual {
namespace {

using nlohmann::json;
using testing::HasSubstr;

struct Outcome {
  int code;
  std::string out, err;
};

class TokenizerCommand : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(dir_ / "data");
    write_file_atomically(dir_ / "data/a.txt", "hello hello hello world world\n");
    write_file_atomically(dir_ / "data/b.txt", "hello there, other world\n");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  // Runs `rorqual tokenizer ARGUMENTS…` in this process.
  Outcome run(std::vector<std::string> arguments, const std::string& input = "") const {
    arguments.insert(arguments.begin(), {"rorqual", "tokenizer"});
    std::vector<const char*> words;
    words.reserve(arguments.size());
    for (const std::string& word : arguments) words.push_back(word.c_str());
    static constexpr AddCommand kCommands[] = {add_tokenizer};
    std::istringstream stream(input);
    std::streambuf* const usual = std::cin.rdbuf(stream.rdbuf());
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int code = run_program(static_cast<int>(words.size()), words.data(), kCommands);
    Outcome outcome{code, testing::internal::GetCapturedStdout(), testing::internal::GetCapturedStderr()};
    std::cin.rdbuf(usual);
    std::cin.clear();
    return outcome;
  }

  std::string train() const {
    std::string out = (dir_ / "tokenizer").string();
    const Outcome outcome =
        run({"train", "--data", (dir_ / "data").string(), "--vocab", "270", "--heldout", "0", "--out", out});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    return out;
  }

  const std::filesystem::path dir_ =
      std::filesystem::temp_directory_path() / ("rorqual_tokenizer_command_" + std::to_string(getpid()) + "_" +
                                                testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(TokenizerCommand, TrainsEncodesAndDecodes) {
  const std::string tokenizer = train();
  EXPECT_TRUE(json::parse(read_file(tokenizer + "/tokenizer.json")).contains("model"));
  const std::string text = "hello\n \xFF world";  // nothing is added or lost, valid UTF-8 or not
  const Outcome ids = run({"encode", "--tokenizer", tokenizer}, text);
  EXPECT_EQ(ids.code, 0) << ids.err;
  EXPECT_EQ(std::count(ids.out.begin(), ids.out.end(), '\n'), 1);
  EXPECT_EQ(run({"decode", "--tokenizer", tokenizer}, ids.out).out, text);
}

TEST_F(TokenizerCommand, AnswersJsonLineByLine) {
  const std::string tokenizer = train();
  const Outcome ids =
      run({"encode", "--tokenizer", tokenizer, "--jsonl"}, "{\"text\": \"hello <｜fim▁hole｜>\"}\n\n{\"text\": \"\"}\n");
  EXPECT_EQ(ids.code, 0) << ids.err;
  std::istringstream lines(ids.out);
  std::string first, second;
  std::getline(lines, first);
  std::getline(lines, second);
  EXPECT_EQ(json::parse(first)["ids"].back(), 267);
  EXPECT_EQ(json::parse(second), json({{"ids", json::array()}}));
  const Outcome text = run({"decode", "--tokenizer", tokenizer, "--jsonl"}, ids.out);
  EXPECT_EQ(text.out, "{\"text\":\"hello <｜fim▁hole｜>\"}\n{\"text\":\"\"}\n");
}

TEST_F(TokenizerCommand, NamesWhatIsWrong) {
  const std::string tokenizer = train();
  const auto expect = [&](const std::vector<std::string>& arguments, const std::string& input, int code, const char* message) {
    const Outcome outcome = run(arguments, input);
    EXPECT_EQ(outcome.code, code) << message;
    EXPECT_THAT(outcome.err, HasSubstr(message));
  };
  expect({"encode", "--tokenizer", (dir_ / "none").string()}, "x", 1, "tokenizer.json");
  expect({"encode", "--tokenizer", tokenizer, "--jsonl"}, "{\"text\": \"a\"}\n[1]\n", 1, "line 2");
  expect({"encode", "--tokenizer", tokenizer, "--jsonl"}, "{\"txt\": \"a\"}\n", 1, "{\"text\": STRING}");
  expect({"decode", "--tokenizer", tokenizer, "--jsonl"}, "{\"ids\": [1, 99999]}\n", 1, "99999");
  expect({"decode", "--tokenizer", tokenizer, "--jsonl"}, "{\"ids\": [-1]}\n", 1, "-1");
  expect({"decode", "--tokenizer", tokenizer}, "12 x3", 1, "\"x3\" (number 2)");
  expect({"decode", "--tokenizer", tokenizer}, "270", 1, "270");
  const std::string out = (dir_ / "small").string();
  expect({"train", "--data", (dir_ / "data").string(), "--vocab", "100", "--out", out}, "", 2, "at least 262");
  expect({"train", "--data", (dir_ / "nothing").string(), "--out", out}, "", 1, "nothing");
  EXPECT_FALSE(std::filesystem::exists(out));
}

}  // namespace
}  // namespace rorqual
