#include "cli/command.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/edit_distance.h"
#include "base/error.h"
#include "base/log.h"

namespace rorqual {
namespace {

constexpr int kOutputClosed = 128 + SIGPIPE;

// "; did you mean X?" where a candidate is near, else nothing.
std::string suggestion(std::string_view word, const std::vector<std::string>& candidates) {
  const std::string* best = nullptr;
  size_t best_distance = 3;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance && distance < word.size()) best = &candidate, best_distance = distance;
  }
  return best ? "; did you mean " + *best + "?" : "";
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  return names;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

std::string full_name(const CLI::App& app) {
  return app.get_parent() ? full_name(*app.get_parent()) + " " + app.get_name() : app.get_name();
}

// The command that the parser had reached when it stopped.
const CLI::App& reached_command(const CLI::App& app) {
  const auto parsed = app.get_subcommands();
  return parsed.empty() ? app : reached_command(*parsed.back());
}

// What is wrong with the command line, in words that name the option.
std::string parse_message(const CLI::App& command, const CLI::ParseError& error) {
  const std::vector<std::string> unknown = command.remaining();
  const bool has_commands = !command_names(command).empty();
  if (unknown.empty()) {
    const bool no_command = command.get_require_subcommand_min() > 0 && command.get_subcommands().empty();
    return no_command ? "which command?" : error.what();
  }
  const auto flag = std::find_if(unknown.begin(), unknown.end(), [](const std::string& word) { return word.starts_with("-"); });
  if (flag != unknown.end()) {
    const std::string name = flag->substr(0, flag->find('='));
    return fmt::format("unknown option {}{}", name, suggestion(name, option_names(command)));
  }
  const std::string& word = unknown.front();
  if (has_commands) return fmt::format("unknown command '{}'{}", word, suggestion(word, command_names(command)));
  return fmt::format("unexpected argument '{}'", word);
}

int report_parse_error(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& command = reached_command(app);
  const std::string name = full_name(command);
  info("{}: {}", name, parse_message(command, error));
  info("'{} --help' shows how to use it", name);
  return static_cast<int>(ErrorKind::kUsage);
}

void write_output(std::string_view text) {
  errno = 0;
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (written) return;
  if (errno == EPIPE) throw OutputClosed{};
  fail("cannot write to standard output: {}", std::strerror(errno));
}

int parse_and_run(CLI::App& app, int argc, const char* const* argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    print_text(app.help());
  } catch (const CLI::CallForVersion& version) {
    print_text(std::string(version.what()) + "\n");
  } catch (const CLI::ParseError& error) {
    return report_parse_error(app, error);
  }
  print_text("");  // a write of the command's that failed at the flush
  return 0;
}

}  // namespace

CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& description, std::string_view example) {
  CLI::App* command = parent.add_subcommand(name, description);
  std::string footer = "Example:\n  ";
  for (const char c : example) footer += c == '\n' ? std::string("\n  ") : std::string(1, c);
  command->footer(footer);
  return command;
}

void add_json_flag(CLI::App& command, bool& json) {
  command.add_flag("--json", json, "print exactly one JSON object on standard output");
}

CLI::Validator integer_in(int64_t least, int64_t most) {
  const bool open = most == std::numeric_limits<int64_t>::max();
  const std::string range = !open        ? fmt::format("from {} to {}", least, most)
                            : least == 1 ? std::string("above 0")
                                         : fmt::format("of {} or more", least);
  return {[=](const std::string& text) {
            int64_t value = 0;
            const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
            const bool whole = error == std::errc() && end == text.data() + text.size();
            const bool octal = text.size() > 1 && text.front() == '0';
            const bool good = whole && !octal && value >= least && value <= most;
            return good ? std::string() : fmt::format("'{}' is no integer {}", text, range);
          },
          "INTEGER " + range};
}

void print_text(std::string_view text) {
  write_output(text);
}

void print_json(const nlohmann::ordered_json& object) {
  CHECK(object.is_object());
  write_output(object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

int run_program(int argc, const char* const* argv, std::span<const AddCommand> commands) {
  // A reader that goes away is an error of the write, not the death of a run that still has a checkpoint to save.
  std::signal(SIGPIPE, SIG_IGN);
  // So is a file that grows beyond `ulimit -f`: the message names it.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    CLI::App app("Trains, evaluates and serves DeepSeek-V3-style mixture-of-experts language models.", "rorqual");
    app.set_version_flag("--version", "rorqual " RORQUAL_VERSION);
    app.require_subcommand(1);
    app.footer("Example:\n  rorqual train tiny --data texts/ --out run");
    for (const AddCommand add : commands) add(app);
    return parse_and_run(app, argc, argv);
  } catch (const OutputClosed&) {
    return kOutputClosed;
  } catch (const Error& error) {
    info("rorqual: {}", error.what());
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    info("rorqual: out of memory: choose a smaller model, micro-batch or sequence, or free memory on this machine");
  } catch (const std::exception& error) {
    info("rorqual: unexpected failure: {}", error.what());
  }
  return static_cast<int>(ErrorKind::kRuntime);
}

}  // namespace rorqual
