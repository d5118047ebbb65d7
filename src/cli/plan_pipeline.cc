#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/plan.h"
#include "plan/pipeline.h"
#include "plan/pipeline_chart.h"
#include "plan/pipeline_check.h"
#include "plan/pipeline_timing.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string schedule, costs, svg, trace;
  int ranks = 0, micro_batches = 0;
  bool json = false;
};

// "F=1,B=2,W=1,FB=3", in any order; what is not named keeps its default, FB that of a pair whose overlap saves nothing.
PipelineCosts parse_costs(const std::string& text) {
  PipelineCosts costs;
  std::map<std::string, double> given;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    const size_t equals = std::min(word.find('='), word.size());
    const std::string name = word.substr(0, equals);
    double value = 0;
    const char* last = word.data() + word.size();
    const auto [stop, error] = std::from_chars(std::min(word.data() + equals + 1, last), last, value);
    const bool known = name == "F" || name == "B" || name == "W" || name == "FB";
    if (!known || error != std::errc() || stop != last)
      fail_usage("--costs: '{}' is not one of F=…, B=…, W=…, FB=… with a number", word);
    if (!given.emplace(name, value).second) fail_usage("--costs: {} is given twice", name);
    begin = end + 1;
  }
  const auto value = [&](const char* name, double otherwise) { return given.contains(name) ? given[name] : otherwise; };
  costs.forward = value("F", costs.forward);
  costs.backward = value("B", costs.backward);
  costs.weight = value("W", costs.weight);
  costs.forward_backward = value("FB", costs.forward + costs.backward);
  validate(costs);
  return costs;
}

struct Plan {
  PipelineSchedule schedule;
  PipelineCosts costs;
  PipelineRun run;
  std::vector<PipelinePeaks> peaks;
  double published = 0;

  double most_idle() const { return *std::max_element(run.idle.begin(), run.idle.end()); }
  double bubble_share() const { return run.makespan > 0 ? most_idle() / run.makespan : 0; }
};

Plan make_plan(const Options& options) {
  Plan plan;
  plan.costs = parse_costs(options.costs);
  plan.schedule = make_pipeline_schedule(
      {.kind = parse_pipeline_kind(options.schedule), .ranks = options.ranks, .micro_batches = options.micro_batches});
  PipelineCheck check = check_pipeline(plan.schedule);
  CHECK(!check.fault, "{}", check.fault->why);
  plan.peaks = std::move(check.peaks);
  plan.run = run_pipeline(plan.schedule, plan.costs);
  plan.published = published_bubble(plan.schedule.shape, plan.costs);
  return plan;
}

std::string title(const Plan& plan) {
  const PipelineShape& s = plan.schedule.shape;
  static const std::map<PipelineKind, std::string> names = {{PipelineKind::k1F1B, "1F1B"},
                                                            {PipelineKind::kZB1P, "ZB1P"},
                                                            {PipelineKind::kDualPipe, "DualPipe"},
                                                            {PipelineKind::kDualPipeV, "DualPipeV"}};
  return fmt::format("{}: {} ranks, {} micro-batches", names.at(s.kind), s.ranks, s.micro_batches);
}

std::string key_figures(const Plan& plan) {
  int activations = 0;
  for (const PipelinePeaks& p : plan.peaks) activations = std::max(activations, p.activations);
  const PipelineCosts& c = plan.costs;
  return fmt::format(
      "F={:g} B={:g} W={:g} FB={:g}; makespan {:g}, idle at most {:g} ({:.1f}%), published bubble {:g}; "
      "at most {} live activations",
      c.forward, c.backward, c.weight, c.forward_backward, plan.run.makespan, plan.most_idle(), 100 * plan.bubble_share(),
      plan.published, activations);
}

