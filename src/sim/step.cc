#include "sim/step.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "plan/cluster.h"
#include "sim/pipeline_events.h"
#include "sim/step_costs.h"

namespace rorqual {
namespace {

// One (dp) column: the pipelines of its expert group, which run alike.
struct ColumnRun {
  PipelineEvents events;
  double makespan_alone = 0;           // if messages between stages took no time
  double compute = 0, exposed = 0;     // seconds in chunks, the mean of ranks
  std::array<double, 5> seconds = {};  // by kind of action, the mean of ranks
  double longest_pair = 0;
  std::vector<StepSpan> spans;
};

PipelineShape shape_of(const Mesh& mesh, const StepOptions& options) {
  const int64_t of_rank = mesh.batches() * options.micro_batch_sequences;
  if (options.batch_sequences < of_rank || options.batch_sequences % of_rank != 0) {
    fail_usage(
        "a batch of {} sequences does not divide over {} ranks with micro-batches of their own of {} sequences: take a "
        "multiple of {}",
        options.batch_sequences, mesh.batches(), options.micro_batch_sequences, of_rank);
  }
  const int64_t count = options.batch_sequences / of_rank;
  if (count > (1 << 24)) fail_usage("{} micro-batches in a step are more than a schedule may hold", count);
  PipelineShape shape{.kind = options.schedule, .ranks = static_cast<int>(mesh.pp), .micro_batches = static_cast<int>(count)};
  validate(shape);
  return shape;
}

Mesh checked_mesh(const SimulatedModel& model, const Cluster& cluster, Mesh mesh, const StepOptions& options) {
  mesh.ranks_per_node = cluster.ranks_per_node;
  check_mesh(mesh);
  if (mesh.tensor != 1) fail_usage("mesh {}: a training step is priced for tp=1 only", to_string(mesh));
  if (mesh.ranks() > cluster.ranks)
    fail_usage("mesh {} has {} ranks; the cluster {} has {}", to_string(mesh), mesh.ranks(), cluster.name, cluster.ranks);
  if (model.experts == 0 && mesh.ep > 1) fail_usage("mesh {}: the model has no experts, so ep is 1", to_string(mesh));
  if (model.experts % mesh.ep != 0) fail_usage("{} experts do not divide over ep={}", model.experts, mesh.ep);
  if (options.micro_batch_sequences < 1) fail_usage("a micro-batch has at least 1 sequence");
  for (const Straggler& s : options.stragglers) {
    if (s.rank < 0 || s.rank >= mesh.ranks()) fail_usage("straggler {}: the mesh has ranks 0 to {}", s.rank, mesh.ranks() - 1);
    if (!std::isfinite(s.factor) || s.factor <= 0 || s.factor > 1e6)
      fail_usage("straggler {}: its factor {} is not a number above 0", s.rank, s.factor);
  }
  validate(options.routing, routed_layers(model), model.experts);
  return mesh;
}

std::vector<int64_t> checked_stages(const SimulatedModel& model, const PipelineShape& shape, std::vector<int64_t> begin) {
  const int64_t stages = shape.stages();
  CHECK(static_cast<int64_t>(begin.size()) == stages + 1 && begin.front() == 0 && begin.back() == model.layers,
        "{} bounds of {} stages", begin.size(), stages);
  for (size_t s = 0; s + 1 < begin.size(); ++s) CHECK(begin[s] < begin[s + 1], "stage {} is empty", s);
  return begin;
}

void add_spans(ColumnRun& run, const PipelineSchedule& schedule, ActionPrices& prices) {
  for (size_t r = 0; r < schedule.ranks.size(); ++r) {
    const auto rank = static_cast<int64_t>(r);
    for (const PipelineEventSpan& s : run.events.spans[r]) {
      const PipelineAction& a = schedule.ranks[r][static_cast<size_t>(s.action)];
      run.spans.push_back({rank, StepSpan::Lane::kChunk, a.kind, pipeline_action_name(a), s.begin, s.end});
      for (const ChunkSpan& c : prices.of(static_cast<int>(r), a).spans) {
        const auto lane = c.communication ? StepSpan::Lane::kCommunication : StepSpan::Lane::kCompute;
        run.spans.push_back({rank, lane, a.kind, c.name, s.begin + c.begin, s.begin + c.end});
      }
    }
  }
}

ColumnRun run_column(const PipelineSchedule& schedule, ActionPrices& prices, const MessageSeconds& message, bool spans) {
  const auto seconds = [&](int rank, const PipelineAction& a) { return prices.of(rank, a).seconds; };
  ColumnRun run;
  run.events = run_pipeline_events(schedule, seconds, [&](int, int) { return message; });
  run.makespan_alone = run_pipeline_events(schedule, seconds, [](int, int) { return MessageSeconds{}; }).makespan;
  const auto ranks = static_cast<double>(schedule.ranks.size());
  for (size_t r = 0; r < schedule.ranks.size(); ++r) {
    for (const PipelineAction& a : schedule.ranks[r]) {
      if (!a.is_compute()) continue;
      const ChunkRun& chunk = prices.of(static_cast<int>(r), a);
      run.compute += chunk.compute / ranks;
      run.exposed += (chunk.seconds - chunk.compute) / ranks;
      run.seconds[static_cast<size_t>(a.kind)] += chunk.seconds / ranks;
      if (a.kind == PipelineActionKind::kForwardBackward) run.longest_pair = std::max(run.longest_pair, chunk.seconds);
    }
  }
  if (spans) add_spans(run, schedule, prices);
  return run;
}

// Layers spread evenly, but for the last stage, which also has the head and gets `last` of them.
std::vector<int64_t> stages_with_last(int64_t layers, int64_t stages, int64_t last) {
  if (stages == 1) return {0, layers};
  std::vector<int64_t> begin = even_stages(layers - last, stages - 1);
  begin.push_back(layers);
  return begin;
}

// Tries every number of layers for the last stage and keeps the fastest pipeline.
std::vector<int64_t> balance(const SimulatedModel& model, const BlockPrices& prices, const Mesh& mesh,
                             const PipelineSchedule& schedule, const MessageSeconds& message) {
  const int64_t stages = schedule.shape.stages();
  if (model.layers < stages) fail_usage("{} layers do not fill {} pipeline stages", model.layers, stages);
  std::vector<int64_t> best;
  double least = 0;
  const int64_t most = stages == 1 ? 1 : model.layers / stages + 1;
  for (int64_t last = 1; last <= most && model.layers - last >= stages - 1; ++last) {
    const std::vector<int64_t> begin = stages_with_last(model.layers, stages, last);
    ActionPrices actions(model, prices, mesh, schedule.shape, begin, {}, false);
    const double makespan = run_pipeline_events(
                                schedule, [&](int rank, const PipelineAction& a) { return actions.of(rank, a).seconds; },
                                [&](int, int) { return message; })
                                .makespan;
    if (!best.empty() && makespan >= least) continue;
    best = begin;
    least = makespan;
  }
  return best;
}

// [dp] of factors [pp, ep]; empty where a column has no straggler.
std::vector<std::vector<double>> slowdowns(const Mesh& mesh, const std::vector<Straggler>& stragglers) {
  std::vector<std::vector<double>> columns(static_cast<size_t>(mesh.dp));
  for (const Straggler& s : stragglers) {
    const MeshPlace place = place_of(mesh, s.rank);
    std::vector<double>& column = columns[static_cast<size_t>(place.dp_i)];
    if (column.empty()) column.assign(static_cast<size_t>(mesh.pp * mesh.ep), 1.0);
    column[static_cast<size_t>(place.pp_i * mesh.ep + place.ep_i)] *= s.factor;
  }
  return columns;
}

BytesPerToken bytes_per_token(const SimulatedModel& model, const BlockPrices& prices, const Mesh& mesh,
                              const PipelineSchedule& schedule, const OptimizerPrice& optimizer, double step_tokens) {
  BytesPerToken bytes;
  const auto dispatch = static_cast<double>(model.dispatch_row.total()),
             combine = static_cast<double>(model.combine_row.total());
  const auto add = [&](const SimulatedBlock& block) {
    if (!block.routed) return;
    const ExchangeLoad& load = prices.load(block);
    bytes.dispatch_network += 2 * load.network_mean * dispatch;
    bytes.dispatch_nvlink += 2 * load.nvlink_mean * dispatch;
    bytes.combine_network += 2 * load.network_mean * combine;
    bytes.combine_nvlink += 2 * load.nvlink_mean * combine;
  };
  for (const SimulatedBlock& block : model.layer) add(block);
  for (const SimulatedBlock& block : model.tail) add(block);
  int64_t sends = 0;
  for (const auto& rank : schedule.ranks)
    sends += std::count_if(rank.begin(), rank.end(), [](const auto& a) { return a.is_send(); });
  const double stages = static_cast<double>(sends) / schedule.shape.micro_batches * 2 * static_cast<double>(model.hidden);
  (mesh.ranks() <= mesh.ranks_per_node ? bytes.pipeline_nvlink : bytes.pipeline_network) = stages;
  bytes.gradients_network = optimizer.network_bytes / step_tokens;
  bytes.gradients_nvlink = optimizer.nvlink_bytes / step_tokens;
  return bytes;
}

MessageSeconds message_seconds(const SimulatedModel& model, const Cluster& cluster, const Mesh& mesh, double tokens) {
  const double bytes = tokens * 2 * static_cast<double>(model.hidden);
  if (mesh.ranks() <= mesh.ranks_per_node) {
    return {.link = bytes / (cluster.nvlink.bytes_per_second * cluster.efficiency.nvlink_share),
            .latency = cluster.nvlink.latency_seconds};
  }
  return {.link = bytes / network_bytes_per_second(cluster, true), .latency = cluster.network.latency_seconds};
}

void summarise(StepEstimate& e, const SimulatedModel& model, const Cluster& cluster, const Mesh& mesh, double tokens) {
  const auto ranks = static_cast<double>(mesh.ranks());
  e.tokens_per_second = tokens / e.step_seconds;
  e.tokens_per_day = e.tokens_per_second * 86400;
  e.gpu_hours_per_trillion_tokens = ranks * e.step_seconds / tokens * 1e12 / 3600;
  const double peak = e.tokens_per_second / (ranks * cluster.device.bf16_flops_per_second);
  e.mfu_causal = model.flops_causal * peak;
  e.mfu_non_causal = model.flops_non_causal * peak;
  const std::array<std::pair<double, const char*>, 4> parts = {std::pair{e.compute_share, "compute"},
                                                               {e.exposed_communication_share, "communication"},
                                                               {e.bubble_share, "bubble"},
                                                               {e.optimizer_seconds / e.step_seconds, "optimizer"}};
  e.limit = std::max_element(parts.begin(), parts.end())->second;
}

}  // namespace

std::vector<int64_t> balanced_stages(const SimulatedModel& model, const Cluster& cluster, const Mesh& given,
                                     const StepOptions& options) {
  const Mesh mesh = checked_mesh(model, cluster, given, options);
  const PipelineShape shape = shape_of(mesh, options);
  const BlockPrices prices(model, cluster, mesh, options);
  return balance(model, prices, mesh, make_pipeline_schedule(shape),
                 message_seconds(model, cluster, mesh, prices.micro_batch_tokens()));
}

StepEstimate simulate_step(const SimulatedModel& model, const Cluster& cluster, const Mesh& given, const StepOptions& options) {
  const Mesh mesh = checked_mesh(model, cluster, given, options);
  const PipelineShape shape = shape_of(mesh, options);
  const BlockPrices prices(model, cluster, mesh, options);
  const PipelineSchedule schedule = make_pipeline_schedule(shape);
  const MessageSeconds message = message_seconds(model, cluster, mesh, prices.micro_batch_tokens());
  StepEstimate e;
  e.stage_begin = checked_stages(
      model, shape, options.stage_begin.empty() ? balance(model, prices, mesh, schedule, message) : options.stage_begin);
  e.micro_batches = shape.micro_batches;
  const OptimizerPrice optimizer = optimizer_price(model, cluster, mesh, shape, e.stage_begin);
  std::map<std::vector<double>, ColumnRun> runs;
  const auto columns = slowdowns(mesh, options.stragglers);
  const auto dp = static_cast<double>(mesh.dp);
  const ColumnRun* slowest = nullptr;
  double compute = 0, exposed = 0;
  for (const std::vector<double>& slowdown : columns) {
    if (!runs.contains(slowdown)) {
      ActionPrices actions(model, prices, mesh, shape, e.stage_begin, slowdown, options.spans);
      runs.emplace(slowdown, run_column(schedule, actions, message, options.spans));
    }
    const ColumnRun& run = runs.at(slowdown);
    if (!slowest || run.events.makespan > slowest->events.makespan) slowest = &run;
    compute += run.compute / dp;
    exposed += (run.exposed + run.events.makespan - run.makespan_alone) / dp;
    using Kind = PipelineActionKind;
    const auto mean = [&](Kind kind) { return run.seconds[static_cast<size_t>(kind)] / dp; };
    e.forward_seconds += mean(Kind::kForward);
    e.backward_seconds += mean(Kind::kBackward);
    e.input_gradient_seconds += mean(Kind::kInputGradient);
    e.weight_gradient_seconds += mean(Kind::kWeightGradient);
    e.forward_backward_seconds += mean(Kind::kForwardBackward);
    e.overlapped_pair_seconds = std::max(e.overlapped_pair_seconds, run.longest_pair);
  }
  e.pipeline_seconds = slowest->events.makespan;
  e.optimizer_seconds = optimizer.seconds;
  e.step_seconds = e.pipeline_seconds + e.optimizer_seconds;
  e.compute_share = compute / e.step_seconds;
  e.exposed_communication_share = exposed / e.step_seconds;
  e.bubble_share = (e.pipeline_seconds - compute - exposed) / e.step_seconds;
  for (const SimulatedBlock& block : model.layer)
    if (block.routed) e.load_max_over_mean = std::max(e.load_max_over_mean, prices.load(block).max_over_mean(mesh.ep));
  const double tokens = static_cast<double>(options.batch_sequences * model.sequence_length);
  e.bytes = bytes_per_token(model, prices, mesh, schedule, optimizer, tokens);
  summarise(e, model, cluster, mesh, tokens);
  if (options.spans) {
    e.spans = slowest->spans;
    for (int64_t r = 0; r < mesh.pp; ++r) {
      e.spans.push_back(
          {r, StepSpan::Lane::kOptimizer, PipelineActionKind::kCommit, "optimizer", e.pipeline_seconds, e.step_seconds});
    }
  }
  return e;
}

}  // namespace rorqual
