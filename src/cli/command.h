// How a command of the program looks. Each command is one file src/cli/<name>.cc with one function add_<name>, declared here
// and listed in main.cc. It describes its options to CLI11 and sets a callback that does the work; a user's mistake is thrown
// as Error (base/error.h), whose kind gives the exit code.
//
//   void add_score(CLI::App& app) {
//     struct Options { std::string model, file; bool json = false; };
//     auto options = std::make_shared<Options>();
//     CLI::App* command = add_command(app, "score", "Loss of a model on a text", "rorqual score run --file book.txt");
//     command->add_option("MODEL", options->model, "model or run directory")->required()->type_name("DIR");
//     command->add_option("--file", options->file, "text to score")->required()->type_name("FILE");
//     add_json_flag(*command, options->json);
//     command->callback([options] { … });
//   }
//
// Shell completion offers files where the type name is DIR, FILE, MODEL, PATH, RECIPE or RUN, and the words of CLI::IsMember.
// An option that may be repeated needs ->allow_extra_args(false), or it swallows the positional behind it.
#pragma once

#include <CLI/CLI.hpp>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

namespace rorqual {

void add_train(CLI::App& app);
void add_generate(CLI::App& app);
void add_score(CLI::App& app);
void add_export(CLI::App& app);
void add_verify(CLI::App& app);
void add_inspect(CLI::App& app);
void add_tokenizer(CLI::App& app);
void add_chat_template(CLI::App& app);
void add_serve(CLI::App& app);
void add_chat(CLI::App& app);
void add_models(CLI::App& app);
void add_report(CLI::App& app);
void add_experiment(CLI::App& app);
void add_plan(CLI::App& app);
void add_simulate(CLI::App& app);
void add_bench(CLI::App& app);
void add_doctor(CLI::App& app);
void add_completion(CLI::App& app);

using AddCommand = void (*)(CLI::App&);

// A subcommand of `parent` whose --help ends in the example (one command line, or several with newlines between).
CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& description, std::string_view example);

// --json: exactly one JSON object on standard output.
void add_json_flag(CLI::App& command, bool& json);

// For ->check(): a decimal integer from `least` to `most`. CLI11 alone takes -1 for an unsigned 2^64 - 1, 010 for 8, and a
// number that is too large for the largest one there is.
CLI::Validator integer_in(int64_t least, int64_t most = std::numeric_limits<int64_t>::max());

// Standard output belongs to results; messages go to standard error through base/log.h. Both throw when the output cannot be
// written: Error, or OutputClosed where the reader has gone away. print_text flushes, so that text can be streamed.
// Bytes that are not UTF-8 become U+FFFD in JSON.
void print_text(std::string_view text);
void print_json(const nlohmann::ordered_json& object);

// The reader of standard output has closed it (`rorqual … | head`): the program ends quietly with 128 + SIGPIPE, as others do.
struct OutputClosed {};

// Parses the command line, runs the command and returns the exit code: 0; 1 for a failure at run time; 2 for a mistake in
// the command line or a recipe.
int run_program(int argc, const char* const* argv, std::span<const AddCommand> commands);

// The bash script that completes `app`, its commands and their options.
std::string bash_completion(const CLI::App& app);

}  // namespace rorqual
