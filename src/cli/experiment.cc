#include "experiment/experiment.h"

#include <fmt/format.h>

#include "cli/command.h"

namespace rorqual {

void add_experiment(CLI::App& app) {
  struct Options {
    std::string name, out, recipe = "tiny";
    std::vector<std::string> data;
    int64_t steps = 0;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  std::vector<std::string> names;
  std::string questions = "which:";
  for (const Experiment& experiment : experiments()) {
    names.emplace_back(experiment.name);
    questions += fmt::format("\n{}: {}", experiment.name, experiment.question);
  }
  CLI::App* command = add_command(app, "experiment", "Try a claim of the DeepSeek-V3 report, with a page of plots",
                                  "rorqual experiment accumulator --out accumulator");
  command->add_option("NAME", options->name, questions)->required()->check(CLI::IsMember(names));
  command->add_option("--out", options->out, "directory for the results (default experiment-NAME)")->type_name("DIR");
  command->add_option("--data", options->data, "text to train on, as 'rorqual train' takes it; may be repeated (training only)")
      ->type_name("PATH")
      ->allow_extra_args(false);
  command->add_option("--recipe", options->recipe, "what to train (training only; default tiny)")->type_name("RECIPE");
  command->add_option("--steps", options->steps, "optimizer steps of each run (training only)")->check(integer_in(1));
  add_json_flag(*command, options->json);
  command->callback([options] {
    ExperimentRequest request;
    request.directory = options->out.empty() ? "experiment-" + options->name : options->out;
    if (options->steps > 0) request.steps = options->steps;
    request.recipe = options->recipe;
    request.data = options->data;
    ThreadPool pool(default_thread_count());
    const auto json = run_experiment(find_experiment(options->name), request, Stream(pool));
    if (options->json) print_json(json);
  });
}

}  // namespace rorqual
