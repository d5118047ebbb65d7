#include "cli/plan.h"

#include "cli/command.h"

namespace rorqual {

void add_plan(CLI::App& app) {
  CLI::App* plan = add_command(app, "plan", "Tables of who computes, sends and holds what, checked and drawn",
                               "rorqual plan pipeline --schedule dualpipe --ranks 8 --micro-batches 20");
  plan->require_subcommand(1);
  // A new table: its file, its line in plan.h, its line here.
  add_plan_pipeline(*plan);
  add_plan_memory(*plan);
  add_plan_search(*plan);
  add_plan_serving(*plan);
  add_plan_experts(*plan);
}

}  // namespace rorqual
