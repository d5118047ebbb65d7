#include "plan/replica_dispatch.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "plan/replica_search.h"
#include "plan/transport_flow.h"

namespace rorqual {
namespace {

constexpr int32_t kMostBits = 6;

size_t at(int64_t i) {
  return static_cast<size_t>(i);
}

bool single_node(const ReplicaMap& map, size_t e) {
  return map.node(at(map.option_begin[e])) == map.node(at(map.option_begin[e + 1]) - 1);
}

// The nodes that a token visits whatever is chosen: its own and those of its experts with one choice of node.
class CertainNodes {
 public:
  explicit CertainNodes(const ReplicaMap& map) : map_(map), visited_(at(map.gpus / map.gpus_per_node), -1) {}

  // Returns how many there are beside the own one.
  int64_t mark(std::span<const int32_t> experts, int32_t own_node) {
    ++token_;
    visited_[at(own_node)] = token_;
    int64_t others = 0;
    for (const int32_t e : experts) {
      if (e < 0 || !single_node(map_, at(e))) continue;
      int64_t& seen = visited_[at(map_.node(at(map_.option_begin[at(e)])))];
      if (seen != token_) ++others;
      seen = token_;
    }
    return others;
  }
  bool has(int32_t node) const { return visited_[at(node)] == token_; }
  int64_t cell(size_t e) const {
    int64_t number = 0;
    for (auto o = at(map_.option_begin[e]); o < at(map_.option_begin[e + 1]); ++o) {
      if (map_.bit[o] >= 0 && has(map_.node(o))) number |= int64_t{1} << map_.bit[o];
    }
    return map_.cell_begin[e] + number;
  }

