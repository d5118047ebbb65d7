#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <mutex>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/line_editor.h"
#include "serve/api_answer.h"
#include "serve/model_host.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kHelp =
    "/help          this list\n"
    "/reset         forget the conversation\n"
    "/system TEXT   a system message from now on; without TEXT: none\n"
    "/save FILE     write the conversation as JSON\n"
    "/quit          leave (so does Ctrl-D)\n"
    "Ctrl-C stops an answer. A line that ends in \\ goes on with the next one.\n";

struct ChatCommand {
  std::string model, system;
  HostSettings host;
  SamplingSettings sampling;
  int64_t max_tokens = 1024;
};

// Events of one request, handed from the engine's thread to this one.
class EventQueue {
 public:
  void push(EngineEvent&& e) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(e));
    wake_.notify_one();
  }
  std::optional<EngineEvent> pop(std::chrono::milliseconds wait) {
    std::unique_lock lock(mutex_);
    if (!wake_.wait_for(lock, wait, [&] { return !events_.empty(); })) return {};
    EngineEvent e = std::move(events_.front());
    events_.pop_front();
    return e;
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<EngineEvent> events_;
};

class Chat {
 public:
  Chat(const ChatCommand& c, ServedModel& model) : c_(c), model_(model), system_(c.system) {}

  bool chats() const { return model_.chat_template.has_value(); }
  // One line of the user's; false: leave.
  bool take(const std::string& line) {
    if (line.starts_with("/")) return command(line);
    if (line.find_first_not_of(" \t") == line.npos) return true;
    try {
      answer(line);
    } catch (const Error& e) {
      info("{}", e.what());
      if (!messages_.empty() && messages_.back()["role"] == "user") messages_.erase(messages_.size() - 1);
    }
    return true;
  }

 private:
  bool command(const std::string& line) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string word = line.substr(0, space), rest = line.substr(std::min(space + 1, line.size()));
    if (word == "/quit" || word == "/exit") return false;
    if (word == "/help") {
      print_text(kHelp);
    } else if (word == "/reset") {
      messages_ = Json::array();
      info("the conversation is forgotten");
    } else if (word == "/system") {
      system_ = rest;
      if (!chats()) info("this model has no chat template: a system message changes nothing");
    } else if (word == "/save") {
      save(rest);
    } else {
      info("{} is no command; /help lists them", word);
    }
    return true;
  }

  void save(const std::string& file) {
    if (file.empty()) return info("/save needs a file's name");
    try {
      write_file_atomically(file, conversation().dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
      info("saved as {}", file);
    } catch (const Error& e) {
      info("{}", e.what());
    }
  }
  Json conversation() const {
    Json all = Json::array();
    if (!system_.empty()) all.push_back({{"role", "system"}, {"content", system_}});
    for (const Json& m : messages_) all.push_back(m);
    return {{"messages", std::move(all)}};
  }

  std::vector<int32_t> prompt_of(const std::string& text) {
    const Tokenizer& t = model_.tokenizer();
    if (chats()) {
      Json request = conversation();
      request["add_generation_prompt"] = true;
      return t.encode(model_.render(request));
    }
    std::vector<int32_t> tokens;
    if (const auto bos = t.bos_id()) tokens.push_back(*bos);
    t.encode(text, tokens);
    return tokens;
  }

  void answer(const std::string& text) {
    messages_.push_back({{"role", "user"}, {"content", text}});
    EventQueue queue;
    EngineRequest r;
    r.prompt = prompt_of(text);
    r.sampling = c_.sampling;
    r.sampling.seed = choice_seed(c_.sampling.seed, turn_++);
    r.max_tokens = c_.max_tokens;
    r.on_event = [&queue](EngineEvent&& e) { queue.push(std::move(e)); };
    const double begin = seconds_now();
    const InterruptGuard guard;  // Ctrl-C ends the answer, not the program
    const uint64_t id = model_.engine.submit(std::move(r));
    if (!chats()) print_text(text);
    std::string written;
    TokenUsage usage;
    for (bool done = false, cancelled = false; !done;) {
      if (InterruptGuard::interrupted() && !std::exchange(cancelled, true)) model_.engine.cancel(id);
      const auto e = queue.pop(std::chrono::milliseconds(50));
      if (!e) continue;
      written += e->text;
      if (!e->text.empty()) show(e->text);
      usage = e->usage;
      done = e->finish.has_value();
      if (e->finish == FinishReason::kFailed) info("{}", e->error);
    }
    show("\n");
    if (::isatty(STDERR_FILENO) != 0)
      info("{} tokens, {:.1f} tokens/s", usage.generated_tokens,
           static_cast<double>(usage.generated_tokens) / std::max(1e-9, seconds_now() - begin));
    messages_.push_back({{"role", "assistant"}, {"content", written}});
    if (output_closed_) throw OutputClosed{};
  }
  // The engine's events must all arrive before their queue goes.
  void show(std::string_view text) {
    if (output_closed_) return;
    try {
      print_text(text);
    } catch (const OutputClosed&) {
      output_closed_ = true;
    }
  }

  const ChatCommand& c_;
  ServedModel& model_;
  std::string system_;
  Json messages_ = Json::array();
  int64_t turn_ = 0;
  bool output_closed_ = false;
};

