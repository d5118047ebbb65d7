// `rorqual serve`, `models` and `chat` as curl and a shell see them.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "tests/integration/program.h"
#include "tests/integration/serve_program.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;
using ::testing::Not;

// The data of server-sent events; the last must be [DONE].
std::vector<Json> events_of(const std::string& body) {
  std::vector<Json> events;
  EXPECT_TRUE(body.ends_with("data: [DONE]\n\n")) << body;
  for (size_t at = 0; (at = body.find("data: ", at)) != std::string::npos; at += 6) {
    const std::string data = body.substr(at + 6, body.find("\n\n", at) - at - 6);
    if (data != "[DONE]") events.push_back(Json::parse(data));
  }
  return events;
}

TEST(Serve, Completions) {
  const ServedRuns models;
  const ServeProgram s(models, {models.run()});
  const std::string greedy = R"("prompt": "the page ", "temperature": 0, "max_tokens": 12)";
  const CurlAnswer whole = s.post("/v1/completions", "{" + greedy + "}");
  ASSERT_EQ(whole.status, 200) << whole.body;
  const Json j = whole.json();
  const std::string text = j["choices"][0]["text"];
  EXPECT_EQ(j["object"], "text_completion");
  EXPECT_EQ(j["model"], "run");
  EXPECT_EQ(j["usage"]["completion_tokens"], 12);
  EXPECT_EQ(j["choices"][0]["finish_reason"], "length");
  const ProgramResult alone =
      run_rorqual("generate " + models.run() + " --prompt 'the page ' --temperature 0 --max-tokens 12 --json");
  EXPECT_EQ(text, Json::parse(alone.out)["text"]) << "the same text as without a server";

  std::string streamed;
  const auto events = events_of(
      s.post("/v1/completions", "{" + greedy + R"(, "stream": true, "stream_options": {"include_usage": true}})").body);
  for (const Json& e : events)
    if (!e["choices"].empty()) streamed += e["choices"][0]["text"].get<std::string>();
  EXPECT_EQ(streamed, text);
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 12);
  EXPECT_TRUE(events.front()["usage"].is_null());

  const Json echo = s.post("/v1/completions", "{" + greedy + R"(, "echo": true, "logprobs": 2})").json()["choices"][0];
  EXPECT_EQ(echo["text"], "the page " + text);
  const Json& l = echo["logprobs"];
  std::string joined;
  for (const Json& t : l["tokens"]) joined += t.get<std::string>();
  EXPECT_TRUE(joined.starts_with("the page ")) << joined;  // the rest may hold bytes that are no text by themselves
  EXPECT_EQ(l["token_logprobs"].size(), l["tokens"].size());
  EXPECT_EQ(l["text_offset"].size(), l["tokens"].size());
  EXPECT_EQ(l["text_offset"][0], 0);
  for (const Json& p : l["token_logprobs"]) EXPECT_LE(p.get<double>(), 0);
  EXPECT_EQ(l["top_logprobs"].back().size(), 2U);

  const std::string sampled = R"({"prompt": "the page ", "seed": 5, "max_tokens": 12, "n": 3})";
  const Json first = s.post("/v1/completions", sampled).json(), again = s.post("/v1/completions", sampled).json();
  ASSERT_EQ(first["choices"].size(), 3U);
  EXPECT_EQ(first["choices"], again["choices"]) << "one seed, one result";
  EXPECT_NE(first["choices"][0]["text"], first["choices"][1]["text"]) << "every choice draws its own";

  const Json tokens = s.post("/tokenize", R"({"prompt": "the page "})").json();
  const Json by_tokens =
      s.post("/v1/completions", R"({"temperature": 0, "max_tokens": 12, "prompt": )" + tokens["tokens"].dump() + "}").json();
  EXPECT_EQ(by_tokens["choices"][0]["text"], text);
  const Json back = s.post("/detokenize", R"({"tokens": )" + tokens["tokens"].dump() + "}").json();
  EXPECT_EQ(back["prompt"], "<｜begin▁of▁sentence｜>the page ");
  EXPECT_EQ(s.post("/v1/completions", R"({"prompt": ["a", "b"], "max_tokens": 1})").json()["choices"].size(), 2U);
  EXPECT_EQ(s.post("/v1/completions", R"({"prompt": "a", "suffix": "b", "max_tokens": 2})").status, 200);
  const size_t ascii = text.find_first_not_of(text[0], 1);
  ASSERT_TRUE(ascii < text.size() && text[ascii] > 0) << "a letter that may stand alone in JSON: " << text;
  const std::string letter = text.substr(ascii, 1);
  const Json stopped = s.post("/v1/completions", "{" + greedy + R"(, "stop": )" + Json(letter).dump() + "}").json();
  EXPECT_EQ(stopped["choices"][0]["text"], text.substr(0, text.find(letter)));
  EXPECT_EQ(stopped["choices"][0]["finish_reason"], "stop");
}

