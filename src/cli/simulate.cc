#include <fmt/format.h>

#include <memory>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "cli/command.h"
#include "plan/cluster.h"
#include "sim/failures.h"
#include "sim/step.h"
#include "sim/timeline.h"
#include "train/recipe.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string recipe, cluster, mesh, schedule = "dualpipe", stages = "balanced", routing = "balanced", svg, trace;
  std::vector<std::string> stragglers;
  int64_t batch_sequences = 0;
  FailureModel failures;
  bool json = false;
};

// [[…]]: layers with experts × experts, or one row for all of them.
RoutingLoads read_routing(const std::string& text, int64_t experts) {
  if (text == "balanced" || text.starts_with("zipf:")) return parse_routing(text, experts);
  RoutingLoads routing;
  try {
    routing.layers = Json::parse(read_file(text)).get<std::vector<std::vector<double>>>();
  } catch (const Json::exception& e) {
    fail_usage(
        "{} holds no loads: it must be an array of layers, each an array of its experts' loads, as in [[3, 0], [1, 2]] ({})",
        text, e.what());
  }
  return routing;
}

Straggler parse_straggler(const std::string& text) {
  Straggler s;
  char colon = 0;
  std::istringstream stream(text);
  if (!(stream >> s.rank >> colon >> s.factor) || colon != ':' || !(stream >> std::ws).eof())
    fail_usage("straggler '{}': give RANK:FACTOR, as in 17:1.5", text);
  return s;
}

Json to_json(const StepEstimate& e, const Mesh& mesh, const Options& o) {
  const auto link = [](double network, double nvlink) { return Json{{"network", network}, {"nvlink", nvlink}}; };
  const BytesPerToken& b = e.bytes;
  return {{"schedule", o.schedule},
          {"mesh", to_string(mesh)},
          {"ranks", mesh.ranks()},
          {"micro_batches", e.micro_batches},
          {"step_seconds", e.step_seconds},
          {"tokens_per_second", e.tokens_per_second},
          {"tokens_per_day", e.tokens_per_day},
          {"gpu_hours_per_trillion_tokens", e.gpu_hours_per_trillion_tokens},
          {"bubble_share", e.bubble_share},
          {"mfu", {{"causal", e.mfu_causal}, {"non_causal", e.mfu_non_causal}}},
          {"exposed_communication_share", e.exposed_communication_share},
          {"compute_share", e.compute_share},
          {"limit", e.limit},
          {"seconds",
           {{"forward", e.forward_seconds},
            {"backward", e.backward_seconds},
            {"input_gradient", e.input_gradient_seconds},
            {"weight_gradient", e.weight_gradient_seconds},
            {"forward_backward", e.forward_backward_seconds},
            {"optimizer", e.optimizer_seconds}}},
          {"overlapped_pair_seconds", e.overlapped_pair_seconds},
          {"load_max_over_mean", e.load_max_over_mean},
          {"stage_begin", e.stage_begin},
          {"bytes_per_token",
           {{"dispatch", link(b.dispatch_network, b.dispatch_nvlink)},
            {"combine", link(b.combine_network, b.combine_nvlink)},
            {"pipeline", link(b.pipeline_network, b.pipeline_nvlink)},
            {"gradients", link(b.gradients_network, b.gradients_nvlink)},
            {"total", link(b.network(), b.nvlink())}}}};
}

std::string table_of(const StepEstimate& e, const Mesh& mesh, const Options& o) {
  std::string text = fmt::format("{} on {}: {}, {} ranks, {} micro-batches a step\n\n", o.recipe, o.cluster, to_string(mesh),
                                 mesh.ranks(), e.micro_batches);
  const auto line = [&](std::string_view name, const std::string& value) {
    text += fmt::format("  {:<32}{:>14}\n", name, value);
  };
  line("step", fmt::format("{:.3f} s", e.step_seconds));
  line("tokens per second", fmt::format("{:.0f}", e.tokens_per_second));
  line("tokens per day", fmt::format("{:.2f}B", e.tokens_per_day / 1e9));
  line("GPU-hours per trillion tokens", fmt::format("{:.1f}K", e.gpu_hours_per_trillion_tokens / 1e3));
  line("MFU, causal attention", fmt::format("{:.2f}%", e.mfu_causal * 100));
  line("MFU, non-causal attention", fmt::format("{:.2f}%", e.mfu_non_causal * 100));
  text += "\n  what a rank does, in shares of the step (mean of ranks)\n";
  line("computes", fmt::format("{:.1f}%", e.compute_share * 100));
  line("waits for rows or messages", fmt::format("{:.1f}%", e.exposed_communication_share * 100));
  line("waits for the pipeline", fmt::format("{:.1f}%", e.bubble_share * 100));
  line("optimizer", fmt::format("{:.1f}%", e.optimizer_seconds / e.step_seconds * 100));
  text += "\n  seconds of a step by action (mean of ranks)\n";
  line("forward", fmt::format("{:.2f}", e.forward_seconds));
  line("backward", fmt::format("{:.2f}", e.backward_seconds + e.input_gradient_seconds));
  line("weight gradient", fmt::format("{:.2f}", e.weight_gradient_seconds));
  line("forward beside backward", fmt::format("{:.2f}", e.forward_backward_seconds));
  text += "\n  bytes per token and link          network        NVLink\n";
  const auto bytes = [&](std::string_view name, double network, double nvlink) {
    text += fmt::format("  {:<25}{:>14.0f}{:>14.0f}\n", name, network, nvlink);
  };
  bytes("dispatch", e.bytes.dispatch_network, e.bytes.dispatch_nvlink);
  bytes("combine", e.bytes.combine_network, e.bytes.combine_nvlink);
  bytes("between stages", e.bytes.pipeline_network, e.bytes.pipeline_nvlink);
  bytes("gradients and weights", e.bytes.gradients_network, e.bytes.gradients_nvlink);
  return text;
}

