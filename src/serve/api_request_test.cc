#include "serve/api_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

// The parameter that the error names, and its status; "" and 0 if there is none.
std::pair<int, std::string> refused(const std::function<void()>& parse) {
  try {
    parse();
  } catch (const ApiError& e) {
    EXPECT_FALSE(std::string(e.what()).empty());
    return {e.status, e.param};
  }
  return {0, ""};
}

// A good chat request with one member set or replaced.
Json chat_with(const std::string& member) {
  Json j = Json::parse(R"({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})");
  j.update(Json::parse("{" + member + "}"));
  return j;
}
Json completion_with(const std::string& member) {
  Json j = Json::parse(R"({"model": "m", "prompt": "Hi"})");
  j.update(Json::parse("{" + member + "}"));
  return j;
}

TEST(ApiRequest, ReadsEveryParameterOfAChat) {
  const ChatRequest r = parse_chat_completion(Json::parse(R"({
    "model": "m", "stream": true, "stream_options": {"include_usage": true}, "n": 2, "stop": ["a", "b"], "seed": -1,
    "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "presence_penalty": 1, "frequency_penalty": -1,
    "repetition_penalty": 1.1, "logit_bias": {"5": -100, "7": 1.5}, "max_completion_tokens": 9, "logprobs": true,
    "top_logprobs": 3, "user": "somebody", "response_format": {"type": "text"},
    "messages": [
      {"role": "developer", "content": "Be brief."},
      {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}], "name": "ann"},
      {"role": "assistant", "content": null, "refusal": null,
       "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
      {"role": "tool", "content": "42", "tool_call_id": "c1"}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}}})"));
  const GenerationOptions& o = r.options;
  EXPECT_EQ(o.model, "m");
  EXPECT_TRUE(o.stream && o.include_usage);
  EXPECT_EQ(o.n, 2);
  EXPECT_THAT(o.stop, ::testing::ElementsAre("a", "b"));
  EXPECT_EQ(o.seed, ~uint64_t{0});
  EXPECT_EQ(o.max_tokens, 9);
  EXPECT_EQ(o.logprobs, 3);
  EXPECT_EQ(o.sampling.temperature, 0.5);
  EXPECT_EQ(o.sampling.top_p, 0.9);
  EXPECT_EQ(o.sampling.top_k, 40);
  EXPECT_EQ(o.sampling.min_p, 0.05);
  EXPECT_EQ(o.sampling.presence_penalty, 1);
  EXPECT_EQ(o.sampling.frequency_penalty, -1);
  EXPECT_EQ(o.sampling.repetition_penalty, 1.1);
  EXPECT_THAT(o.logit_bias, ::testing::ElementsAre(std::pair<std::string, double>("5", -100), std::pair("7", 1.5)));
  EXPECT_TRUE(o.response_format.is_null());
  ASSERT_EQ(r.messages.size(), 4U);
  EXPECT_EQ(r.messages[0], Json::parse(R"({"role": "system", "content": "Be brief."})"));
  EXPECT_EQ(r.messages[1]["content"], "Hi there");
  EXPECT_TRUE(r.messages[2]["content"].is_null());
  EXPECT_EQ(r.messages[2]["tool_calls"][0]["function"]["name"], "f");
  EXPECT_EQ(r.tools.size(), 1U);
  EXPECT_TRUE(r.tool_required);
  EXPECT_EQ(r.tool_name, "f");
}

TEST(ApiRequest, DefaultsAreOpenAIs) {
  const ChatRequest chat = parse_chat_completion(chat_with(R"("temperature": null)"));
  EXPECT_FALSE(chat.options.stream || chat.options.seed || chat.options.max_tokens);
  EXPECT_EQ(chat.options.n, 1);
  EXPECT_EQ(chat.options.sampling.temperature, 1);
  EXPECT_EQ(chat.options.logprobs, -1);
  EXPECT_TRUE(chat.tools.is_null());
  const CompletionRequest completion = parse_completion(completion_with(""));
  EXPECT_EQ(completion.options.max_tokens, 16);
  EXPECT_FALSE(completion.echo || completion.suffix);
}

TEST(ApiRequest, APromptHasFourForms) {
  EXPECT_EQ(parse_completion(completion_with(R"("prompt": ["a", "b"])")).prompts.size(), 2U);
  const auto one = parse_completion(completion_with(R"("prompt": [1, 2, 3])")).prompts;
  ASSERT_EQ(one.size(), 1U);
  EXPECT_THAT(std::get<std::vector<int32_t>>(one[0]), ::testing::ElementsAre(1, 2, 3));
  const auto two = parse_completion(completion_with(R"("prompt": [[1], [2, 3]])")).prompts;
  ASSERT_EQ(two.size(), 2U);
  EXPECT_THAT(std::get<std::vector<int32_t>>(two[1]), ::testing::ElementsAre(2, 3));
}

