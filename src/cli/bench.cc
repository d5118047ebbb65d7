#include "base/file.h"
#include "base/log.h"
#include "bench/gemm.h"
#include "bench/quantisers.h"
#include "bench/serve.h"
#include "bench/train.h"
#include "cli/command.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

struct GemmCommand {
  std::vector<int> threads;
  std::vector<std::string> shapes;
  int rounds = 7;
  int64_t quantiser_rows = 12288, quantiser_cols = 7168;
  bool resident = false, skip_quantisers = false, json = false;
};

void run_gemm(const GemmCommand& c) {
  GemmBenchRequest request;
  request.threads = c.threads;
  if (request.threads.empty()) {
    request.threads = {1};
    if (default_thread_count() > 1) request.threads.push_back(default_thread_count());
  }
  if (!c.shapes.empty()) request.shapes.clear();
  for (const std::string& shape : c.shapes) request.shapes.push_back(parse_gemm_shape(shape));
  request.rounds = c.rounds;
  if (c.resident) request.most_streamed_rows = 0;
  // A table for people grows row by row; its head comes once.
  const auto told = [&](std::string (*table)(const Json&)) {
    auto first = std::make_shared<bool>(true);
    return [&c, table, first](const Json& row) {
      if (c.json) return;
      const std::string text = table(Json::array({row}));
      print_text(*first ? text : text.substr(text.find('\n') + 1));
      *first = false;
    };
  };
  Json result = bench_gemm(request, told(gemm_table));
  if (!c.skip_quantisers) {
    if (!c.json) print_text("\n");
    result["quantisers"] =
        bench_quantisers(request.threads, c.quantiser_rows, c.quantiser_cols, c.rounds, told(quantiser_table));
  }
  for (const Json& note : result["notes"]) info("note: {}", note.get<std::string>());
  if (c.json) print_json(result);
}

void add_gemm(CLI::App& parent) {
  auto c = std::make_shared<GemmCommand>();
  CLI::App* command =
      add_command(parent, "gemm", "Products of packed weights beside oneDNN's in bf16, and quantisers beside copying",
                  "rorqual bench gemm\nrorqual bench gemm --threads 2 --shape 16x7168x7168 --json");
  command->add_option("--threads", c->threads, "threads of both sides; may be repeated (default: 1, and all)")
      ->check(integer_in(1, 1024))
      ->allow_extra_args(false);
  command->add_option("--shape", c->shapes, "MxNxK in place of the usual ones; may be repeated")
      ->type_name("MxNxK")
      ->allow_extra_args(false);
  command->add_option("--rounds", c->rounds, "turns of each contestant, of which the median counts")
      ->check(integer_in(1, 1000))
      ->capture_default_str();
  command->add_option("--quantiser-rows", c->quantiser_rows, "rows of the matrices that are quantised")
      ->check(integer_in(2, 1 << 20))
      ->capture_default_str();
  command->add_option("--quantiser-cols", c->quantiser_cols, "their columns")
      ->check(integer_in(2, 1 << 16))
      ->capture_default_str();
  command->add_flag("--resident", c->resident, "few rows too find their weight where the last call left it");
  command->add_flag("--skip-quantisers", c->skip_quantisers, "products alone");
  add_json_flag(*command, c->json);
  command->callback([c] { run_gemm(*c); });
}

struct TrainCommand {
  std::string recipe, trace, against;
  std::vector<std::string> set;
  int64_t steps = 10;
  int threads = 0;
  bool json = false;
};

void run_train(const TrainCommand& c) {
  const auto read = [&c](const std::vector<std::string>& set) {
    Recipe recipe = read_recipe(find_recipe(c.recipe), set);
    complete(recipe, recipe.tokenizer.vocab_size);
    validate(recipe);
    return recipe;
  };
  TrainBenchRequest request;
  request.recipe = read(c.set);
  if (!c.against.empty()) {
    std::vector<std::string> set = c.set;
    set.push_back("precision=" + c.against);
    request.against = read(set);
  }
  request.steps = c.steps;
  if (!c.trace.empty()) request.trace = c.trace;
  ThreadPool pool(c.threads > 0 ? c.threads : default_thread_count());
  Json result = bench_train(request, Stream(pool));
  if (!c.json) return print_text(train_table(result));
  Json named = {{"recipe", c.recipe}};
  named.update(result);
  print_json(named);
}

