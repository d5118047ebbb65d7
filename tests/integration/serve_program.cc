#include "tests/integration/serve_program.h"

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTemplate =
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>{{ c.function.arguments "
    "}}<｜tool▁call▁end｜>"
    "<｜tool▁calls▁end｜>{% endfor %}\n{% endfor %}"
    "{% for t in tools or [] %}may call {{ t.function.name }}\n{% endfor %}{% if add_generation_prompt %}answer: {% endif %}";

}  // namespace

ServedRuns::ServedRuns() {
  const ProgramResult trained = bench_.train("run", "--set model.max_position_embeddings=32768");
  CHECK(trained.code == 0, "{}", trained.err);
  fs::copy(bench_ / "run", bench_ / "talker", fs::copy_options::recursive);
  bench_.write("talker/tokenizer/chat_template.jinja", kTemplate);
  fs::create_directory(bench_ / "models");
}

ServeProgram::ServeProgram(const ServedRuns& runs, std::vector<std::string> arguments) : bench_(runs.bench()) {
  int out[2];
  CHECK(::pipe(out) == 0);
  arguments.insert(arguments.begin(), {RORQUAL_PROGRAM, "serve", "--port", "0"});
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  const std::string log = bench_.at("serve.err"), folder = bench_.at("models");
  pid_ = ::fork();
  CHECK(pid_ >= 0);
  if (pid_ == 0) {
    ::dup2(out[1], STDOUT_FILENO);
    ::close(out[0]);
    if (!std::freopen(log.c_str(), "w", stderr)) ::_exit(126);
    ::setenv("RORQUAL_MODELS", folder.c_str(), 1);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(out[1]);
  for (char c = 0; ::read(out[0], &c, 1) == 1 && c != '\n';) url_ += c;
  ::close(out[0]);
  CHECK(url_.starts_with("http://"), "{}", read_file(log));
  url_.pop_back();
}

ServeProgram::~ServeProgram() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  wait();
}

CurlAnswer ServeProgram::curl(const std::string& path, const std::string& words) const {
  const std::string body = bench_.at("answer.body"), head = bench_.at("answer.head"), status = bench_.at("answer.status");
  fs::remove(body);
  const std::string command =
      command_of(path, words) + " -o " + body + " -D " + head + " -w '%{http_code}' > " + status + " || true";
  CHECK(std::system(command.c_str()) == 0);
  CurlAnswer a;
  a.status = std::atoi(read_file(status).c_str());
  a.head = read_file(head);
  if (fs::exists(body)) a.body = read_file(body);
  return a;
}

CurlAnswer ServeProgram::post(const std::string& path, const std::string& json, const std::string& words) const {
  bench_.write("request.json", json);
  return curl(path, "-H 'Content-Type: application/json' --data-binary @" + bench_.at("request.json") + " " + words);
}

std::string ServeProgram::command_of(const std::string& path, const std::string& words) const {
  return "curl -s -N -m 120 " + words + " " + url_ + path;
}

int64_t ServeProgram::metric(const std::string& name) const {
  const std::string text = curl("/metrics").body;
  const size_t at = text.find("\n" + name + "{");
  CHECK(at != std::string::npos, "{} is missing", name);
  return std::atoll(text.c_str() + text.find("} ", at) + 2);
}

bool ServeProgram::becomes(const std::string& name, int64_t value) const {
  for (int i = 0; i < 600; ++i) {
    if (metric(name) == value) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return false;
}

uint16_t ServeProgram::port() const {
  return static_cast<uint16_t>(std::atoi(url_.c_str() + url_.rfind(':') + 1));
}
void ServeProgram::signal(int number) const {
  ::kill(pid_, number);
}
int ServeProgram::wait() {
  int status = 0;
  CHECK(::waitpid(pid_, &status, 0) == pid_);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string ServeProgram::endless() const {
  const auto end = post("/tokenize", R"({"prompt": "<｜end▁of▁sentence｜>", "add_special_tokens": false})").json();
  return R"({"prompt": "the page", "stream": true, "max_tokens": 100000, "logit_bias": {")" + end["tokens"][0].dump() +
         "\": -100}}";
}

}  // namespace rorqual
