// How far from the best a choice of copies can be: a lower bound of the rows that cross nodes, for measuring and tests.
#pragma once

#include <cstdint>
#include <span>

#include "plan/replica_dispatch.h"

namespace rorqual {

// No choice of copies that keeps every GPU at `largest_load` sends fewer rows across nodes. Lagrangian relaxation: GPUs ask a
// price for each row, every token takes its cheapest copies by nodes and prices, and the prices follow the GPUs' loads for
// `rounds` rounds (subgradients; `found`, the rows of some choice, scales the steps). At most 64 nodes.
int64_t bound_network_rows(const ReplicaMap& map, std::span<const TokenChoices> batches, int64_t largest_load, int64_t found,
                           int64_t rounds);

}  // namespace rorqual