TEST(ApiRequest, RefusesWhatItDoesNotKnowByName) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("best_of": 2)", "best_of"},
      {R"("messages": [])", "messages"},
      {R"("messages": null)", "messages"},
      {R"("messages": [{"role": "king", "content": "x"}])", "messages[0].role"},
      {R"("messages": [{"role": "user"}])", "messages[0].content"},
      {R"("messages": [{"role": "user", "content": "x", "mood": 1}])", "messages[0].mood"},
      {R"("messages": [{"role": "user", "content": [{"type": "image_url"}]}])", "messages[0].content[0].type"},
      {R"("messages": ["x"])", "messages[0]"},
      {R"("n": 0)", "n"},
      {R"("n": 1.5)", "n"},
      {R"("n": "1")", "n"},
      {R"("n": 1000)", "n"},
      {R"("temperature": -1)", "temperature"},
      {R"("temperature": true)", "temperature"},
      {R"("top_p": 1.5)", "top_p"},
      {R"("seed": 18446744073709551615)", "seed"},
      {R"("stop": 3)", "stop"},
      {R"("stop": [""])", "stop"},
      {R"("stream": 1)", "stream"},
      {R"("stream_options": {"include_usage": true})", "stream_options"},
      {R"("stream": true, "stream_options": {"other": true})", "stream_options.other"},
      {R"("top_logprobs": 2)", "top_logprobs"},
      {R"("logprobs": true, "top_logprobs": 21)", "top_logprobs"},
      {R"("logit_bias": {"1": 101})", "logit_bias"},
      {R"("max_tokens": 0)", "max_tokens"},
      {R"("max_tokens": 1, "max_completion_tokens": 2)", "max_tokens"},
      {R"("response_format": {"type": "yaml"})", "response_format.type"},
      {R"("response_format": {"type": "json_schema"})", "response_format.json_schema"},
      {R"("tools": [{"type": "function"}])", "tools[0].function"},
      {R"("tools": [{"type": "function", "function": {"name": "a b"}}])", "tools[0].function.name"},
      {R"("tool_choice": "auto")", "tool_choice"},
      {R"("parallel_tool_calls": false)", "parallel_tool_calls"},
      {R"("tools": [{"type": "function", "function": {"name": "f", "strict": true}}])", "tools[0].function.strict"},
      {R"("tools": [{"type": "function", "function": {"name": "f"}},
                    {"type": "function", "function": {"name": "g", "strict": true}}], "tool_choice": "required")",
       "tools[1].function.strict"},
      {R"("tools": [{"type": "function", "function": {"name": "f", "strict": true}}], "tool_choice": "required", "stop": "x")",
       "stop"},
      {R"("tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required",
          "response_format": {"type": "json_object"})",
       "response_format"},
  };
  for (const auto& [member, param] : cases)
    EXPECT_EQ(refused([&] { parse_chat_completion(chat_with(member)); }), std::pair(400, param)) << member;
  const std::vector<std::pair<std::string, std::string>> completions = {
      {R"("prompt": [])", "prompt"},         {R"("prompt": null)", "prompt"},
      {R"("prompt": [1, "a"])", "prompt"},   {R"("prompt": [-1])", "prompt"},
      {R"("prompt": [[]])", "prompt[0]"},    {R"("prompt": {"a": 1})", "prompt"},
      {R"("logprobs": true)", "logprobs"},   {R"("echo": true, "suffix": "x")", "echo"},
      {R"("messages": [])", "messages"},     {R"("prompt": ["a", "b"], "n": 65)", "n"},
      {R"("max_tokens": -1)", "max_tokens"},
  };
  for (const auto& [member, param] : completions)
    EXPECT_EQ(refused([&] { parse_completion(completion_with(member)); }), std::pair(400, param)) << member;
}

TEST(ApiJson, RefusesWhatIsNoOneObject) {
  const std::string deep = "{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}";
  for (const std::string& body : {std::string(), std::string("[]"), std::string("{"), std::string("{\"a\":1}x"),
                                  std::string("nul"), std::string("{\"a\":\"\xff\"}"), deep, std::string(1 << 20, '['),
                                  std::string("{\"a\":1,\"a\":2}"), std::string("{\"a\":1e999}")})
    EXPECT_EQ(refused([&] { parse_api_body(body); }).first, 400) << body.substr(0, 20);
  EXPECT_EQ(refused([&] { parse_api_body("{\"a\":1,\"b\":{\"a\":1}}"); }).first, 0) << "the same name in another object";
}

TEST(ApiJson, AnErrorHasOpenAIsForm) {
  EXPECT_EQ(error_json(ApiError(400, "no", "n")),
            Json::parse(R"({"error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": null}})"));
  EXPECT_EQ(error_json(ApiError(429, "full", {}, "engine_full"))["error"]["type"], "rate_limit_error");
}

}  // namespace
}  // namespace rorqual
