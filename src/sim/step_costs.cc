#include "sim/step_costs.h"

#include <algorithm>

#include "base/error.h"

namespace rorqual {
namespace {

void scale(PhaseSeconds& seconds, double factor) {
  seconds.forward *= factor;
  seconds.input_gradient *= factor;
  seconds.weight_gradient *= factor;
}

}  // namespace

int64_t routed_layers(const SimulatedModel& model) {
  return std::count_if(model.layer.begin(), model.layer.end(), [](const SimulatedBlock& b) { return b.routed; });
}

BlockPrices::BlockPrices(const SimulatedModel& model, const Cluster& cluster, const Mesh& mesh, const StepOptions& options)
    : model_(model),
      cluster_(cluster),
      mesh_(mesh),
      tokens_(static_cast<double>(options.micro_batch_sequences * model.sequence_length)) {
  const auto tokens = static_cast<int64_t>(tokens_);
  if (model.experts > 0) {
    const size_t distinct = std::max<size_t>(options.routing.layers.size(), 1);
    for (size_t i = 0; i < distinct; ++i) {
      loads_.push_back(exchange_load(model, mesh, tokens,
                                     options.routing.layers.empty() ? std::vector<double>() : options.routing.layers[i],
                                     options.routing.seed + i));
    }
  }
  const size_t last = loads_.empty() ? 0 : loads_.size() - 1;
  price(model.embedding, 0);
  size_t routed = 0;
  for (const SimulatedBlock& block : model.layer) {
    price(block, std::min(routed, last));
    routed += block.routed ? 1 : 0;
  }
  for (const SimulatedBlock& block : model.tail) price(block, last);
}

void BlockPrices::price(const SimulatedBlock& block, size_t load) {
  const auto processors = static_cast<double>(cluster_.device.processors);
  const CostModel alone(cluster_, 1);
  const CostModel beside(cluster_,
                         (processors - static_cast<double>(cluster_.efficiency.communication_processors)) / processors);
  const auto length = static_cast<double>(model_.sequence_length);
  BlockTimes times;
  times.name = block.name;
  times.routed = block.routed;
  const auto members = static_cast<size_t>(mesh_.ep);
  const size_t per = block.routed ? static_cast<size_t>(model_.experts) / members : 0;
  for (size_t m = 0; m < members; ++m) {
    // Members differ in the rows of their experts alone.
    if (!block.routed && m > 0) {
      times.members.push_back(times.members.front());
      continue;
    }
    std::vector<double> rows;
    for (size_t e = m * per; e < (m + 1) * per; ++e)
      rows.push_back(loads_[load].rows[e] * tokens_ * static_cast<double>(mesh_.ep));
    times.members.push_back({.attention = alone.phase(block.attention, tokens_, length, {}),
                             .mlp = alone.phase(block.mlp, tokens_, length, rows),
                             .attention_beside = beside.phase(block.attention, tokens_, length, {}),
                             .mlp_beside = beside.phase(block.mlp, tokens_, length, rows)});
  }
  if (block.routed) times.exchange = exchange_seconds(model_, cluster_, mesh_, loads_[load], tokens_);
  blocks_.emplace(&block, std::move(times));
  load_of_.emplace(&block, load);
}

ActionPrices::ActionPrices(const SimulatedModel& model, const BlockPrices& blocks, const Mesh& mesh, const PipelineShape& shape,
                           const std::vector<int64_t>& stage_begin, std::vector<double> slowdown, bool spans)
    : model_(model),
      blocks_(blocks),
      mesh_(mesh),
      shape_(shape),
      stage_begin_(stage_begin),
      slowdown_(std::move(slowdown)),
      spans_(spans) {}

const BlockTimes* ActionPrices::slowed(int rank, const BlockTimes& times) {
  if (slowdown_.empty()) return &times;
  const auto [it, fresh] = slowed_.try_emplace({rank, &times}, times);
  if (fresh) {
    for (size_t m = 0; m < it->second.members.size(); ++m) {
      const double factor = slowdown_[static_cast<size_t>(rank) * static_cast<size_t>(mesh_.ep) + m];
      BlockSeconds& s = it->second.members[m];
      for (PhaseSeconds* phase : {&s.attention, &s.mlp, &s.attention_beside, &s.mlp_beside}) scale(*phase, factor);
    }
  }
  return &it->second;
}

std::vector<const BlockTimes*> ActionPrices::stage(int rank, int direction, bool reversed) {
  std::vector<const BlockTimes*> list;
  for (const SimulatedBlock* block : stage_blocks(model_, stage_begin_, shape_.stage(rank, direction)))
    list.push_back(slowed(rank, blocks_.of(*block)));
  if (reversed) std::reverse(list.begin(), list.end());
  return list;
}

const ChunkRun& ActionPrices::of(int rank, const PipelineAction& a) {
  using Kind = PipelineActionKind;
  const bool forward = a.kind == Kind::kForward || a.kind == Kind::kForwardBackward, backward = a.kind != Kind::kForward;
  const std::array<int, 4> key = {rank, static_cast<int>(a.kind), forward ? a.chunk.direction : -1,
                                  backward ? a.backward_chunk().direction : -1};
  const auto it = runs_.find(key);
  if (it != runs_.end()) return it->second;
  std::vector<const BlockTimes*> ahead, back;
  if (forward) ahead = stage(rank, a.chunk.direction, false);
  if (backward) back = stage(rank, a.backward_chunk().direction, true);
  const BackwardParts parts = a.kind == Kind::kInputGradient    ? BackwardParts::kInput
                              : a.kind == Kind::kWeightGradient ? BackwardParts::kWeight
                                                                : BackwardParts::kBoth;
  return runs_.emplace(key, run_chunk(ahead, back, parts, spans_)).first->second;
}

OptimizerPrice optimizer_price(const SimulatedModel& model, const Cluster& cluster, const Mesh& mesh,
                               const PipelineShape& shape, const std::vector<int64_t>& stage_begin) {
  constexpr double kReduced = 4, kGathered = 2;  // bytes of a gradient and of a new weight
  // Gradient, master weight and two BF16 moments are read; the last three and the new weight written.
  constexpr double kUpdated = 22;
  const double copies = shape.kind == PipelineKind::kDualPipe ? 2 : 1;
  const auto batches = static_cast<double>(mesh.dp * mesh.ep), per_node = static_cast<double>(mesh.ranks_per_node);
  const double inside = std::min(batches, per_node), dense_nodes = copies * batches / inside;
  const double dense_group = batches * copies, expert_group = static_cast<double>(mesh.dp) * copies;
  const bool one_node = mesh.ranks() <= mesh.ranks_per_node;
  const CostModel cost(cluster, 1);
  OptimizerPrice price;
  for (int rank = 0; rank < shape.ranks; ++rank) {
    double dense = 0, expert = 0;
    for (int direction = 0; direction < shape.directions(); ++direction) {
      for (const SimulatedBlock* block : stage_blocks(model, stage_begin, shape.stage(rank, direction))) {
        dense += static_cast<double>(block->dense_parameters);
        expert += static_cast<double>(block->expert_parameters) / static_cast<double>(mesh.ep);
      }
    }
    const double both = kReduced + kGathered;
    // Inside the node first: only a node's share of each tensor crosses the network.
    double nvlink = both * dense * (inside - 1) / inside;
    double network = both * dense / inside * (dense_nodes - 1) / dense_nodes;
    (one_node ? nvlink : network) += both * expert * (expert_group - 1) / expert_group;
    if (one_node) nvlink += std::exchange(network, 0);
    const double seconds = std::max(nvlink / (cluster.nvlink.bytes_per_second * cluster.efficiency.nvlink_share),
                                    network / network_bytes_per_second(cluster, true)) +
                           cost.memory(kUpdated * (dense / dense_group + expert / expert_group)) +
                           cluster.efficiency.launch_seconds;
    price.seconds = std::max(price.seconds, seconds);
    price.network_bytes += network * batches;
    price.nvlink_bytes += nvlink * batches;
  }
  return price;
}

}  // namespace rorqual
