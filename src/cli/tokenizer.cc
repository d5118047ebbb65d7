#include "data/tokenizer.h"

#include <fmt/ranges.h>

#include <charconv>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "cli/command.h"
#include "data/corpus.h"

namespace rorqual {
namespace {

using nlohmann::json;

struct TrainOptions {
  std::vector<std::string> data;
  std::string out;
  TokenizerTrainer trainer;
  int64_t sample_mib = 256;
  double heldout = kDefaultHeldoutFraction;
};

void train(const TrainOptions& options) {
  // CLI::Range would take nan.
  if (!(options.heldout >= 0 && options.heldout < 1)) fail_usage("--heldout {} must lie in [0, 1)", options.heldout);
  const double start_s = seconds_now();
  std::vector<DataSpec> specs;
  for (const std::string& text : options.data) specs.push_back(parse_data_spec(text));
  ThreadPool pool(default_thread_count());
  const Stream stream(pool);
  // The same documents as `rorqual train` sees: the held-out ones stay unseen by the tokenizer too.
  const std::vector<std::string> documents =
      sample_documents(open_sources(specs), options.sample_mib << 20, options.heldout, stream);
  const std::vector<std::string_view> views(documents.begin(), documents.end());
  int64_t bytes = 0;
  for (const std::string_view view : views) bytes += static_cast<int64_t>(view.size());
  const Tokenizer tokenizer = train_tokenizer(options.trainer, views, stream);
  tokenizer.save(options.out);
  info("{} tokens from {:.1f} MB in {} documents, {:.1f} s: {}", tokenizer.vocab_size(), static_cast<double>(bytes) * 1e-6,
       documents.size(), seconds_now() - start_s, (std::filesystem::path(options.out) / "tokenizer.json").string());
}

std::string read_input() {
  std::string text{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  if (std::cin.bad()) fail("cannot read standard input");
  return text;
}

// Ids separated by white space.
std::vector<int32_t> parse_ids(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n\f\v";
  std::vector<int32_t> ids;
  while (true) {
    const size_t begin = text.find_first_not_of(kBlanks);
    if (begin == text.npos) return ids;
    text.remove_prefix(begin);
    const std::string_view word = text.substr(0, text.find_first_of(kBlanks));
    int32_t id = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || end != word.data() + word.size()) {
      fail("standard input: \"{}\" (number {}) is no token id; ids separated by white space are needed", word.substr(0, 40),
           ids.size() + 1);
    }
    ids.push_back(id);
    text.remove_prefix(word.size());
  }
}

// Answers each line of standard input with one line; `answer` gets the object and the number of the line.
template <class Answer>
void answer_lines(Answer&& answer) {
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const json object = json::parse(line, nullptr, false);
    if (!object.is_object()) fail("standard input, line {}: not a JSON object", number);
    print_text(answer(object, number).dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
  }
  if (std::cin.bad()) fail("cannot read standard input");
}

json encode_line(const Tokenizer& tokenizer, const json& object, int64_t number) {
  const auto text = object.find("text");
  if (text == object.end() || !text->is_string()) fail("standard input, line {}: {{\"text\": STRING}} is needed", number);
  return {{"ids", tokenizer.encode(text->get_ref<const std::string&>())}};
}

json decode_line(const Tokenizer& tokenizer, const json& object, int64_t number) {
  const auto list = object.find("ids");
  if (list == object.end() || !list->is_array()) fail("standard input, line {}: {{\"ids\": [INTEGER, …]}} is needed", number);
  std::vector<int32_t> ids;
  for (const json& id : *list) {
    const bool fits = id.is_number_unsigned() && id.get<uint64_t>() < static_cast<uint64_t>(tokenizer.vocab_size());
    if (!fits) {
      fail("standard input, line {}: {} is no token id; this tokenizer has 0 to {}", number, id.dump().substr(0, 40),
           tokenizer.vocab_size() - 1);
    }
    ids.push_back(id.get<int32_t>());
  }
  return {{"text", tokenizer.decode(ids)}};
}

struct CodeOptions {
  std::string tokenizer;
  bool lines = false;
};

void encode(const CodeOptions& options) {
  const Tokenizer tokenizer = Tokenizer::load(options.tokenizer);
  if (options.lines) {
    answer_lines([&](const json& object, int64_t number) { return encode_line(tokenizer, object, number); });
  } else {
    print_text(fmt::format("{}\n", fmt::join(tokenizer.encode(read_input()), " ")));
  }
}

void decode(const CodeOptions& options) {
  const Tokenizer tokenizer = Tokenizer::load(options.tokenizer);
  if (options.lines) {
    answer_lines([&](const json& object, int64_t number) { return decode_line(tokenizer, object, number); });
  } else {
    print_text(tokenizer.decode(parse_ids(read_input())));
  }
}

void add_train_tokenizer(CLI::App& parent) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = add_command(parent, "train", "Learn a vocabulary from text",
                                  "rorqual tokenizer train --data texts/ --vocab 8192 --out my-tokenizer");
  command->add_option("--data", options->data, "text files, .jsonl, .gz, .zst, folders of them; PATH=WEIGHT mixes")
      ->required()
      ->type_name("PATH")
      ->allow_extra_args(false);
  command->add_option("--vocab", options->trainer.vocab_size, "tokens in all, with 256 bytes and 6 special ones")
      ->check(integer_in(1, std::numeric_limits<int32_t>::max()))
      ->capture_default_str();
  command->add_option("--out", options->out, "folder for tokenizer.json and tokenizer_config.json")
      ->required()
      ->type_name("DIR");
  command->add_option("--sample-mib", options->sample_mib, "text to learn from at most, in MiB")
      ->check(integer_in(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--heldout", options->heldout, "share of the documents that `rorqual train` holds out, left out here too")
      ->capture_default_str();
  command->callback([options] { train(*options); });
}

void add_code(CLI::App& parent, const char* name, const char* description, const char* example,
              void (*run)(const CodeOptions&)) {
  auto options = std::make_shared<CodeOptions>();
  CLI::App* command = add_command(parent, name, description, example);
  command->add_option("--tokenizer", options->tokenizer, "folder with tokenizer.json")->required()->type_name("DIR");
  command->add_flag("--jsonl", options->lines, "one JSON object per line: {\"text\": …} and {\"ids\": […]}");
  command->callback([options, run] { run(*options); });
}

}  // namespace

void add_tokenizer(CLI::App& app) {
  CLI::App* command = add_command(app, "tokenizer", "Train a tokenizer, turn text into token ids and back",
                                  "rorqual tokenizer train --data texts/ --vocab 8192 --out my-tokenizer\n"
                                  "echo Hello | rorqual tokenizer encode --tokenizer my-tokenizer");
  command->require_subcommand(1);
  add_train_tokenizer(*command);
  add_code(*command, "encode", "Token ids of the text on standard input; special tokens that it spells are known",
           "echo Hello | rorqual tokenizer encode --tokenizer my-tokenizer", encode);
  add_code(*command, "decode", "Text of the token ids on standard input",
           "echo 42 7 | rorqual tokenizer decode --tokenizer my-tokenizer", decode);
}

}  // namespace rorqual