void add_train_bench(CLI::App& parent) {
  auto c = std::make_shared<TrainCommand>();
  CLI::App* command = add_command(parent, "train", "Speed of a recipe's full step on random tokens, and where its time goes",
                                  "rorqual bench train tiny\nrorqual bench train small --against bf16\n"
                                  "rorqual bench train tiny --set precision=fp32 --trace tiny.json --json");
  command->add_option("RECIPE", c->recipe, "name of a recipe, or a TOML file")->required()->type_name("RECIPE");
  command->add_option("--steps", c->steps, "timed steps")->check(integer_in(1, 1'000'000))->capture_default_str();
  command->add_option("--threads", c->threads, "threads (default: OMP_NUM_THREADS, else all CPUs)")->check(integer_in(1, 1024));
  command->add_option("--set", c->set, "change a key of the recipe: key=value; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--against", c->against, "the recipe in this precision too, in turns step by step: fp8, bf16 or fp32")
      ->check(CLI::IsMember({"fp8", "bf16", "fp32"}));
  command->add_option("--trace", c->trace, "write a trace of the steps behind the tables, for Perfetto")->type_name("FILE");
  add_json_flag(*command, c->json);
  command->callback([c] { run_train(*c); });
}

struct ServeCommand {
  std::string what, text;
  std::vector<std::string> precisions;
  std::vector<int64_t> batches;
  ServeBenchRequest request;
  bool json = false;
};

void run_serve(const ServeCommand& c) {
  ServeBenchRequest request = c.request;
  if (!c.precisions.empty()) request.precisions = c.precisions;
  if (!c.batches.empty()) request.batches = c.batches;
  if (std::filesystem::is_directory(c.what)) {
    request.model = c.what;
    const std::filesystem::path heldout = *request.model / "heldout.txt";  // of a run
    if (!c.text.empty())
      request.text = read_file(c.text);
    else if (std::filesystem::exists(heldout))
      request.text = read_file(heldout);
  } else {
    if (!c.text.empty()) fail_usage("--text is for a model: the random weights of a recipe predict nothing");
    Recipe recipe = read_recipe(find_recipe(c.what), {});
    complete(recipe, recipe.tokenizer.vocab_size);
    validate(recipe);
    request.config = recipe.model;
    request.config.num_nextn_predict_layers = 0;
  }
  const Json result = bench_serve(request);
  if (!c.json) return print_text(serve_table(result));
  Json named = {{"model", c.what}};
  named.update(result);
  print_json(named);
}

void add_serve_bench(CLI::App& parent) {
  auto c = std::make_shared<ServeCommand>();
  CLI::App* command =
      add_command(parent, "serve", "Speed of prompts, of decoding by batch size, and of drafts, in FP8 and BF16",
                  "rorqual bench serve small\nrorqual bench serve runs/first --json");
  command->add_option("RECIPE|MODEL", c->what, "name of a recipe or a TOML file (random weights), or a model or run directory")
      ->required()
      ->type_name("RECIPE|MODEL");
  command->add_option("--precision", c->precisions, "fp8, bf16 or fp32; may be repeated (default: fp8 and bf16, in turns)")
      ->check(CLI::IsMember({"fp8", "bf16", "fp32"}))
      ->allow_extra_args(false);
  command->add_option("--batch", c->batches, "sequences that decode at once; may be repeated (default: 1, 4, 16, 64)")
      ->check(integer_in(1, 4096))
      ->allow_extra_args(false);
  command->add_option("--prompt-tokens", c->request.prompt_tokens, "length of the prompt")
      ->check(integer_in(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--decode-tokens", c->request.decode_tokens, "tokens that each sequence generates")
      ->check(integer_in(2, 1 << 20))
      ->capture_default_str();
  command->add_option("--rounds", c->request.rounds, "turns of each measurement, of which the median counts")
      ->check(integer_in(1, 1000))
      ->capture_default_str();
  command->add_option("--text", c->text, "held-out text for drafts by MTP modules (default: the run's own)")->type_name("FILE");
  add_json_flag(*command, c->json);
  command->callback([c] { run_serve(*c); });
}

}  // namespace

void add_bench(CLI::App& app) {
  CLI::App* command = add_command(app, "bench", "How fast products, quantisers, training steps and answers are on this machine",
                                  "rorqual bench gemm --json\nrorqual bench train tiny");
  command->require_subcommand(1);
  add_gemm(*command);
  add_train_bench(*command);
  add_serve_bench(*command);
}

}  // namespace rorqual
