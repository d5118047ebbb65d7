#include <cmath>
#include <memory>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/command.h"
#include "cli/plan.h"
#include "sim/mesh_search.h"
#include "train/model_memory.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

struct PlanSearchCommand {
  std::string recipe, cluster;
  std::vector<std::string> set;
  int64_t ranks = 0, top = 10;
  bool json = false;
};

Json candidate_json(const MeshCandidate& c) {
  Json j = {{"mesh", to_string(c.mesh)},
            {"schedule", pipeline_kind_name(c.schedule)},
            {"micro_batches", c.micro_batches},
            {"grad_lanes", c.grad_lanes},
            {"expert_lane_group", c.expert_lane_group},
            {"fits", c.fits},
            {"device_bytes", c.device_bytes},
            {"load_that_fits", std::isfinite(c.load_that_fits) ? Json(c.load_that_fits) : Json(nullptr)},
            {"limit", c.limit}};
  if (!c.fits) return j;
  j["step_seconds"] = c.step.step_seconds;
  j["tokens_per_second"] = c.step.tokens_per_second;
  j["gpu_hours_per_trillion_tokens"] = c.step.gpu_hours_per_trillion_tokens;
  j["bubble_share"] = c.step.bubble_share;
  j["exposed_communication_share"] = c.step.exposed_communication_share;
  j["mfu_causal"] = c.step.mfu_causal;
  j["stage_begin"] = c.step.stage_begin;
  return j;
}

std::string table(const std::vector<MeshCandidate>& found, int64_t top, int64_t device_bytes) {
  std::string out = fmt::format("{:<22} {:<10} {:>9} {:>9} {:>7} {:>7} {:>7} {:>9} {:>8}  limited by\n", "mesh", "schedule",
                                "s a step", "tokens/s", "bubble", "waiting", "MFU", "GiB", "to load");
  int64_t shown = 0, too_large = 0;
  const MeshCandidate* nearest = nullptr;
  for (const MeshCandidate& c : found) {
    if (!c.fits) {
      if (too_large++ == 0) nearest = &c;
      continue;
    }
    if (shown++ >= top) continue;
    out += fmt::format("{:<22} {:<10} {:>9.3f} {:>9.3g} {:>6.1f}% {:>6.1f}% {:>6.1f}% {:>9.2f} {:>8}  {}\n", to_string(c.mesh),
                       pipeline_kind_name(c.schedule), c.step.step_seconds, c.step.tokens_per_second, 100 * c.step.bubble_share,
                       100 * c.step.exposed_communication_share, 100 * c.step.mfu_causal, gib(c.device_bytes),
                       std::isfinite(c.load_that_fits) ? fmt::format("{:.2f}", c.load_that_fits) : "any", c.limit);
  }
  if (shown > top) out += fmt::format("{} more meshes fit; --top shows them\n", shown - top);
  if (nearest != nullptr)
    out +=
        fmt::format("{} meshes need more than {:.2f} GiB a rank, {} with {} the least: {:.2f}\n", too_large, gib(device_bytes),
                    to_string(nearest->mesh), pipeline_kind_name(nearest->schedule), gib(nearest->device_bytes));
  return out;
}

void run_plan_search(const PlanSearchCommand& c) {
  MeshSearch search;
  search.cluster = load_cluster(c.cluster);
  if (c.ranks > 0) {
    if (c.ranks > search.cluster.ranks)
      fail_usage("--ranks {}: cluster {} has {}", c.ranks, search.cluster.name, search.cluster.ranks);
    if (c.ranks > search.cluster.ranks_per_node && c.ranks % search.cluster.ranks_per_node != 0)
      fail_usage("--ranks {}: more than a node must be whole nodes of {}", c.ranks, search.cluster.ranks_per_node);
    search.cluster.ranks = c.ranks;
  }
  const Recipe recipe = read_whole_recipe(find_recipe(c.recipe), c.set);
  search.needs = model_needs(recipe);
  search.model = simulated_model(recipe);
  search.batch_sequences = recipe.train.batch_sequences;
  search.micro_batch_sequences = recipe.train.micro_batch_sequences;
  search.device_bytes = search.cluster.device.memory_bytes;
  const std::vector<MeshCandidate> found = search_meshes(search);
  if (found.empty())
    fail_usage("no mesh of {} ranks divides train.batch_sequences = {} into micro-batches of {}, the experts and the nodes",
               search.cluster.ranks, search.batch_sequences, search.micro_batch_sequences);
  if (!c.json) {
    return print_text(fmt::format("{} on {}: {} ranks of {}, {} sequences a step\n", c.recipe, search.cluster.name,
                                  search.cluster.ranks, search.cluster.device.name, search.batch_sequences) +
                      table(found, c.top, search.device_bytes));
  }
  Json j = {{"recipe", c.recipe},
            {"cluster", search.cluster.name},
            {"ranks", search.cluster.ranks},
            {"device_memory", search.device_bytes},
            {"meshes", Json::array()}};
  for (const MeshCandidate& candidate : found) j["meshes"].push_back(candidate_json(candidate));
  print_json(j);
}

}  // namespace

void add_plan_search(CLI::App& plan) {
  auto c = std::make_shared<PlanSearchCommand>();
  CLI::App* command = add_command(plan, "search", "The meshes that train a model fastest on a cluster",
                                  "rorqual plan search v3-671b --cluster h800");
  command->add_option("RECIPE", c->recipe, "name of a recipe, or a .toml file")->required()->type_name("RECIPE");
  command->add_option("--cluster", c->cluster, "name of a cluster, or a .toml file")->required()->type_name("FILE");
  command->add_option("--ranks", c->ranks, "use only so many of its devices")->check(integer_in(1, 1 << 20));
  command->add_option("--top", c->top, "lines of the table")->check(integer_in(1, 1 << 20));
  command->add_option("--set", c->set, "change a key of the recipe")->type_name("KEY=VALUE")->allow_extra_args(false);
  add_json_flag(*command, c->json);
  command->callback([c] { run_plan_search(*c); });
}

}  // namespace rorqual
