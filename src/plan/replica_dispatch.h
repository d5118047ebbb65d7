// Which copy of its expert each token goes to (report §3.4.2: the optimal routing over redundant experts, before every layer).
// A token's experts are fixed, their copies are not: the largest load of a GPU is made as small as it can be, exactly; then the
// rows that cross nodes (a token once for each node but its own) as few as a flow and a local search find.
//
// How ranks use it. Each counts its own choices by cell (count_cells), the counts are summed over ranks and, before each rank,
// over those below it; each solves the same small flow (split_cells) and hands out its own tokens (assign_slots). Nothing but
// cell counts is exchanged, and every rank reaches the same split.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/dispatch.h"

namespace rorqual {

// What dispatch needs of a placement, made once for each. An option is a GPU that holds a copy of the expert. A cell is an
// expert and the set of nodes, among those with its copies, that its token visits whatever is chosen: its own node and those of
// its experts with one choice of node. (Of more than six nodes the first six are told apart.)
struct ReplicaMap {
  int64_t gpus = 0, gpus_per_node = 0;
  std::vector<int32_t> option_begin;  // [experts + 1]
  std::vector<int32_t> gpu, slot;     // [options] ascending by GPU; the expert's first slot there
  std::vector<int32_t> node_of;       // [options] gpu / gpus_per_node
  std::vector<int32_t> bit;           // [options] of its node in the number of a cell; -1: none
  std::vector<int32_t> cell_begin;    // [experts + 1]
  std::vector<int32_t> split_begin;   // [experts + 1] where the expert's cells begin in ReplicaSplit::rows

  int64_t experts() const { return static_cast<int64_t>(option_begin.size()) - 1; }
  int64_t cells() const { return cell_begin.back(); }
  int64_t options(size_t e) const { return option_begin[e + 1] - option_begin[e]; }
  int32_t node(size_t option) const { return node_of[option]; }
};
// GPU g holds the slots from g * slots / gpus; both divide.
ReplicaMap replica_map(const Placement& placement, int64_t gpus, int64_t gpus_per_node);

// The choices of one GPU's tokens. expert: [tokens, top_k], distinct within a token; -1 for none.
struct TokenChoices {
  std::span<const int32_t> expert;
  int64_t top_k = 1;
  int64_t gpu = 0;  // where the tokens are
};
std::vector<int64_t> count_cells(const ReplicaMap& map, const TokenChoices& choices);  // [cells]

struct ReplicaSplit {
  int64_t largest_load = 0;       // rows (token and expert) of the most loaded GPU: the least there is
  int64_t load_lower_bound = 0;   // the mean, or what experts without a choice put on one GPU
  std::vector<int64_t> gpu_load;  // [gpus]
  std::vector<int64_t> rows;      // cell c of expert e, option o: [split_begin[e] + (c - cell_begin[e]) * options(e) + o]
};
// counts: [cells], of all GPUs.
ReplicaSplit split_cells(const ReplicaMap& map, std::span<const int64_t> counts);

// How far the local search goes on tokens that still visit a node for one copy alone.
struct ReplicaSearch {
  int64_t rounds = 2;         // over all tokens; 0: none
  int64_t hops = 2;           // other tokens that change places so that no GPU's load grows
  int64_t combinations = 16;  // of one token's copies that are tried
};

// The slots of one GPU's choices, [tokens, top_k], -1 for none. before: [cells], the counts of all GPUs below it. The
// search uses this GPU's equal part of the room that the split leaves, so that no GPU gets more than largest_load.
std::vector<int32_t> assign_slots(const ReplicaMap& map, const ReplicaSplit& split, const TokenChoices& choices,
                                  std::span<const int64_t> before, const ReplicaSearch& search = {});

// Rows that cross nodes with these slots, and no fewer than which any choice of copies sends.
int64_t count_network_rows(const ReplicaMap& map, const TokenChoices& choices, std::span<const int32_t> slot);
int64_t least_network_rows(const ReplicaMap& map, const TokenChoices& choices);

// All GPUs at once, in one process: batches[g] are the tokens of GPU g.
struct ReplicaDispatch {
  ReplicaSplit split;
  std::vector<std::vector<int32_t>> slot;  // [gpus] as assign_slots gives them
  int64_t network_rows = 0, network_lower_bound = 0;
};
enum class SearchScope {
  kEachGpu,  // what ranks do on their own
  kAll,      // one search over the tokens of all GPUs: fewer rows, more time
};
ReplicaDispatch dispatch_to_replicas(const ReplicaMap& map, std::span<const TokenChoices> batches, SearchScope scope,
                                     const ReplicaSearch& search = {});

}  // namespace rorqual