TEST(Serve, ChatAndTools) {
  const ServedRuns models;
  const ServeProgram s(models, {models.run(), models.talker()});
  const std::string ask =
      R"("model": "talker", "temperature": 0, "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}])";
  const CurlAnswer whole = s.post("/v1/chat/completions", "{" + ask + R"(, "logprobs": true, "top_logprobs": 2})");
  ASSERT_EQ(whole.status, 200) << whole.body;
  const Json choice = whole.json()["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["logprobs"]["content"][0]["top_logprobs"].size(), 2U);
  const std::string text = choice["message"]["content"];
  // The template's text as a completion's prompt: BOS comes by itself there.
  const Json same = s.post("/v1/completions", R"({"model": "talker", "temperature": 0, "max_tokens": 8,
                                                  "prompt": "user: Hi\nanswer: "})")
                        .json();
  EXPECT_EQ(same["choices"][0]["text"], text);

  std::string streamed;
  const auto events = events_of(s.post("/v1/chat/completions", "{" + ask + R"(, "stream": true})").body);
  EXPECT_EQ(events.front()["choices"][0]["delta"]["role"], "assistant");
  for (const Json& e : events)
    if (e["choices"][0]["delta"].contains("content")) streamed += e["choices"][0]["delta"]["content"].get<std::string>();
  EXPECT_EQ(streamed, text);
  EXPECT_FALSE(events.back()["choices"][0]["finish_reason"].is_null());

  const std::string tools = R"(, "tools": [{"type": "function", "function": {"name": "weather"}}])";
  const Json shown = s.post("/v1/chat/completions", "{" + ask + tools + "}").json();
  EXPECT_GT(shown["usage"]["prompt_tokens"], whole.json()["usage"]["prompt_tokens"]) << "the template names the tool";
  const Json hidden = s.post("/v1/chat/completions", "{" + ask + tools + R"(, "tool_choice": "none"})").json();
  EXPECT_EQ(hidden["usage"]["prompt_tokens"], whole.json()["usage"]["prompt_tokens"]);

  const CurlAnswer none =
      s.post("/v1/chat/completions", R"({"model": "run", "messages": [{"role": "user", "content": "Hi"}]})");
  EXPECT_EQ(none.status, 400);
  EXPECT_THAT(none.body, HasSubstr("/v1/completions"));
  EXPECT_EQ(s.post("/v1/completions", R"({"prompt": "a"})").json()["error"]["param"], "model") << "two models: which?";
  EXPECT_EQ(s.post("/v1/completions", R"({"prompt": "a", "model": "nobody"})").status, 404);
}

