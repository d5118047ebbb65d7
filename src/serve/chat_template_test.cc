#include "serve/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "data/tokenizer_test_util.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

const char* const kHi = R"({"messages": [{"role": "user", "content": "Hi"}]})";

std::string render(std::string_view config, const std::string& request = kHi, std::string_view jinja = "") {
  return ChatTemplate::parse(jinja, config, "m").render(parse_chat_request(request, "request"));
}

TEST(ChatTemplate, RendersDeepseeksConversations) {
  const Json golden = Json::parse(read_file("tests/golden/jinja/deepseek_v3_chat.json"));
  const std::string config = read_file(std::string(kGoldenFolder) + "deepseek_v3_tokenizer_config.json");
  EXPECT_EQ(Json::parse(config)["chat_template"], golden["template"]);
  const ChatTemplate chat = ChatTemplate::parse("", config, "deepseek");
  ASSERT_EQ(golden["cases"].size(), 12u);
  for (const Json& item : golden["cases"]) {
    const Json request = {{"messages", item["messages"]}, {"add_generation_prompt", item["add_generation_prompt"]}};
    const std::string text = chat.render(request);
    EXPECT_EQ(text, item["text"].get<std::string>());
    EXPECT_EQ(deepseek().encode(text), item["ids"].get<std::vector<int32_t>>()) << text;
  }
}

TEST(ChatTemplate, GivesTheTemplateWhatTransformersDoes) {
  const std::string config = R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null, "chat_template":
    "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ extra }}"})";
  EXPECT_EQ(render(config), "<s></s>FalseNoneNoneFalse");
  EXPECT_EQ(render(config, R"({"messages": [], "tools": [1], "documents": [2], "add_generation_prompt": true, "extra": "x",
    "bos_token": "B"})"),
            "B</s>False[1][2]Truex");
}

TEST(ChatTemplate, ChoosesAmongSeveral) {
  const std::string config =
      R"({"chat_template": [{"name": "default", "template": "usual"}, {"name": "tool_use", "template": "tools"}]})";
  EXPECT_EQ(render(config), "usual");
  EXPECT_EQ(render(config, R"({"messages": [], "tools": []})"), "tools");
  EXPECT_EQ(render(config, kHi, "file"), "file");
}

TEST(ChatTemplate, SaysWhatIsWrong) {
  const auto message = [](std::string_view config, const std::string& request = kHi, std::string_view jinja = "") {
    return message_of([&] { render(config, request, jinja); });
  };
  EXPECT_THAT(message("{}"), HasSubstr("m has no chat template"));
  EXPECT_THAT(message(R"({"chat_template": null})"), HasSubstr("m has no chat template"));
  EXPECT_THAT(message(R"({"chat_template": 1})"), HasSubstr("tokenizer_config.json, chat_template: a string or a list"));
  EXPECT_THAT(message(R"({"chat_template": [{"name": "a"}]})"), HasSubstr("each entry"));
  EXPECT_THAT(message(R"({"chat_template": [{"name": "a", "template": ""}, {"name": "b", "template": ""}]})"),
              HasSubstr("a, b"));
  EXPECT_THAT(message(R"({"bos_token": 5, "chat_template": ""})"), HasSubstr("bos_token must be"));
  EXPECT_THAT(message("[]"), HasSubstr("an object is needed"));
  EXPECT_THAT(message("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(message(std::string(200, '[')), HasSubstr("nested deeper"));
  EXPECT_THAT(message("", kHi, "a\n{% nosuch %}"), HasSubstr("m/chat_template.jinja:2: unsupported statement 'nosuch'"));
  EXPECT_THAT(message(R"({"chat_template": "\n{{ a.b }}"})"), HasSubstr("chat_template:2: 'a' is undefined"));
  for (const char* request :
       {"[]", "{}", R"({"messages": 1})", R"({"messages": ["Hi"]})", R"({"messages": [], "add_generation_prompt": 1})"})
    EXPECT_THAT(message(R"({"chat_template": ""})", request), HasSubstr("request: ")) << request;
}

}  // namespace
}  // namespace rorqual
