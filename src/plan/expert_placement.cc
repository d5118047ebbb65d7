#include "plan/expert_placement.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace rorqual {

void check_placement_shape(const PlacementShape& s) {
  if (s.experts < 1 || s.replicas < 1 || s.groups < 1 || s.nodes < 1 || s.gpus < 1) {
    fail_usage("experts, replicas, groups, nodes and GPUs must be at least 1");
  }
  const auto divides = [](int64_t whole, const char* what, int64_t parts, const char* over) {
    if (whole % parts != 0) fail_usage("{} {} do not divide over {} {}: each must get as many", whole, what, parts, over);
  };
  divides(s.experts, "experts", s.groups, "groups");
  divides(s.replicas, "replicas", s.gpus, "GPUs");
  if (s.hierarchical()) divides(s.gpus, "GPUs", s.nodes, "nodes");
  if (s.replicas < s.experts)
    fail_usage("{} replicas cannot hold {} experts: each needs at least one slot", s.replicas, s.experts);
}

namespace detail {

Packing pack_balanced(std::span<const float> weight, int64_t packs) {
  const size_t n = weight.size(), per = n / static_cast<size_t>(packs);
  Packing out{std::vector<int32_t>(n), std::vector<int32_t>(n)};
  if (per == 1) {
    std::iota(out.pack.begin(), out.pack.end(), 0);
    return out;
  }
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return weight[a] > weight[b]; });
  std::vector<float> load(static_cast<size_t>(packs));
  std::vector<size_t> items(load.size());
  for (const size_t i : order) {
    size_t best = load.size();
    for (size_t p = 0; p < load.size(); ++p) {
      if (items[p] < per && (best == load.size() || load[p] < load[best])) best = p;
    }
    out.pack[i] = static_cast<int32_t>(best);
    out.rank[i] = static_cast<int32_t>(items[best]++);
    load[best] += weight[i];
  }
  return out;
}

Replication replicate(std::span<const float> weight, int64_t replicas) {
  const size_t n = weight.size();
  Replication out{std::vector<int32_t>(n), std::vector<int32_t>(n), std::vector<int32_t>(n, 1)};
  std::iota(out.expert.begin(), out.expert.end(), 0);
  std::vector<float> per_copy(weight.begin(), weight.end());
  for (size_t slot = n; slot < static_cast<size_t>(replicas); ++slot) {
    const auto j = static_cast<size_t>(std::max_element(per_copy.begin(), per_copy.end()) - per_copy.begin());
    out.expert.push_back(static_cast<int32_t>(j));
    out.rank.push_back(out.count[j]++);
    per_copy[j] = weight[j] / static_cast<float>(out.count[j]);
  }
  return out;
}

}  // namespace detail

namespace {

using detail::Packing;
using detail::Replication;

// Expert at each place of the order in which nodes hold whole groups: node 0's groups first.
std::vector<int32_t> experts_by_node(std::span<const float> load, int64_t groups, int64_t nodes) {
  const size_t size = load.size() / static_cast<size_t>(groups), per_node = static_cast<size_t>(groups / nodes);
  std::vector<float> group_load(static_cast<size_t>(groups));
  for (size_t e = 0; e < load.size(); ++e) group_load[e / size] += load[e];
  const Packing packing = detail::pack_balanced(group_load, nodes);
  std::vector<int32_t> expert(load.size());
  for (size_t e = 0; e < load.size(); ++e) {
    const size_t g = e / size, place = static_cast<size_t>(packing.pack[g]) * per_node + static_cast<size_t>(packing.rank[g]);
    expert[place * size + e % size] = static_cast<int32_t>(e);
  }
  return expert;
}

}  // namespace

Placement place_experts(std::span<const float> load, const PlacementShape& shape) {
  CHECK(static_cast<int64_t>(load.size()) == shape.experts, "{} loads for {} experts", load.size(), shape.experts);
  check_placement_shape(shape);
  const int64_t nodes = shape.hierarchical() ? shape.nodes : 1;
  const auto node_experts = static_cast<size_t>(shape.experts / nodes),
             node_slots = static_cast<size_t>(shape.replicas / nodes);
  const auto gpu_slots = static_cast<size_t>(shape.replicas / shape.gpus);
  const std::vector<int32_t> by_node = experts_by_node(load, shape.hierarchical() ? shape.groups : 1, nodes);
  std::vector<int32_t> expert_of_slot(static_cast<size_t>(shape.replicas)), copy_of_slot(expert_of_slot.size());
  for (size_t node = 0; node < static_cast<size_t>(nodes); ++node) {
    std::vector<float> weight(node_experts);
    for (size_t i = 0; i < node_experts; ++i) weight[i] = load[static_cast<size_t>(by_node[node * node_experts + i])];
    const Replication copies = detail::replicate(weight, static_cast<int64_t>(node_slots));
    std::vector<float> slot_load(node_slots);
    for (size_t s = 0; s < node_slots; ++s) {
      const auto e = static_cast<size_t>(copies.expert[s]);
      slot_load[s] = weight[e] / static_cast<float>(copies.count[e]);
    }
    const Packing packing = detail::pack_balanced(slot_load, shape.gpus / nodes);
    for (size_t s = 0; s < node_slots; ++s) {
      const size_t slot =
          node * node_slots + static_cast<size_t>(packing.pack[s]) * gpu_slots + static_cast<size_t>(packing.rank[s]);
      expert_of_slot[slot] = by_node[node * node_experts + static_cast<size_t>(copies.expert[s])];
      copy_of_slot[slot] = copies.rank[s];
    }
  }
  return replicated_placement(std::move(expert_of_slot), shape.experts, 1, copy_of_slot);
}

std::vector<double> gpu_loads(std::span<const float> load, const Placement& placement, int64_t gpus) {
  CHECK(gpus > 0 && placement.slots % gpus == 0 && static_cast<int64_t>(load.size()) == placement.experts());
  std::vector<double> out(static_cast<size_t>(gpus));
  const auto per = static_cast<size_t>(placement.slots / gpus);
  for (size_t s = 0; s < placement.expert_of_slot.size(); ++s) {
    const int32_t e = placement.expert_of_slot[s];
    out[s / per] += static_cast<double>(load[static_cast<size_t>(e)]) / static_cast<double>(placement.copies(e).size());
  }
  return out;
}

std::vector<double> contiguous_gpu_loads(std::span<const float> load, int64_t gpus) {
  std::vector<double> out(static_cast<size_t>(gpus));
  for (size_t e = 0; e < load.size(); ++e) out[e * out.size() / load.size()] += static_cast<double>(load[e]);
  return out;
}

double max_over_mean(std::span<const double> loads) {
  const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
  if (sum <= 0) return 1;
  return *std::max_element(loads.begin(), loads.end()) * static_cast<double>(loads.size()) / sum;
}

}  // namespace rorqual