// A line, or several joined where they end in a backslash; none at the end of the input.
std::optional<std::string> read_message(LineEditor& editor) {
  std::string all;
  for (bool more = false;; more = true) {
    std::optional<std::string> line = editor.read(more ? "… " : "> ");
    if (!line) return more ? std::optional(all) : std::nullopt;
    if (!line->ends_with('\\')) return all + *line;
    line->back() = '\n';
    all += *line;
  }
}

void run_chat(const ChatCommand& c) {
  validate(c.sampling);
  const ModelStore store(ModelStore::default_folder());
  const NamedModel named = find_model(c.model, store);
  ChatCommand command = c;
  command.host.engine.max_running = 1;
  ServedModel model(named.name, named.path, command.host);
  Chat chat(command, model);
  LineEditor editor;
  if (editor.terminal())
    info("{}: {}. /help lists the commands.", named.name,
         chat.chats() ? "write a message" : "it has no chat template and goes on with what you write");
  while (const auto line = read_message(editor))
    if (!chat.take(*line)) break;
}

}  // namespace

void add_chat(CLI::App& app) {
  auto c = std::make_shared<ChatCommand>();
  c->sampling.temperature = 0.7;
  c->sampling.top_p = 0.95;
  CLI::App* command = add_command(app, "chat", "Talk with a model in the terminal",
                                  "rorqual chat runs/tiny\nrorqual chat tiny --system 'Answer briefly.' --temperature 0");
  command->add_option("MODEL", c->model, "model or run directory, or a name of the models folder")
      ->required()
      ->type_name("MODEL");
  command->add_option("--system", c->system, "system message")->type_name("TEXT");
  command->add_option("--max-tokens", c->max_tokens, "at most so many tokens an answer")
      ->check(integer_in(1))
      ->capture_default_str();
  command->add_option("--temperature", c->sampling.temperature, "0: always the most likely token")->capture_default_str();
  command->add_option("--top-p", c->sampling.top_p, "keep the likeliest tokens with this much probability")
      ->capture_default_str();
  command->add_option("--top-k", c->sampling.top_k, "keep the k likeliest tokens; 0: all")
      ->check(integer_in(0))
      ->capture_default_str();
  command->add_option("--seed", c->sampling.seed, "of the random choices")->check(integer_in(0))->capture_default_str();
  command->add_option("--draft", c->host.engine.draft_tokens, "tokens that MTP modules guess ahead")
      ->check(integer_in(0))
      ->capture_default_str();
  command->add_option("--precision", c->host.precision, "fp8, bf16 or fp32 (default: the run's own; bf16 for others)")
      ->check(CLI::IsMember({"fp8", "bf16", "fp32"}));
  command->add_flag("--ema", c->host.ema, "use the averaged weights");
  command->callback([c] { run_chat(*c); });
}

}  // namespace rorqual
