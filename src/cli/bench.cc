#include "base/log.h"
#include "bench/gemm.h"
#include "bench/quantisers.h"
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
  std::string recipe, trace;
  std::vector<std::string> set;
  int64_t steps = 10;
  int threads = 0;
  bool json = false;
};

void run_train(const TrainCommand& c) {
  TrainBenchRequest request;
  request.recipe = read_recipe(find_recipe(c.recipe), c.set);
  complete(request.recipe, request.recipe.tokenizer.vocab_size);
  validate(request.recipe);
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
  CLI::App* command =
      add_command(parent, "train", "Speed of a recipe's full step on random tokens, and where its time goes",
                  "rorqual bench train tiny\nrorqual bench train tiny --set precision=bf16 --trace tiny.json --json");
  command->add_option("RECIPE", c->recipe, "name of a recipe, or a TOML file")->required()->type_name("RECIPE");
  command->add_option("--steps", c->steps, "timed steps")->check(integer_in(1, 1'000'000))->capture_default_str();
  command->add_option("--threads", c->threads, "threads (default: OMP_NUM_THREADS, else all CPUs)")->check(integer_in(1, 1024));
  command->add_option("--set", c->set, "change a key of the recipe: key=value; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--trace", c->trace, "write a trace of the steps behind the tables, for Perfetto")->type_name("FILE");
  add_json_flag(*command, c->json);
  command->callback([c] { run_train(*c); });
}

}  // namespace

void add_bench(CLI::App& app) {
  CLI::App* command = add_command(app, "bench", "How fast products, quantisers and training steps are on this machine",
                                  "rorqual bench gemm --json\nrorqual bench train tiny");
  command->require_subcommand(1);
  add_gemm(*command);
  add_train_bench(*command);
}

}  // namespace rorqual
