// What one layer's routing loads: rows of each expert, rows on each link. Tokens draw their experts as the model's router is
// built (groups first, then experts of these), and the plan's own tables say where rows travel (plan/rank_dispatch.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/mesh.h"
#include "sim/simulated_model.h"

namespace rorqual {

// How often experts are chosen: relative loads.
struct RoutingLoads {
  std::vector<std::vector<double>> layers = {};  // of [experts]; one row: of every layer; none: balanced
  uint64_t seed = 1;
};
// "balanced" or "zipf:S": expert i of a random order has load 1 / (i + 1)^S. Error (usage) otherwise.
RoutingLoads parse_routing(const std::string& text, int64_t experts);
// Error (usage) unless there are 1 or `layers` rows of `experts` loads that are finite, not negative and not all 0.
void validate(const RoutingLoads& routing, int64_t layers, int64_t experts);

// Of one layer and a dispatch group's ranks, per token of a rank.
struct ExchangeLoad {
  std::vector<double> rows;  // [experts] of one expert, per token of the whole group
  // Rows that the busiest rank sends or receives, and the mean of ranks. Rows that stay on their rank load no link.
  double network_worst = 0, nvlink_worst = 0, network_mean = 0, nvlink_mean = 0;
  double network_own_node = 0;  // rows that would have left over the network, but are for the own node (the mean)

  // Rows of a rank's experts, the largest over the mean.
  double max_over_mean(int64_t ranks) const;
};

// tokens: of a rank's micro-batch (many of a large group are sampled). loads: [experts], empty: balanced.
ExchangeLoad exchange_load(const SimulatedModel& model, const Mesh& mesh, int64_t tokens, const std::vector<double>& loads,
                           uint64_t seed);

}  // namespace rorqual