// A model of a few steps writes noise; a strict function's arguments are what its schema says all the same.
TEST(Serve, StrictArgumentsFollowTheSchema) {
  const ServedRuns models;
  const ServeProgram s(models, {models.talker()});
  const auto ask = [&](const std::string& choice, const std::string& more) {
    return s.post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "Hi"}], "tool_choice": )" + choice + R"(,
      "tools": [{"type": "function", "function": {"name": "weather", "strict": true, "parameters": {"type": "object",
        "properties": {"unit": {"enum": ["C", "F"]}, "days": {"type": "integer"}}, "required": ["unit", "days"]}}}], )" +
                                              more + "}");
  };
  const auto expect_call = [](const Json& call) {
    EXPECT_EQ(call["function"]["name"], "weather");
    const Json arguments = Json::parse(call["function"]["arguments"].get<std::string>());
    EXPECT_EQ(arguments.size(), 2U);
    EXPECT_TRUE(arguments["unit"] == "C" || arguments["unit"] == "F") << arguments;
    EXPECT_TRUE(arguments["days"].is_number_integer()) << arguments;
  };
  const Json whole = ask(R"("required")", R"("n": 4, "seed": 3)").json();
  ASSERT_EQ(whole["choices"].size(), 4U) << whole;
  for (const Json& choice : whole["choices"]) {
    EXPECT_EQ(choice["finish_reason"], "tool_calls");
    EXPECT_TRUE(choice["message"]["content"].is_null()) << choice;
    ASSERT_EQ(choice["message"]["tool_calls"].size(), 1U) << choice;
    expect_call(choice["message"]["tool_calls"][0]);
  }
  int calls = 0;
  for (const Json& e : events_of(ask(R"({"type": "function", "function": {"name": "weather"}})", R"("stream": true)").body)) {
    if (!e["choices"][0]["delta"].contains("tool_calls")) continue;
    ++calls;
    expect_call(e["choices"][0]["delta"]["tool_calls"][0]);
  }
  EXPECT_EQ(calls, 1);
  const Json cut = ask(R"("required")", R"("max_tokens": 3)").json()["choices"][0];
  EXPECT_EQ(cut["finish_reason"], "length");
  EXPECT_FALSE(cut["message"].contains("tool_calls")) << "half a call is none";
  EXPECT_EQ(ask(R"("auto")", R"("seed": 3)").json()["error"]["param"], "tools[0].function.strict");
  const auto with = [&](const std::string& parameters) {
    return s
        .post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "Hi"}], "tool_choice": "required",
      "tools": [{"type": "function", "function": {"name": "now", "strict": true)" +
                                          parameters + "}}]}")
        .json();
  };
  const Json call = with("")["choices"][0]["message"]["tool_calls"][0]["function"];
  EXPECT_EQ(Json::parse(call["arguments"].get<std::string>()), Json::object()) << "no parameters, no argument";
  EXPECT_EQ(with(R"(, "parameters": {"type": "object", "not": {}})")["error"]["param"], "tools");
}

TEST(Serve, RefusesWithAReason) {
  const ServedRuns models;
  const ServeProgram s(models, {models.run(), "--cache-tokens", "256", "--max-running", "1", "--max-waiting-tokens", "0"});
  const auto error_of = [&](const CurlAnswer& a) { return a.json()["error"]; };
  const CurlAnswer unknown = s.post("/v1/completions", R"({"prompt": "a", "best_of": 2})");
  EXPECT_EQ(unknown.status, 400);
  EXPECT_EQ(error_of(unknown), Json::parse(R"({"message": "'best_of' is not supported", "type": "invalid_request_error",
                                               "param": "best_of", "code": "unsupported_parameter"})"));
  const CurlAnswer wrong = s.post("/v1/completions", R"({"prompt": "a", "logit_bias": {"300000": 1}})");
  EXPECT_EQ(wrong.status, 400);
  EXPECT_EQ(error_of(wrong)["param"], "logit_bias");
  const CurlAnswer broken = s.post("/v1/completions", "{");
  EXPECT_EQ(broken.status, 400);
  EXPECT_THAT(broken.body, Not(HasSubstr("json.exception")));
  Json prompt = Json::array();
  for (int i = 0; i < 300; ++i) prompt.push_back(70);
  const CurlAnswer lengthy = s.post("/v1/completions", Json{{"prompt", prompt}}.dump());
  EXPECT_EQ(lengthy.status, 400);
  EXPECT_EQ(error_of(lengthy)["code"], "context_length_exceeded");
  EXPECT_THAT(lengthy.body, HasSubstr("255")) << "the limit";
  const CurlAnswer full = s.post("/v1/completions", R"({"prompt": "a", "n": 8, "max_tokens": 100})");
  EXPECT_EQ(full.status, 429);
  EXPECT_THAT(full.head, HasSubstr("Retry-After: "));
  EXPECT_TRUE(s.becomes("rorqual_requests_running", 0));
  EXPECT_TRUE(s.becomes("rorqual_requests_waiting", 0));
  EXPECT_EQ(s.post("/v1/completions", R"({"prompt": "a", "response_format": {"type": "yaml"}})").status, 400);
  EXPECT_EQ(s.curl("/nowhere").status, 404);
  EXPECT_EQ(s.curl("/v1/models/nobody").status, 404);
  EXPECT_EQ(s.curl("/v1/completions").status, 405);
  EXPECT_EQ(s.curl("/v1/completions", "-d '{}'").status, 415) << "a form, as pages of other sites can send it";
  EXPECT_EQ(s.curl("/health", "-H 'Host: evil.example'").status, 403);
  EXPECT_EQ(s.curl("/v1/models", "-H 'Origin: http://evil.example'").status, 403);
  models.bench().write("large.json", std::string(9 << 20, ' '));
  EXPECT_EQ(
      s.curl("/v1/completions", "-H 'Content-Type: application/json' --data-binary @" + models.bench().at("large.json")).status,
      413);
  const std::string log = read_file(models.bench() / "serve.err");
  for (const CurlAnswer& a : {unknown, wrong, broken, lengthy, full})
    EXPECT_THAT(a.body, Not(HasSubstr(models.bench().at("")))) << log;
}

