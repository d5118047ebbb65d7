#include "base/log.h"
#include "base/trace.h"
#include "cli/command.h"
#include "serve/generate.h"
#include "train/report.h"
#include "train/trainer.h"

namespace rorqual {
namespace {

struct TrainCommand {
  std::string recipe;
  std::vector<std::string> data, set;
  std::string out, init, trace;
  int64_t steps = 0;
  bool resume = false, help_keys = false, json = false;
};

Sample write_sample(const Model& model, const Tokenizer& tokenizer, const std::string& prompt, int64_t tokens, uint64_t seed,
                    Workspace& work, const Stream& stream) {
  GenerateRequest request;
  request.prompt = prompt;
  request.max_tokens = tokens;
  request.sampling = {.temperature = 0.7, .top_p = 0.95, .top_k = 0, .seed = seed};
  return {prompt, generate(model, tokenizer, request, work, stream).text};
}

void show_summary(const TrainCommand& c, const std::filesystem::path& run, const TrainSummary& s) {
  info("step {}, {:.2f}M tokens, loss {:.4f}{}; model, metrics and report lie in {}", s.step,
       static_cast<double>(s.tokens) / 1e6, s.loss, s.heldout_loss ? fmt::format(", held-out {:.4f}", *s.heldout_loss) : "",
       run.string());
  if (!c.json) return;
  nlohmann::ordered_json j;
  j["run"] = run.string();
  j["step"] = s.step;
  j["tokens"] = s.tokens;
  j["loss"] = s.loss;
  if (s.heldout_loss) j["heldout_loss"] = *s.heldout_loss;
  j["seconds"] = s.seconds;
  j["interrupted"] = s.interrupted;
  print_json(j);
}

void run_train(const TrainCommand& c) {
  const std::filesystem::path recipe_file = find_recipe(c.recipe);
  if (c.help_keys) {
    // Not read: the keys are what one looks up for a recipe that is refused.
    print_text(describe_recipe_keys());
    info("defaults, for keys that a recipe leaves out; 'rorqual inspect {}' shows what this one sets", c.recipe);
    return;
  }
  RunRequest request;
  request.recipe = read_recipe(recipe_file, c.set);
  for (const std::string& d : c.data) request.data.push_back(parse_data_spec(d));
  request.directory = c.out.empty() ? std::filesystem::path("runs") / recipe_file.stem() : std::filesystem::path(c.out);
  request.resume = c.resume;
  if (!c.init.empty()) request.init = c.init;
  if (c.resume && request.init) fail_usage("--init starts a run, --resume goes on with one: give one of them");

  ThreadPool pool(default_thread_count());
  const Stream stream(pool);
  const PreparedRun run = prepare_run(request, stream);
  info("recipe {}\n{}", recipe_file.string(), print_recipe(run.recipe));
  TrainOptions options;
  if (c.steps > 0) options.steps = c.steps;
  options.sample = write_sample;
  options.report = [](const std::filesystem::path& directory) { write_report(directory, directory / "report.html"); };
  if (!c.trace.empty()) start_trace();
  Trainer trainer(run, options, c.resume, stream);
  const TrainSummary summary = trainer.train();
  if (!c.trace.empty()) write_trace(c.trace);
  show_summary(c, request.directory, summary);
}

}  // namespace

void add_train(CLI::App& app) {
  auto c = std::make_shared<TrainCommand>();
  CLI::App* command =
      add_command(app, "train", "Train a model by a recipe",
                  "rorqual train tiny --data ~/texts --out runs/first\nrorqual train tiny --out runs/first --resume");
  command->add_option("RECIPE", c->recipe, "name of a recipe, or a TOML file")->required()->type_name("RECIPE");
  command
      ->add_option("--data", c->data, "text, .jsonl, .gz, .zst or a folder of them; PATH=WEIGHT mixes sources; may be repeated")
      ->type_name("PATH")
      ->allow_extra_args(false);
  command->add_option("--out", c->out, "run directory (default runs/RECIPE)")->type_name("RUN");
  command->add_option("--steps", c->steps, "total steps of the run, in place of train.steps; changes no schedule")
      ->check(integer_in(1));
  command->add_flag("--resume", c->resume, "go on from the newest checkpoint of the run directory");
  command->add_option("--init", c->init, "start from the weights of a model")->type_name("MODEL");
  command->add_option("--set", c->set, "change a key of the recipe: key=value; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--trace", c->trace, "write a trace for Perfetto when done")->type_name("FILE");
  command->add_flag("--help-keys", c->help_keys, "print every key of a recipe with type, default and meaning");
  add_json_flag(*command, c->json);
  command->callback([c] { run_train(*c); });
}

}  // namespace rorqual