void run(const Options& o) {
  const Recipe recipe = read_whole_recipe(find_recipe(o.recipe), {});
  const Cluster cluster = load_cluster(o.cluster);
  Mesh mesh = parse_mesh(o.mesh);
  mesh.ranks_per_node = cluster.ranks_per_node;
  const SimulatedModel model = simulated_model(recipe);
  StepOptions step{.schedule = parse_pipeline_kind(o.schedule),
                   .batch_sequences = o.batch_sequences > 0 ? o.batch_sequences : recipe.train.batch_sequences,
                   .micro_batch_sequences = recipe.train.micro_batch_sequences};
  step.routing = read_routing(o.routing, model.experts);
  for (const std::string& text : o.stragglers) step.stragglers.push_back(parse_straggler(text));
  step.spans = !o.svg.empty() || !o.trace.empty();
  if (o.stages == "even") {
    const int64_t stages = (step.schedule == PipelineKind::kDualPipeV ? 2 : 1) * mesh.pp;
    if (model.layers < stages) fail_usage("{} layers do not fill {} pipeline stages", model.layers, stages);
    step.stage_begin = even_stages(model.layers, stages);
  }
  const StepEstimate e = simulate_step(model, cluster, mesh, step);
  if (!o.svg.empty()) {
    write_file_atomically(o.svg, step_chart(e, fmt::format("{} on {}, {} ({}): one step of {:.2f} s", o.recipe, o.cluster,
                                                           to_string(mesh), o.schedule, e.step_seconds)));
  }
  if (!o.trace.empty()) write_file_atomically(o.trace, step_trace(e));
  Json json = to_json(e, mesh, o);
  std::string text = table_of(e, mesh, o);
  if (o.failures.mtbf_hours > 0) {
    const RunEstimate run = simulate_run(e.step_seconds, recipe.train.steps, mesh.ranks(), o.failures);
    json["run"] = {{"seconds", run.seconds}, {"failures", run.failures}, {"goodput", run.goodput}};
    text += fmt::format("\n  {} steps with {} failures: {:.1f} days, {:.2f}% of them for steps that count\n",
                        recipe.train.steps, run.failures, run.seconds / 86400, run.goodput * 100);
  }
  o.json ? print_json(json) : print_text(text);
}

}  // namespace

void add_simulate(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = add_command(app, "simulate", "Predicts a training step on a cluster: time, bubble, MFU, bytes on links",
                                  "rorqual simulate v3-671b --cluster h800 --mesh pp=16,ep=64,dp=2 --svg step.svg");
  command->add_option("RECIPE", o->recipe, "what is trained")->required()->type_name("RECIPE");
  command->add_option("--cluster", o->cluster, "where: a name in recipes/clusters, or a file")->required()->type_name("FILE");
  command->add_option("--mesh", o->mesh, "ranks by axis")->required()->type_name("pp=P,ep=E,dp=D");
  command->add_option("--schedule", o->schedule, "of the pipeline (dualpipe)")->check(CLI::IsMember(pipeline_kind_names()));
  command->add_option("--stages", o->stages, "layers of pipeline stages: balanced with the head, or even (balanced)")
      ->check(CLI::IsMember({"balanced", "even"}));
  command->add_option("--routing", o->routing, "how often experts are chosen: balanced, zipf:S or a file of loads (balanced)")
      ->type_name("FILE");
  command->add_option("--batch-sequences", o->batch_sequences, "sequences of a step (the recipe's)")->check(integer_in(1));
  command->add_option("--straggler", o->stragglers, "a rank that computes FACTOR times as long; may be repeated")
      ->type_name("RANK:FACTOR")
      ->allow_extra_args(false);
  command->add_option("--mtbf-hours", o->failures.mtbf_hours, "hours between failures of one device: predicts the whole run")
      ->check(CLI::PositiveNumber);
  command->add_option("--restart-seconds", o->failures.restart_seconds, "from a failure to the next step (600)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--checkpoint-steps", o->failures.checkpoint_steps, "steps between checkpoints (100)")
      ->check(integer_in(1));
  command->add_option("--svg", o->svg, "draws the step")->type_name("FILE");
  command->add_option("--trace", o->trace, "writes the step for Perfetto")->type_name("FILE");
  add_json_flag(*command, o->json);
  command->callback([o] { run(*o); });
}

}  // namespace rorqual