 private:
  const ReplicaMap& map_;
  std::vector<int64_t> visited_;  // [nodes] the last token that did
  int64_t token_ = -1;
};

// Calls visit(choice, expert, cell) for every choice, tokens ascending.
template <class Visit>
void for_each_cell(const ReplicaMap& map, const TokenChoices& c, Visit&& visit) {
  const size_t k = at(c.top_k);
  CHECK(c.top_k > 0 && c.expert.size() % k == 0);
  CertainNodes nodes(map);
  for (size_t first = 0; first < c.expert.size(); first += k) {
    nodes.mark(c.expert.subspan(first, k), static_cast<int32_t>(c.gpu / map.gpus_per_node));
    for (size_t i = first; i < first + k; ++i) {
      if (c.expert[i] >= 0) visit(i, at(c.expert[i]), nodes.cell(at(c.expert[i])));
    }
  }
}

// Raises every GPU's room until all rows of experts with a choice fit: a set of GPUs that is full and the rows that can go
// nowhere else prove the next bound, so the first bound that is enough is the least.
int64_t least_largest_load(const ReplicaMap& map, std::span<const int64_t> expert_load, std::span<const int64_t> fixed,
                           int64_t bound) {
  TransportFlow flow(map.experts(), map.gpus);
  for (size_t e = 0; e < expert_load.size(); ++e) {
    if (map.options(e) == 1) continue;
    flow.add_source(static_cast<int64_t>(e), expert_load[e]);
    for (auto o = at(map.option_begin[e]); o < at(map.option_begin[e + 1]); ++o)
      flow.add_arc(static_cast<int64_t>(e), map.gpu[o], 0);
  }
  for (int64_t g = 0; g < map.gpus; ++g) flow.add_room(g, bound - fixed[at(g)]);
  while (!flow.solve()) {
    int64_t rows = 0, gpus = 0;
    for (int64_t e = 0; e < map.experts(); ++e) {
      if (flow.short_source(e)) rows += expert_load[at(e)];
    }
    for (int64_t g = 0; g < map.gpus; ++g) {
      if (!flow.short_sink(g)) continue;
      rows += fixed[at(g)];
      ++gpus;
    }
    const int64_t next = (rows + gpus - 1) / gpus;
    CHECK(next > bound);
    for (int64_t g = 0; g < map.gpus; ++g) flow.add_room(g, next - bound);
    bound = next;
  }
  return bound;
}

}  // namespace

ReplicaMap replica_map(const Placement& placement, int64_t gpus, int64_t gpus_per_node) {
  CHECK(gpus > 0 && placement.slots % gpus == 0 && gpus_per_node > 0 && gpus % gpus_per_node == 0,
        "{} slots, {} GPUs, {} in a node", placement.slots, gpus, gpus_per_node);
  ReplicaMap map;
  map.gpus = gpus;
  map.gpus_per_node = gpus_per_node;
  map.option_begin = map.cell_begin = map.split_begin = {0};
  const int64_t per = placement.slots / gpus;
  for (int64_t e = 0; e < placement.experts(); ++e) {
    std::vector<int32_t> slots(placement.copies(e).begin(), placement.copies(e).end());
    std::sort(slots.begin(), slots.end());
    const size_t first = map.gpu.size();
    int32_t bits = -1;
    for (const int32_t slot : slots) {
      const auto gpu = static_cast<int32_t>(slot / per);
      if (map.gpu.size() > first && map.gpu.back() == gpu) continue;
      const auto node = static_cast<int32_t>(gpu / gpus_per_node);
      if (map.gpu.size() == first || map.node_of.back() != node) ++bits;
      map.gpu.push_back(gpu);
      map.node_of.push_back(node);
      map.slot.push_back(slot);
      map.bit.push_back(bits < kMostBits ? bits : -1);
    }
    ++bits;
    if (bits == 1) std::fill(map.bit.begin() + static_cast<std::ptrdiff_t>(first), map.bit.end(), -1);  // nothing to tell apart
    const int32_t cells = bits == 1 ? 1 : 1 << std::min(bits, kMostBits),
                  options = static_cast<int32_t>(map.gpu.size() - first);
    map.option_begin.push_back(map.option_begin.back() + options);
    map.cell_begin.push_back(map.cell_begin.back() + cells);
    map.split_begin.push_back(map.split_begin.back() + cells * options);
  }
  return map;
}

std::vector<int64_t> count_cells(const ReplicaMap& map, const TokenChoices& choices) {
  std::vector<int64_t> counts(at(map.cells()));
  for_each_cell(map, choices, [&](size_t, size_t, int64_t cell) { ++counts[at(cell)]; });
  return counts;
}

ReplicaSplit split_cells(const ReplicaMap& map, std::span<const int64_t> counts) {
  CHECK(static_cast<int64_t>(counts.size()) == map.cells());
  ReplicaSplit split;
  split.rows.resize(at(map.split_begin.back()));
  std::vector<int64_t> expert_load(at(map.experts())), fixed(at(map.gpus));
  for (size_t e = 0; e < expert_load.size(); ++e) {
    for (auto c = at(map.cell_begin[e]); c < at(map.cell_begin[e + 1]); ++c) expert_load[e] += counts[c];
    if (map.options(e) > 1) continue;
    fixed[at(map.gpu[at(map.option_begin[e])])] += expert_load[e];
    split.rows[at(map.split_begin[e])] = expert_load[e];
  }
  const int64_t total = std::accumulate(expert_load.begin(), expert_load.end(), int64_t{0});
  split.load_lower_bound = std::max((total + map.gpus - 1) / map.gpus, *std::max_element(fixed.begin(), fixed.end()));
  split.largest_load = least_largest_load(map, expert_load, fixed, split.load_lower_bound);
  // With that as every GPU's room: the least rows for nodes that their tokens would not visit anyway.
  TransportFlow flow(map.cells(), map.gpus);
  std::vector<size_t> place;  // [arcs] in rows
  for (size_t e = 0; e < expert_load.size(); ++e) {
    if (map.options(e) == 1) continue;
    const auto options = at(map.options(e)), first = at(map.option_begin[e]);
    for (auto c = at(map.cell_begin[e]); c < at(map.cell_begin[e + 1]); ++c) {
      if (counts[c] == 0) continue;
      const size_t mask = c - at(map.cell_begin[e]);
      flow.add_source(static_cast<int64_t>(c), counts[c]);
      for (size_t o = 0; o < options; ++o) {
        const int32_t bit = map.bit[first + o];
        const bool free = map.cell_begin[e + 1] - map.cell_begin[e] == 1 || (bit >= 0 && (mask >> bit & 1) != 0);
        place.push_back(at(map.split_begin[e]) + mask * options + o);
        flow.add_arc(static_cast<int64_t>(c), map.gpu[first + o], free ? 0 : 1);
      }
    }
  }
  for (int64_t g = 0; g < map.gpus; ++g) flow.add_room(g, split.largest_load - fixed[at(g)]);
  const bool all = flow.solve();
  CHECK(all);
  for (size_t arc = 0; arc < place.size(); ++arc) split.rows[place[arc]] = flow.flow(static_cast<int64_t>(arc));
  split.gpu_load.assign(at(map.gpus), 0);
  for (size_t e = 0; e < expert_load.size(); ++e) {
    const auto options = at(map.options(e));
    for (auto i = at(map.split_begin[e]); i < at(map.split_begin[e + 1]); ++i) {
      split.gpu_load[at(map.gpu[at(map.option_begin[e]) + (i - at(map.split_begin[e])) % options])] += split.rows[i];
    }
  }
  return split;
}

namespace {

// The option of every choice, as the split hands them out in the order of tokens; -1 for none.
std::vector<int32_t> options_in_order(const ReplicaMap& map, const ReplicaSplit& split, const TokenChoices& choices,
                                      std::span<const int64_t> before) {
  CHECK(static_cast<int64_t>(before.size()) == map.cells());
  std::vector<int64_t> next(before.begin(), before.end());
  std::vector<int32_t> option(choices.expert.size(), -1);
  for_each_cell(map, choices, [&](size_t i, size_t e, int64_t cell) {
    const int64_t options = map.options(e);
    option[i] = map.option_begin[e];
    if (options == 1) return;
    int64_t position = next[at(cell)]++;
    const int64_t* rows = &split.rows[at(map.split_begin[e] + (cell - map.cell_begin[e]) * options)];
    int64_t o = 0;
    while (position >= rows[o]) {
      position -= rows[o++];
      CHECK(o < options, "more rows of expert {} than were counted", e);
    }
    option[i] += static_cast<int32_t>(o);
  });
  return option;
}

std::vector<int32_t> slots_of(const ReplicaMap& map, std::span<const int32_t> option) {
  std::vector<int32_t> slot;
  slot.reserve(option.size());
  for (const int32_t o : option) slot.push_back(o < 0 ? -1 : map.slot[at(o)]);
  return slot;
}

}  // namespace

std::vector<int32_t> assign_slots(const ReplicaMap& map, const ReplicaSplit& split, const TokenChoices& choices,
                                  std::span<const int64_t> before, const ReplicaSearch& search) {
  std::vector<int32_t> option = options_in_order(map, split, choices, before);
  const std::vector<int32_t> own(choices.expert.size() / at(choices.top_k),
                                 static_cast<int32_t>(choices.gpu / map.gpus_per_node));
  std::vector<int64_t> room;  // this GPU's part of what every GPU has left
  for (const int64_t load : split.gpu_load) {
    const int64_t left = split.largest_load - load;
    room.push_back(left * (choices.gpu + 1) / map.gpus - left * choices.gpu / map.gpus);
  }
  search_options(map, choices.expert, choices.top_k, own, std::move(room), search, option);
  return slots_of(map, option);
}

int64_t count_network_rows(const ReplicaMap& map, const TokenChoices& choices, std::span<const int32_t> slot) {
  CHECK(slot.size() == choices.expert.size());
  const int64_t own = choices.gpu / map.gpus_per_node;
  std::vector<int32_t> node_of_slot(at(*std::max_element(map.slot.begin(), map.slot.end())) + 1, -1);
  for (size_t o = 0; o < map.slot.size(); ++o) node_of_slot[at(map.slot[o])] = map.node(o);
  std::vector<int64_t> last(at(map.gpus / map.gpus_per_node), -1);
  int64_t rows = 0;
  for (size_t i = 0; i < slot.size(); ++i) {
    if (slot[i] < 0) continue;
    const int32_t node = node_of_slot[at(slot[i])];
    const auto token = static_cast<int64_t>(i) / choices.top_k;
    rows += node != own && last[at(node)] != token;
    last[at(node)] = token;
  }
  return rows;
}

int64_t least_network_rows(const ReplicaMap& map, const TokenChoices& choices) {
  CertainNodes nodes(map);
  int64_t rows = 0;
  const size_t k = at(choices.top_k);
  for (size_t first = 0; first < choices.expert.size(); first += k) {
    const auto experts = choices.expert.subspan(first, k);
    rows += nodes.mark(experts, static_cast<int32_t>(choices.gpu / map.gpus_per_node));
    // One node more if some expert has no copy on those.
    rows += std::any_of(experts.begin(), experts.end(), [&](int32_t e) {
      if (e < 0) return false;
      for (auto o = at(map.option_begin[at(e)]); o < at(map.option_begin[at(e) + 1]); ++o) {
        if (nodes.has(map.node(o))) return false;
      }
      return true;
    });
  }
  return rows;
}

ReplicaDispatch dispatch_to_replicas(const ReplicaMap& map, std::span<const TokenChoices> batches, SearchScope scope,
                                     const ReplicaSearch& search) {
  std::vector<int64_t> total(at(map.cells()));
  std::vector<std::vector<int64_t>> before;
  for (const TokenChoices& batch : batches) {
    before.push_back(total);
    const std::vector<int64_t> own = count_cells(map, batch);
    for (size_t c = 0; c < total.size(); ++c) total[c] += own[c];
  }
  ReplicaDispatch out;
  out.split = split_cells(map, total);
  if (scope == SearchScope::kEachGpu) {
    for (size_t b = 0; b < batches.size(); ++b) out.slot.push_back(assign_slots(map, out.split, batches[b], before[b], search));
  } else {
    std::vector<int32_t> option, expert, own;
    for (size_t b = 0; b < batches.size(); ++b) {
      CHECK(batches[b].top_k == batches[0].top_k);
      const std::vector<int32_t> part = options_in_order(map, out.split, batches[b], before[b]);
      option.insert(option.end(), part.begin(), part.end());
      expert.insert(expert.end(), batches[b].expert.begin(), batches[b].expert.end());
      own.insert(own.end(), part.size() / at(batches[b].top_k), static_cast<int32_t>(batches[b].gpu / map.gpus_per_node));
    }
    std::vector<int64_t> room;
    for (const int64_t load : out.split.gpu_load) room.push_back(out.split.largest_load - load);
    search_options(map, expert, batches.empty() ? 1 : batches[0].top_k, own, room, search, option);
    const std::vector<int32_t> slot = slots_of(map, option);
    size_t first = 0;
    for (const TokenChoices& batch : batches) {
      out.slot.emplace_back(slot.begin() + static_cast<std::ptrdiff_t>(first),
                            slot.begin() + static_cast<std::ptrdiff_t>(first + batch.expert.size()));
      first += batch.expert.size();
    }
  }
  for (size_t b = 0; b < batches.size(); ++b) {
    out.network_rows += count_network_rows(map, batches[b], out.slot[b]);
    out.network_lower_bound += least_network_rows(map, batches[b]);
  }
  return out;
}

}  // namespace rorqual
