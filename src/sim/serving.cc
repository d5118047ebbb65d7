#include "sim/serving.h"

#include <algorithm>

#include "base/error.h"
#include "model/config.h"
#include "sim/chunk.h"

namespace rorqual {
namespace {

ServingEstimate pass(const std::vector<BlockTimes>& blocks, double extra_seconds, double tokens_per_rank,
                     const Cluster& cluster) {
  std::vector<const BlockTimes*> list;
  for (const BlockTimes& block : blocks) list.push_back(&block);
  const ChunkRun run = run_two_forward(list);
  ServingEstimate e;
  e.pass_seconds = run.seconds + extra_seconds;
  e.compute_seconds = run.busy + extra_seconds;
  e.communication_seconds = run.communication;
  e.tokens_per_second_per_node = tokens_per_rank * static_cast<double>(cluster.ranks_per_node) / e.pass_seconds;
  return e;
}

std::vector<double> slot_rows(const ServingUnit& unit, int64_t top_k, double tokens) {
  return std::vector<double>(static_cast<size_t>(unit.slots_per_rank),
                             tokens * static_cast<double>(top_k) / static_cast<double>(unit.slots_per_rank));
}

void check_unit(const ModelConfig& c, const ServingUnit& unit, int64_t tokens_per_rank) {
  CHECK(c.is_mla() && c.n_routed_experts > 0 && unit.ranks > 0 && unit.slots_per_rank > 0 && tokens_per_rank > 0);
}

// Queries meet the cache itself: K's and V's up-projections move into queries and outputs.
SimulatedPhase absorbed_attention(const ModelConfig& c, SimulatedPhase phase) {
  const int64_t heads = c.num_attention_heads;
  const SimulatedProduct down = phase.products.front(), out = phase.products.back();
  std::vector<SimulatedProduct> products = {down};
  if (c.q_lora_rank > 0) products.push_back(phase.products[1]);
  products.push_back({heads * c.kv_lora_rank, c.qk_nope_head_dim, false, false});
  products.push_back({heads * c.v_head_dim, c.kv_lora_rank, false, false});
  products.push_back(out);
  phase.products = std::move(products);
  phase.attention_forward_per_key = 0;
  return phase;
}

}  // namespace

ServingEstimate simulate_prefill(const ModelConfig& c, const Cluster& cluster, const ServingUnit& unit, int64_t tokens_per_rank,
                                 int64_t prompt_tokens) {
  check_unit(c, unit, tokens_per_rank);
  const SimulatedModel model = simulated_model(c, prompt_tokens, true, false);
  const Mesh mesh{.ep = unit.ranks, .ranks_per_node = cluster.ranks_per_node};
  const double tokens = static_cast<double>(tokens_per_rank) / 2, length = static_cast<double>(prompt_tokens);
  const auto processors = static_cast<double>(cluster.device.processors);
  const CostModel cost(cluster, (processors - static_cast<double>(cluster.efficiency.communication_processors)) / processors);
  const ExchangeLoad load = exchange_load(model, mesh, tokens_per_rank / 2, {}, 1);
  std::vector<BlockTimes> blocks;
  for (const SimulatedBlock& block : model.layer) {
    BlockTimes times{.name = block.name, .members = {}, .routed = block.routed, .exchange = {}};
    const PhaseSeconds attention = cost.phase(block.attention, tokens, length, {});
    const PhaseSeconds mlp =
        cost.phase(block.mlp, tokens, length, block.routed ? slot_rows(unit, model.top_k, tokens) : std::vector<double>());
    times.members = {{attention, mlp, attention, mlp}};
    if (block.routed) times.exchange = exchange_seconds(model, cluster, mesh, load, tokens);
    blocks.push_back(std::move(times));
  }
  return pass(blocks, 0, static_cast<double>(tokens_per_rank), cluster);
}

ServingEstimate simulate_decode(const ModelConfig& c, const Cluster& cluster, const ServingUnit& unit,
                                int64_t requests_per_rank, int64_t cached_tokens) {
  check_unit(c, unit, requests_per_rank);
  const SimulatedModel model = simulated_model(c, 1, true, false);
  const CostModel cost(cluster, 1);
  const double tokens = static_cast<double>(requests_per_rank) / 2, keys = static_cast<double>(cached_tokens);
  const auto cached = static_cast<double>(c.kv_lora_rank + c.qk_rope_head_dim);
  const double operations =
      2 * static_cast<double>(c.num_attention_heads) * (cached + static_cast<double>(c.kv_lora_rank)) * keys * tokens;
  const double core = std::max(operations / (cluster.device.bf16_flops_per_second * cluster.efficiency.attention_forward_share),
                               cost.memory(2 * cached * keys * tokens)) +
                      cluster.efficiency.launch_seconds;
  const double row_seconds = static_cast<double>(model.top_k) * tokens / network_bytes_per_second(cluster, true);
  const ExchangeSeconds exchange = {
      .dispatch = row_seconds * static_cast<double>(model.dispatch_row.total()) + cluster.network.latency_seconds,
      .combine = row_seconds * static_cast<double>(model.combine_row.total()) + cluster.network.latency_seconds};
  std::vector<BlockTimes> blocks;
  for (const SimulatedBlock& block : model.layer) {
    BlockTimes times{.name = block.name, .members = {}, .routed = block.routed, .exchange = {}};
    PhaseSeconds attention = cost.phase(absorbed_attention(c, block.attention), tokens, 1, {});
    attention.forward += core;
    const PhaseSeconds mlp =
        cost.phase(block.mlp, tokens, 1, block.routed ? slot_rows(unit, model.top_k, tokens) : std::vector<double>());
    times.members = {{attention, mlp, attention, mlp}};
    if (block.routed) times.exchange = exchange;
    blocks.push_back(std::move(times));
  }
  const double head = 2 * cost.product({tokens}, c.vocab_size, c.hidden_size, false, false);
  return pass(blocks, head, static_cast<double>(requests_per_rank), cluster);
}

}  // namespace rorqual
