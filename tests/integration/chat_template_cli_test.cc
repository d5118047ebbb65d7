// `rorqual chat-template`: a folder with tokenizer_config.json is enough.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/integration/program.h"

namespace rorqual {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ChatTemplateCommand : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(bench_ / "model");
    bench_.write("model/tokenizer_config.json", read_file("tests/golden/tokenizer/deepseek_v3_tokenizer_config.json"));
    bench_.write("hi.json", R"({"messages": [{"role": "user", "content": "Hi\n"}], "add_generation_prompt": true})");
  }
  std::string command(const std::string& model, const std::string& file) const {
    return "chat-template " + bench_.at(model) + " --messages " + bench_.at(file);
  }
  void refuse(const std::string& arguments, int code, const std::vector<std::string>& words) const {
    const ProgramResult result = run_rorqual(arguments);
    EXPECT_EQ(result.code, code) << arguments;
    EXPECT_THAT(result.out, IsEmpty()) << arguments;
    for (const std::string& word : words) EXPECT_THAT(result.err, HasSubstr(word)) << arguments;
    EXPECT_THAT(result.err, testing::Not(HasSubstr("unexpected failure")));
  }

  const Workbench bench_;
};

TEST_F(ChatTemplateCommand, PrintsTheTextExactly) {
  const std::string text = "<｜begin▁of▁sentence｜><｜User｜>Hi\n<｜Assistant｜>";
  const ProgramResult plain = run_rorqual(command("model", "hi.json"));
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(plain.out, text);
  EXPECT_THAT(plain.err, IsEmpty());
  const ProgramResult json = run_rorqual(command("model", "hi.json") + " --json");
  EXPECT_EQ(nlohmann::json::parse(json.out), nlohmann::json({{"text", text}}));
  EXPECT_THAT(run_rorqual("chat-template --help").out, HasSubstr("rorqual chat-template my-model --messages messages.json"));
}

TEST_F(ChatTemplateCommand, RefusesWhatCannotWork) {
  bench_.write("bad.json", "{");
  bench_.write("list.json", "[]");
  bench_.write("none.json", R"({"messages": [{"role": "user"}]})");
  std::filesystem::create_directory(bench_ / "empty");
  std::filesystem::create_directory(bench_ / "base");
  bench_.write("base/tokenizer_config.json", "{}");
  std::filesystem::create_directory(bench_ / "odd");
  bench_.write("odd/chat_template.jinja", "text\n{% include 'other' %}");
  refuse("chat-template", 2, {"MODEL is required"});
  refuse("chat-template " + bench_.at("model"), 2, {"--messages is required"});
  refuse(command("nosuch", "hi.json"), 1, {"nosuch is no folder"});
  refuse(command("empty", "hi.json"), 1, {"tokenizer_config.json", "chat_template.jinja"});
  refuse(command("base", "hi.json"), 1, {"has no chat template"});
  refuse(command("odd", "hi.json"), 1, {"chat_template.jinja:2", "unsupported statement 'include'"});
  refuse(command("model", "nosuch.json"), 1, {"nosuch.json"});
  refuse(command("model", "bad.json"), 1, {"bad.json", "not valid JSON"});
  refuse(command("model", "list.json"), 1, {"\"messages\""});
  refuse(command("model", "none.json"), 1, {"chat_template:3", "no element 'content'"});
}

}  // namespace
}  // namespace rorqual
