#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "cli/command.h"
#include "cli/plan.h"
#include "plan/cluster.h"
#include "sim/serving.h"
#include "train/recipe.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

struct PlanServingCommand {
  std::string recipe, cluster, phase;
  ServingUnit unit;
  int64_t batch = 0, context = 0;
  bool json = false;
};

void check(const PlanServingCommand& c, const ModelConfig& model, const Cluster& cluster) {
  if (!model.is_mla() || model.n_routed_experts == 0) fail_usage("{}: serving is priced for MLA with routed experts", c.recipe);
  if (c.unit.ranks > cluster.ranks) fail_usage("--ranks {}: cluster {} has {}", c.unit.ranks, cluster.name, cluster.ranks);
  if (c.unit.ranks % cluster.ranks_per_node != 0)
    fail_usage("--ranks {}: a unit is whole nodes of {}", c.unit.ranks, cluster.ranks_per_node);
  if (c.unit.ranks * c.unit.slots_per_rank < model.n_routed_experts)
    fail_usage("{} ranks of {} slots cannot hold {} experts: raise --slots", c.unit.ranks, c.unit.slots_per_rank,
               model.n_routed_experts);
  if (c.batch < 2) fail_usage("--batch {}: two micro-batches take turns, so at least 2", c.batch);
}

void run_plan_serving(const PlanServingCommand& c) {
  const Recipe recipe = read_whole_recipe(find_recipe(c.recipe), {});
  const Cluster cluster = load_cluster(c.cluster);
  check(c, recipe.model, cluster);
  const bool prefill = c.phase == "prefill";
  const ServingEstimate e = prefill ? simulate_prefill(recipe.model, cluster, c.unit, c.batch, c.context)
                                    : simulate_decode(recipe.model, cluster, c.unit, c.batch, c.context);
  if (c.json) {
    return print_json(Json{{"recipe", c.recipe},
                           {"cluster", cluster.name},
                           {"phase", c.phase},
                           {"ranks", c.unit.ranks},
                           {"slots_per_rank", c.unit.slots_per_rank},
                           {"batch_per_rank", c.batch},
                           {"context", c.context},
                           {"pass_seconds", e.pass_seconds},
                           {"compute_seconds", e.compute_seconds},
                           {"communication_seconds", e.communication_seconds},
                           {"tokens_per_second_per_node", e.tokens_per_second_per_node}});
  }
  std::string text = prefill ? fmt::format("{} on {}: {} ranks read {} tokens each, prompts of {}\n", c.recipe, cluster.name,
                                           c.unit.ranks, c.batch, c.context)
                             : fmt::format("{} on {}: {} ranks decode {} requests each behind {} cached tokens\n", c.recipe,
                                           cluster.name, c.unit.ranks, c.batch, c.context);
  const auto line = [&](std::string_view name, const std::string& value) {
    text += fmt::format("  {:<32}{:>14}\n", name, value);
  };
  line("a pass of both micro-batches", fmt::format("{:.2f} ms", e.pass_seconds * 1e3));
  line("a rank computes", fmt::format("{:.2f} ms", e.compute_seconds * 1e3));
  line("rows travel", fmt::format("{:.2f} ms", e.communication_seconds * 1e3));
  line("tokens per second and node", fmt::format("{:.0f}", e.tokens_per_second_per_node));
  if (!prefill) line("tokens per second and request", fmt::format("{:.1f}", 1 / e.pass_seconds));
  print_text(text);
}

}  // namespace

void add_plan_serving(CLI::App& plan) {
  auto c = std::make_shared<PlanServingCommand>();
  CLI::App* command =
      add_command(plan, "serving", "Predicts a unit of ranks that reads prompts or decodes",
                  "rorqual plan serving v3-671b --cluster h800-2025 --phase decode --ranks 144 --slots 2 --batch 88 "
                  "--context 4989");
  command->add_option("RECIPE", c->recipe, "name of a recipe, or a .toml file")->required()->type_name("RECIPE");
  command->add_option("--cluster", c->cluster, "name of a cluster, or a .toml file")->required()->type_name("FILE");
  command->add_option("--phase", c->phase, "what the unit does")->required()->check(CLI::IsMember({"prefill", "decode"}));
  command->add_option("--ranks", c->unit.ranks, "of the unit: attention is data-parallel, experts are spread over all of them")
      ->required()
      ->check(integer_in(1, 1 << 20));
  command->add_option("--slots", c->unit.slots_per_rank, "routed experts of a layer on a rank, copies among them")
      ->required()
      ->check(integer_in(1, 1 << 20));
  command->add_option("--batch", c->batch, "of a rank, both micro-batches: tokens of prompts, or requests that decode")
      ->required()
      ->check(integer_in(1, 1 << 30));
  command->add_option("--context", c->context, "tokens of a prompt, or cached tokens of a request")
      ->required()
      ->check(integer_in(1, 1 << 30));
  add_json_flag(*command, c->json);
  command->callback([c] { run_plan_serving(*c); });
}

}  // namespace rorqual
