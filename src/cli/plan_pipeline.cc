#include <memory>

#include "cli/command.h"
#include "cli/plan.h"
#include "plan/pipeline.h"

namespace rorqual {

void add_plan_pipeline(CLI::App& plan) {
  struct Options {
    std::string schedule;
    int ranks = 0, micro_batches = 0;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = add_command(plan, "pipeline", "Who runs which micro-batch when: a pipeline schedule",
                                  "rorqual plan pipeline --schedule dualpipe --ranks 8 --micro-batches 20");
  command->add_option("--schedule", options->schedule, "which")->required()->check(CLI::IsMember(pipeline_kind_names()));
  command->add_option("--ranks", options->ranks, "ranks of the pipeline")->required()->check(integer_in(1, 1 << 14));
  command->add_option("--micro-batches", options->micro_batches, "micro-batches of a step, of both directions together")
      ->required()
      ->check(integer_in(1, 1 << 24));
  add_json_flag(*command, options->json);
  command->callback([options] {
    const auto schedule = make_pipeline_schedule(
        {.kind = parse_pipeline_kind(options->schedule), .ranks = options->ranks, .micro_batches = options->micro_batches});
    nlohmann::ordered_json ops = nlohmann::ordered_json::array();
    for (const auto& rank : schedule.ranks) ops.push_back(pipeline_ops(rank));
    print_json({{"schedule", options->schedule},
                {"ranks", options->ranks},
                {"micro_batches", options->micro_batches},
                {"ops", std::move(ops)}});
  });
}

}  // namespace rorqual