TEST(Serve, ConstrainedOutputKeepsToItsGrammar) {
  const ServedRuns models;
  const ServeProgram s(models, {models.run()});
  const auto text_of = [&](const std::string& format, uint64_t seed) {
    const CurlAnswer a = s.post("/v1/completions", R"({"prompt": "the page ", "max_tokens": 150, "seed": )" +
                                                       std::to_string(seed) + R"(, "response_format": )" + format + "}");
    EXPECT_EQ(a.status, 200) << a.body;
    EXPECT_EQ(a.json()["choices"][0]["finish_reason"], "stop") << a.body;
    return a.json()["choices"][0]["text"].get<std::string>();
  };
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    EXPECT_THAT(text_of(R"({"type": "regex", "regex": "(yes|no), [0-9]{2}"})", seed),
                testing::MatchesRegex("(yes|no), [0-9][0-9]"));
    const Json value = Json::parse(text_of(R"({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object",
      "properties": {"title": {"type": "string", "maxLength": 8}, "ok": {"type": "boolean"}}, "required": ["title", "ok"]}}})",
                                           seed));
    EXPECT_TRUE(value["title"].is_string() && value["ok"].is_boolean()) << value;
  }
  const CurlAnswer refused = s.post("/v1/completions", R"({"prompt": "a", "response_format": {"type": "json_schema",
    "json_schema": {"schema": {"type": "integer", "minimum": 3}}}})");
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ(refused.json()["error"]["param"], "response_format");
  EXPECT_THAT(refused.body, HasSubstr("minimum"));
}

TEST(Serve, KeysGuardEveryRouteButTwo) {
  const ServedRuns models;
  models.bench().write("keys", "# of the tests\nfirst\nsecond\n");
  const ServeProgram s(models, {models.run(), "--api-key-file", models.bench().at("keys")});
  EXPECT_EQ(s.curl("/health").status, 200);
  const CurlAnswer page = s.curl("/");
  EXPECT_EQ(page.status, 200);
  EXPECT_THAT(page.head, HasSubstr("Content-Security-Policy: default-src 'none'"));
  EXPECT_THAT(page.head, HasSubstr("X-Content-Type-Options: nosniff"));
  EXPECT_THAT(page.body, Not(HasSubstr("\"run\""))) << "the page holds no data";
  for (const char* path : {"/metrics", "/v1/models", "/api/models", "/v1/completions", "/nowhere", "/v1/models/run"}) {
    EXPECT_EQ(s.curl(path).status, 401) << path;
    EXPECT_EQ(s.curl(path, "-H 'Authorization: Bearer wrong'").status, 401) << path;
    EXPECT_NE(s.curl(path, "-H 'Authorization: Bearer second'").status, 401) << path;
  }
}

