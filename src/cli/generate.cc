#include "serve/generate.h"

#include <unistd.h>

#include "base/log.h"
#include "cli/command.h"
#include "serve/loaded_model.h"

namespace rorqual {
namespace {

struct GenerateCommand {
  std::string model, prompt, precision;
  GenerateRequest request;
  bool json = false, ema = false;
};

const char* stop_name(GenerateStop stop) {
  return stop == GenerateStop::kEnd ? "end" : stop == GenerateStop::kContext ? "context" : "length";
}

void run_generate(const GenerateCommand& c) {
  validate(c.request.sampling);
  LoadedModel loaded(c.model, c.precision, c.ema, c.request.draft_tokens > 0);
  GenerateRequest request = c.request;
  request.prompt = c.prompt;
  if (!c.json) {
    print_text(c.prompt);
    request.on_text = [](std::string_view text) { print_text(text); };
  }
  const GenerateResult r = generate(loaded.model(), loaded.tokenizer(), request, loaded.work(), loaded.stream());
  const double rate = static_cast<double>(r.token_ids.size()) / r.seconds;
  if (!c.json) {
    print_text("\n");
    info("{} tokens, {:.1f} tokens/s", r.token_ids.size(), rate);
    if (r.drafted_tokens > 0) info("{} of {} drafted tokens were right", r.accepted_tokens, r.drafted_tokens);
  }
  if (r.stop == GenerateStop::kContext)
    info("stopped before --max-tokens {}: prompt and text fill the model's context of {} tokens", request.max_tokens,
         loaded.model().config().max_position_embeddings);
  if (!c.json) return;
  nlohmann::ordered_json j;
  j["prompt"] = c.prompt;
  j["text"] = r.text;
  j["token_ids"] = r.token_ids;
  j["tokens_per_s"] = rate;
  j["stop"] = stop_name(r.stop);
  if (c.request.draft_tokens > 0) {
    j["drafted_tokens"] = r.drafted_tokens;
    j["accepted_tokens"] = r.accepted_tokens;
  }
  print_json(j);
}

}  // namespace

void add_generate(CLI::App& app) {
  auto c = std::make_shared<GenerateCommand>();
  CLI::App* command = add_command(app, "generate", "Write text that continues a prompt",
                                  "rorqual generate runs/first --prompt 'The kernel ' --max-tokens 100 --temperature 0.7");
  command->add_option("MODEL", c->model, "model or run directory")->required()->type_name("MODEL");
  command->add_option("--prompt", c->prompt, "what the text begins with")->required()->type_name("TEXT");
  command->add_option("--max-tokens", c->request.max_tokens, "at most so many tokens")
      ->check(integer_in(1))
      ->capture_default_str();
  command->add_option("--temperature", c->request.sampling.temperature, "0: always the most likely token")
      ->capture_default_str();
  command->add_option("--top-p", c->request.sampling.top_p, "keep the likeliest tokens with this much probability")
      ->capture_default_str();
  command->add_option("--top-k", c->request.sampling.top_k, "keep the k likeliest tokens; 0: all")
      ->check(integer_in(0))
      ->capture_default_str();
  command->add_option("--seed", c->request.sampling.seed, "of the random choices")->check(integer_in(0))->capture_default_str();
  command
      ->add_option("--draft", c->request.draft_tokens,
                   "tokens that the model's MTP modules guess ahead; the text stays the same")
      ->check(integer_in(0))
      ->capture_default_str();
  command->add_option("--precision", c->precision, "fp8, bf16 or fp32 (default: the run's own; bf16 for other directories)")
      ->check(CLI::IsMember({"fp8", "bf16", "fp32"}));
  command->add_flag("--ema", c->ema, "use the averaged weights");
  add_json_flag(*command, c->json);
  command->callback([c] { run_generate(*c); });
}

}  // namespace rorqual
