// The local search behind plan/replica_dispatch.h: which tokens take which copies so that fewer rows cross nodes, with no
// GPU's load above what it has room for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/replica_dispatch.h"

namespace rorqual {

// expert, option: [tokens, top_k], -1 for none; own_node: [tokens]; room: [gpus] rows that each may still take. Changes
// `option`. A token is given the copies that visit fewer nodes; where those are on a full GPU, other tokens make room along a
// short chain of moves, as long as the whole pays.
void search_options(const ReplicaMap& map, std::span<const int32_t> expert, int64_t top_k, std::span<const int32_t> own_node,
                    std::vector<int64_t> room, const ReplicaSearch& search, std::span<int32_t> option);

}  // namespace rorqual