TEST(Serve, AClientThatLeavesFreesItsBlocks) {
  const ServedRuns models;
  const ServeProgram s(models, {models.run(), "--max-running", "1", "--cache-tokens", "32768"});
  models.bench().write("endless.json", s.endless());
  const std::string command =
      s.command_of("/v1/completions", "-H 'Content-Type: application/json' -d @" + models.bench().at("endless.json"));
  // `exec`: the process that the shell starts is curl itself.
  const auto start = [&] {
    const pid_t pid = ::fork();
    CHECK(pid >= 0);
    if (pid == 0) {
      if (!std::freopen("/dev/null", "w", stdout)) ::_exit(126);
      ::execl("/bin/sh", "sh", "-c", ("exec " + command).c_str(), nullptr);
      ::_exit(127);
    }
    return pid;
  };
  const auto leave = [](pid_t pid) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  };
  const pid_t running = start();
  ASSERT_TRUE(s.becomes("rorqual_requests_running", 1));
  EXPECT_GT(s.metric("rorqual_cache_blocks_used"), 0);
  const pid_t queued = start();
  ASSERT_TRUE(s.becomes("rorqual_requests_waiting", 1));
  leave(queued);
  EXPECT_TRUE(s.becomes("rorqual_requests_waiting", 0)) << "while it was queued";
  EXPECT_EQ(s.metric("rorqual_requests_running"), 1) << "the other goes on";
  leave(running);
  EXPECT_TRUE(s.becomes("rorqual_cache_blocks_used", 0));
  EXPECT_EQ(s.metric("rorqual_requests_running"), 0);
  EXPECT_EQ(s.metric("rorqual_requests_cancelled_total"), 2);
}

TEST(Serve, StopsWithEveryStreamAtItsEnd) {
  const ServedRuns models;
  ServeProgram s(models, {models.run(), "--drain-s", "0", "--cache-tokens", "32768"});
  const std::string out = models.bench().at("stream.out");
  models.bench().write("endless.json", s.endless());
  std::thread client([&] {
    const int code = std::system(
        (s.command_of("/v1/completions", "-H 'Content-Type: application/json' -d @" + models.bench().at("endless.json")) +
         " > " + out)
            .c_str());
    EXPECT_EQ(code, 0) << "no cut connection";
  });
  EXPECT_TRUE(s.becomes("rorqual_requests_running", 1));
  s.signal(SIGTERM);
  client.join();
  EXPECT_EQ(s.wait(), 0);
  const auto events = events_of(read_file(out));
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "length");
}

// By default streams get time to end; where there is none, nothing waits for that time.
TEST(Serve, StopsAtOnceWhenIdle) {
  const ServedRuns models;
  for (const int number : {SIGTERM, SIGINT}) {
    ServeProgram s(models, {models.run(), "--drain-s", "3600"});
    EXPECT_EQ(s.curl("/health").status, 200);
    s.signal(number);
    EXPECT_EQ(s.wait(), 0);
  }
}

