#include "base/file.h"
#include "base/log.h"
#include "cli/command.h"
#include "serve/generate.h"
#include "serve/loaded_model.h"

namespace rorqual {
namespace {

struct ScoreCommand {
  std::string model, file, precision;
  int64_t window = 0;
  bool json = false, ema = false;
};

void run_score(const ScoreCommand& c) {
  const std::string text = read_file(c.file);
  LoadedModel loaded(c.model, c.precision, c.ema);
  const int64_t context = loaded.source().config.max_position_embeddings;
  const int64_t window = c.window > 0 ? c.window : context;
  if (window > context) fail_usage("--window {} exceeds the model's context of {} tokens", window, context);
  const ScoreResult r = score(loaded.model(), loaded.tokenizer(), text, window, loaded.work(), loaded.stream());
  if (!c.json) {
    print_text(fmt::format("loss {:.4f} nats per token, perplexity {:.2f}, {:.4f} bits per byte ({} tokens, {} bytes)\n",
                           r.loss, r.perplexity(), r.bits_per_byte(), r.tokens, r.bytes));
    for (const ScoreResult::Bucket& b : r.by_position)
      print_text(fmt::format("  positions {:>6} to {:>6}  {:.4f}\n", b.begin, b.end - 1, b.loss));
    return;
  }
  nlohmann::ordered_json j;
  j["loss"] = r.loss;
  j["perplexity"] = r.perplexity();
  j["bits_per_byte"] = r.bits_per_byte();
  j["tokens"] = r.tokens;
  j["bytes"] = r.bytes;
  j["loss_by_position"] = nlohmann::ordered_json::array();
  for (const ScoreResult::Bucket& b : r.by_position)
    j["loss_by_position"].push_back({{"begin", b.begin}, {"end", b.end}, {"tokens", b.tokens}, {"loss", b.loss}});
  print_json(j);
}

}  // namespace

void add_score(CLI::App& app) {
  auto c = std::make_shared<ScoreCommand>();
  CLI::App* command =
      add_command(app, "score", "Loss of a model on a text", "rorqual score runs/first --file runs/first/heldout.txt --json");
  command->add_option("MODEL", c->model, "model or run directory")->required()->type_name("MODEL");
  command->add_option("--file", c->file, "text to score")->required()->type_name("FILE");
  command->add_option("--window", c->window, "tokens of a window (default: the model's context)")->check(integer_in(1));
  command->add_option("--precision", c->precision, "fp8, bf16 or fp32 (default: the run's own; bf16 for other directories)")
      ->check(CLI::IsMember({"fp8", "bf16", "fp32"}));
  command->add_flag("--ema", c->ema, "use the averaged weights");
  add_json_flag(*command, c->json);
  command->callback([c] { run_score(*c); });
}

}  // namespace rorqual