Json to_json(const Plan& plan, const Options& options) {
  Json ops = Json::array(), activations = Json::array(), weights = Json::array();
  for (const auto& rank : plan.schedule.ranks) ops.push_back(pipeline_ops(rank));
  for (const PipelinePeaks& p : plan.peaks) {
    activations.push_back(p.activations);
    weights.push_back(p.weight_gradients);
  }
  const PipelineCosts& c = plan.costs;
  return {{"schedule", options.schedule},
          {"ranks", options.ranks},
          {"micro_batches", options.micro_batches},
          {"costs", {{"F", c.forward}, {"B", c.backward}, {"W", c.weight}, {"FB", c.forward_backward}}},
          {"ops", std::move(ops)},
          {"makespan", plan.run.makespan},
          {"idle", plan.run.idle},
          {"bubble_share", plan.bubble_share()},
          {"published_bubble", plan.published},
          {"peak_activations", std::move(activations)},
          {"peak_weight_gradients", std::move(weights)},
          {"messages", plan.run.messages},
          {"message_batches", plan.run.batches}};
}

std::string to_text(const Plan& plan) {
  constexpr int kColumns = 110;
  const PipelineShape& shape = plan.schedule.shape;
  std::string text = title(plan) + "\n" + key_figures(plan) + "\n\n";
  text += pipeline_text_chart(plan.schedule, plan.run, kColumns);
  text += "F forward  B backward  X both overlapped  I input gradient  W weight gradient  . idle\n\n";
  text += "rank  stages      idle  activations  deferred weight gradients  messages  batches\n";
  for (int r = 0; r < shape.ranks; ++r) {
    const auto i = static_cast<size_t>(r);
    const std::string stages = shape.directions() == 1 ? fmt::format("{}", shape.stage(r, 0))
                                                       : fmt::format("{}, {}", shape.stage(r, 0), shape.stage(r, 1));
    text += fmt::format("{:>4}  {:<9} {:>6.4g}  {:>11}  {:>25}  {:>8}  {:>7}\n", r, stages, plan.run.idle[i],
                        plan.peaks[i].activations, plan.peaks[i].weight_gradients, plan.run.messages[i], plan.run.batches[i]);
  }
  return text;
}

void run(const Options& options) {
  const Plan plan = make_plan(options);
  if (!options.svg.empty()) {
    write_file_atomically(options.svg, pipeline_svg_chart(plan.schedule, plan.run, title(plan), key_figures(plan)));
    info("the chart lies in {}", options.svg);
  }
  if (!options.trace.empty()) {
    write_pipeline_trace(options.trace, plan.schedule, plan.run);
    info("the trace lies in {}", options.trace);
  }
  if (options.json)
    print_json(to_json(plan, options));
  else
    print_text(to_text(plan));
}

}  // namespace

void add_plan_pipeline(CLI::App& plan) {
  auto options = std::make_shared<Options>();
  CLI::App* command = add_command(plan, "pipeline", "Who runs which micro-batch when: a pipeline schedule",
                                  "rorqual plan pipeline --schedule dualpipe --ranks 8 --micro-batches 20 --svg chart.svg");
  command->add_option("--schedule", options->schedule, "which")->required()->check(CLI::IsMember(pipeline_kind_names()));
  command->add_option("--ranks", options->ranks, "ranks of the pipeline")->required()->check(integer_in(1, 1 << 14));
  command->add_option("--micro-batches", options->micro_batches, "micro-batches of a step, of both directions together")
      ->required()
      ->check(integer_in(1, 1 << 21));
  command->add_option("--costs", options->costs,
                      "of a forward, a whole backward, its weight gradient and an overlapped pair, in any unit "
                      "(default F=1,B=2,W=1, FB=F+B)");
  command->add_option("--svg", options->svg, "where to draw the schedule")->type_name("FILE");
  command->add_option("--trace", options->trace, "where to write it for Perfetto")->type_name("FILE");
  add_json_flag(*command, options->json);
  command->callback([options] { run(*options); });
}

}  // namespace rorqual