TEST(Serve, ModelsFolder) {
  const ServedRuns models;
  const std::string env = models.environment();
  EXPECT_EQ(run_rorqual("models add " + models.bench().at("text"), env).code, 1) << "a folder that holds no model";
  EXPECT_EQ(run_rorqual("models add " + models.run() + " --name ../x", env).code, 2);
  ASSERT_EQ(run_rorqual("models add " + models.run() + " --name first", env).out, "first\n");
  EXPECT_EQ(run_rorqual("models add " + models.run() + " --name first", env).code, 2) << "taken";
  ASSERT_EQ(run_rorqual("models add " + models.talker(), env).out, "talker\n");
  const Json list = Json::parse(run_rorqual("models list --json", env).out)["models"];
  ASSERT_EQ(list.size(), 2U);
  EXPECT_EQ(list[0]["name"], "first");
  EXPECT_GT(list[0]["parameters"]["total"], list[0]["parameters"]["active"]);
  EXPECT_EQ(list[0]["run"], "run");
  EXPECT_GT(list[0]["tokens_seen"], 0);
  EXPECT_GT(list[0]["heldout_loss"], 0);
  EXPECT_GT(list[0]["memory_bytes"], 0);
  EXPECT_EQ(list[0]["expert_balance"].size(), 2U) << "one MoE layer and the MTP module's";
  EXPECT_FALSE(list[0]["chat_template"]);
  EXPECT_TRUE(list[1]["chat_template"]);
  EXPECT_THAT(run_rorqual("models show first", env).out, HasSubstr("heldout_loss: "));

  const ServeProgram s(models, {"first"});
  const CurlAnswer before = s.curl("/api/models");
  ASSERT_EQ(before.json()["models"].size(), 2U) << before.body;
  EXPECT_TRUE(before.json()["models"][0]["loaded"]);
  EXPECT_FALSE(before.json()["models"][1]["loaded"]);
  EXPECT_EQ(before.json()["models"][0]["stats"]["running"], 0);
  EXPECT_THAT(before.body, Not(HasSubstr(models.bench().at("")))) << "no path";
  EXPECT_EQ(s.post("/v1/completions", R"({"model": "talker", "prompt": "a"})").status, 404);
  EXPECT_EQ(s.post("/api/models/load", R"({"name": "talker"})").status, 200);
  EXPECT_EQ(s.post("/api/models/load", R"({"name": "talker"})").status, 409);
  EXPECT_EQ(s.post("/api/models/load", R"({"name": "../talker"})").status, 404);
  EXPECT_EQ(s.curl("/v1/models").json()["data"].size(), 2U);
  EXPECT_EQ(s.post("/v1/completions", R"({"model": "talker", "prompt": "a", "max_tokens": 2})").status, 200);
  EXPECT_EQ(s.post("/api/models/unload", R"({"name": "talker"})").status, 200);
  EXPECT_EQ(s.post("/v1/completions", R"({"model": "talker", "prompt": "a"})").status, 404);

  EXPECT_EQ(run_rorqual("models remove talker", env).code, 0);
  EXPECT_TRUE(fs::exists(models.talker())) << "the link alone goes";
  EXPECT_EQ(run_rorqual("models remove talker", env).code, 2);
}

TEST(Chat, TalksAndSaves) {
  const ServedRuns models;
  const std::string saved = models.bench().at("saved.json");
  const auto chat = [&](const std::string& input, const std::string& arguments) {
    return run_rorqual("chat " + arguments + " --temperature 0 --max-tokens 8 < " + models.bench().at("input"),
                       "printf '" + input + "' > " + models.bench().at("input") + ";");
  };
  const ProgramResult result =
      chat("Hi\\n/nonsense\\n/system Be brief.\\nAnd you?\\n/save " + saved + "\\n/quit\\n", models.talker());
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("/nonsense is no command"));
  const Json messages = Json::parse(read_file(saved))["messages"];
  ASSERT_EQ(messages.size(), 5U);
  EXPECT_EQ(messages[0], Json::parse(R"({"role": "system", "content": "Be brief."})"));
  EXPECT_EQ(messages[3]["content"], "And you?");
  EXPECT_EQ(result.out, messages[2]["content"].get<std::string>() + "\n" + messages[4]["content"].get<std::string>() + "\n");
  const ProgramResult plain = chat("the page ", models.run());
  const ProgramResult generated =
      run_rorqual("generate " + models.run() + " --prompt 'the page ' --temperature 0 --max-tokens 8");
  EXPECT_EQ(plain.out, generated.out) << "a model without a template goes on with the text";
}

// A terminal of its own (util-linux's script): the arrow keys move in the line and fetch the last one.
TEST(Chat, EditsLinesAtATerminal) {
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  if (terminal < 0) GTEST_SKIP() << "this system gives no pseudo-terminal (is devpts mounted?)";
  ::close(terminal);
  const ServedRuns models;
  const std::string saved = models.bench().at("saved.json"), keys = models.bench().at("keys");
  models.bench().write("keys", "Heo\x1b[Dll\n\x1b[A!\n/save " + saved + "\n/quit\n");
  const std::string chat = "'" RORQUAL_PROGRAM "' chat " + models.talker() + " --temperature 0 --max-tokens 2";
  ASSERT_EQ(std::system(("script -qec \"" + chat + "\" /dev/null < " + keys + " > /dev/null").c_str()), 0);
  const Json messages = Json::parse(read_file(saved))["messages"];
  ASSERT_EQ(messages.size(), 4U);
  EXPECT_EQ(messages[0]["content"], "Hello");
  EXPECT_EQ(messages[2]["content"], "Hello!");
}

}  // namespace
}  // namespace rorqual
