// From one expert placement to the next: how many experts move, a placement that moves few, and when moving pays.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/expert_placement.h"

namespace rorqual {

// Slots of each GPU whose expert it must fetch: its experts in `to`, copies counted, that it does not hold in `from`.
std::vector<int64_t> moved_slots(const Placement& from, const Placement& to, int64_t gpus);  // [gpus]

// `to` with its nodes, the GPUs of a node and the slots of a GPU renumbered so that much of `from` stays where it is (greedy,
// by the largest overlap). No load changes. nodes divides gpus; 1 where GPUs may be exchanged across nodes.
Placement keep_in_place(const Placement& from, const Placement& to, int64_t gpus, int64_t nodes);

// A placement for `load` that moves at most `max_moves` slots from `last` and keeps the largest GPU load as low as a greedy
// search finds: copies given to other experts and exchanges of two slots, best first (largest fall of a power sum of the GPUs'
// loads for each slot moved), or place_experts' result where the budget allows it. Never worse than `last`; if `shape` is
// hierarchical, groups stay on one node as they do in `last`.
Placement place_experts_near(std::span<const float> load, const PlacementShape& shape, const Placement& last,
                             int64_t max_moves);

// When to rebalance. Time is counted in intervals of equal length, each with its measured loads.
struct RebalanceModel {
  double seconds_per_row = 0;      // that one row (a token at an expert) more on the most loaded GPU adds to an interval
  double bytes_per_expert = 0;     // of one layer's expert
  double bytes_per_second = 0;     // into one GPU while it serves
  double half_life_intervals = 4;  // of the weight of old loads in the forecast
  double horizon_intervals = 10;   // that a new placement is expected to serve
};
// What was weighed. Forecast: loads averaged with weights that halve every half-life. Predicted gain: what the largest GPU load
// falls by under the forecast, in seconds over the horizon, times `trust`; trust: what rebalancing at each past interval would
// have saved in the next, less one standard error, over what it would have predicted (0 to 1; 1 where it predicted nothing).
// Cost: the slots that the busiest receiver fetches, in seconds. Among budgets of 1, 2, 4, … moved slots the largest gain above
// cost is taken.
struct RebalanceDecision {
  bool rebalance = false;
  Placement placement;  // the current one if not
  int64_t moves = 0;
  double trust = 1, gain_seconds = 0, cost_seconds = 0;
};
// history: [intervals][experts], oldest first, at least one.
RebalanceDecision decide_rebalance(std::span<const std::vector<float>> history, const PlacementShape& shape,
                                   const Placement& current, const RebalanceModel& model);

}  // namespace rorqual
