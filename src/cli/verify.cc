#include "serve/verify.h"

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "cli/command.h"
#include "serve/loaded_model.h"
#include "tensor/safetensors.h"

namespace rorqual {
namespace {

struct Options {
  std::string a, b, file;
  std::string precision = "fp32";
  int64_t tokens = 512;
  bool json = false;
};

// Prose, numbers, code and other scripts, so that any tokenizer meets some of what it knows.
constexpr std::string_view kText =
    "The scheduler keeps every runnable task in a tree that is ordered by the time it has been given so far, and always runs "
    "the "
    "leftmost one. A task that sleeps falls behind; when it wakes, it is placed near the others, so that it cannot claim all "
    "the "
    "time that it has missed.\n\nIn 1969 about 650 million people watched as 2 of them walked on the Moon; 12 have done so "
    "since, "
    "the last on 14 December 1972.\n\n"
    "static int add(struct list *l, int value) {\n\tif (!l)\n\t\treturn -EINVAL;\n\treturn append(l, value * 2 + 1);\n}\n\n"
    "Der Wind hat sich gedreht, und über dem Fluß hängt Nebel. Il fait déjà nuit à Besançon. "
    "天下皆知美之为美，斯恶已。 Что было, то и будет. こんにちは、世界。 1 + 1 = 2, 7 × 8 = 56, e^(iπ) = −1.\n";

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  if (const auto bos = tokenizer.bos_id()) ids.push_back(*bos);
  tokenizer.encode_ordinary(text, ids);
  return ids;
}

void check_pair(const LoadedModel& a, const LoadedModel& b, std::string_view text) {
  if (a.source().config.vocab_size != b.source().config.vocab_size)
    fail("{} has a vocabulary of {} entries, {} one of {}: their logits cannot be compared", a.source().description,
         a.source().config.vocab_size, b.source().description, b.source().config.vocab_size);
  if (encode(a.tokenizer(), text) != encode(b.tokenizer(), text))
    fail("{} and {} encode the text differently: their tokenizers are not the same", a.source().description,
         b.source().description);
}

VerifyResult verify_pair(LoadedModel& a, const Options& o) {
  LoadedModel b(o.b, o.precision, false);
  const std::string text = o.file.empty() ? std::string(kText) : read_file(o.file);
  check_pair(a, b, text);
  std::vector<int32_t> ids = encode(a.tokenizer(), text);
  if (ids.empty()) fail_usage("the text is empty: there is nothing to compare");
  ids.resize(std::min(ids.size(), static_cast<size_t>(o.tokens)));
  const int64_t vocabulary = a.source().config.vocab_size;
  const int64_t context = std::min(a.source().config.max_position_embeddings, b.source().config.max_position_embeddings);
  constexpr int64_t kLogits = 16 << 20;  // held at a time, of each model
  const int64_t window = std::min(context, std::max<int64_t>(32, kLogits / vocabulary));
  return verify_logits(logits_of(a.model(), a.work(), a.stream()), logits_of(b.model(), b.work(), b.stream()), vocabulary, ids,
                       window);
}

// A file of another program: the ids that it was given, a text from its beginning, and its logits after each.
VerifyResult verify_recorded(LoadedModel& a, const Options& o) {
  const SafetensorsFile file(o.b);
  const Tensor tokens = file.tensor("tokens"), logits = file.tensor("logits");
  const int64_t vocabulary = a.source().config.vocab_size, context = a.source().config.max_position_embeddings;
  if (tokens.dtype != DType::kI64 || logits.dtype != DType::kF32 || tokens.count() == 0 || logits.cols != vocabulary ||
      logits.rows != tokens.count())
    fail("{}: 'tokens' [n] of I64 and 'logits' [n, {}] of F32 are needed, n at least 1", o.b, vocabulary);
  if (tokens.count() > context) fail("{}: {} tokens exceed the model's context of {}", o.b, tokens.count(), context);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < tokens.count(); ++i) {
    const int64_t id = tokens.ptr<int64_t>()[i];
    if (id < 0 || id >= vocabulary) fail("{}: token {} is no id of a vocabulary of {}", o.b, id, vocabulary);
    ids.push_back(static_cast<int32_t>(id));
  }
  const LogitsOf recorded = [&](std::span<const int32_t>) {
    return std::vector<double>(logits.ptr<float>(), logits.ptr<float>() + logits.count());
  };
  return verify_logits(logits_of(a.model(), a.work(), a.stream()), recorded, vocabulary, ids, tokens.count());
}

void run(const Options& o) {
  LoadedModel a(o.a, o.precision, false);
  const VerifyResult r = o.b.ends_with(".safetensors") ? verify_recorded(a, o) : verify_pair(a, o);
  if (o.json) {
    print_json({{"a", o.a},
                {"b", o.b},
                {"precision", o.precision},
                {"tokens", r.tokens},
                {"largest_difference", r.largest_difference},
                {"mean_difference", r.mean_difference},
                {"largest_logit", r.largest_logit},
                {"same_top_token", r.same_top_token},
                {"agreement", r.agreement()},
                {"mean_kl", r.mean_kl}});
    return;
  }
  print_text(fmt::format(
      "logits differ by {:.3g} at most and {:.3g} on average (the largest is {:.3g}); KL divergence {:.3g} nats per token\n"
      "the most likely token is the same after {} of {} tokens ({:.2f}%)\n",
      r.largest_difference, r.mean_difference, r.largest_logit, r.mean_kl, r.same_top_token, r.tokens, 100 * r.agreement()));
}

}  // namespace

void add_verify(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = add_command(app, "verify", "Compare the logits of two models on the same text",
                                  "rorqual verify runs/first first-fp8 --json");
  command->add_option("A", options->a, "model or run directory")->required()->type_name("MODEL");
  command
      ->add_option("B", options->b,
                   "such as an export of A; or a file .safetensors with tokens [n] of I64 and logits [n, vocabulary] of "
                   "F32 that another program has computed")
      ->required()
      ->type_name("MODEL");
  command->add_option("--file", options->file, "text to compare on (default: a built-in one)")->type_name("FILE");
  command->add_option("--tokens", options->tokens, "at most so many tokens of the text")
      ->check(integer_in(1))
      ->capture_default_str();
  command->add_option("--precision", options->precision, "of both computations: fp8, bf16 or fp32")
      ->check(CLI::IsMember({"fp8", "bf16", "fp32"}))
      ->capture_default_str();
  add_json_flag(*command, options->json);
  command->callback([options] { run(*options); });
}

}  // namespace rorqual
