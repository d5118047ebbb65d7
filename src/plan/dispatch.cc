#include "plan/dispatch.h"

#include <numeric>
#include <utility>

#include "base/error.h"

namespace rorqual {

Placement identity_placement(int64_t experts, int64_t logical_nodes) {
  std::vector<int32_t> expert_of_slot(static_cast<size_t>(experts));
  std::iota(expert_of_slot.begin(), expert_of_slot.end(), 0);
  return replicated_placement(std::move(expert_of_slot), experts, logical_nodes);
}

Placement replicated_placement(std::vector<int32_t> expert_of_slot, int64_t experts, int64_t logical_nodes,
                               std::span<const int32_t> copy_of_slot) {
  CHECK(experts > 0 && logical_nodes > 0 && experts % logical_nodes == 0, "{} experts over {} logical nodes", experts,
        logical_nodes);
  CHECK(copy_of_slot.empty() || copy_of_slot.size() == expert_of_slot.size());
  Placement p;
  p.slots = static_cast<int64_t>(expert_of_slot.size());
  p.copy_begin.assign(static_cast<size_t>(experts) + 1, 0);
  for (const int32_t e : expert_of_slot) {
    CHECK(e >= 0 && e < experts, "expert {} of {}", e, experts);
    ++p.copy_begin[static_cast<size_t>(e) + 1];
  }
  for (size_t e = 0; e < static_cast<size_t>(experts); ++e) {
    CHECK(p.copy_begin[e + 1] > 0, "expert {} has no slot", e);
    p.copy_begin[e + 1] += p.copy_begin[e];
    p.logical_node_of_expert.push_back(static_cast<int32_t>(static_cast<int64_t>(e) / (experts / logical_nodes)));
  }
  p.slot_of_copy.assign(expert_of_slot.size(), -1);
  std::vector<int32_t> next(p.copy_begin.begin(), p.copy_begin.end() - 1);
  for (size_t s = 0; s < expert_of_slot.size(); ++s) {
    const auto e = static_cast<size_t>(expert_of_slot[s]);
    const int32_t at = copy_of_slot.empty() ? next[e]++ : p.copy_begin[e] + copy_of_slot[s];
    CHECK(at >= p.copy_begin[e] && at < p.copy_begin[e + 1] && p.slot_of_copy[static_cast<size_t>(at)] < 0, "copy of expert {}",
          e);
    p.slot_of_copy[static_cast<size_t>(at)] = static_cast<int32_t>(s);
  }
  p.expert_of_slot = std::move(expert_of_slot);
  return p;
}

DispatchPlan plan_dispatch(std::span<const int32_t> expert, int64_t tokens, int64_t top_k, const Placement& placement,
                           int64_t alignment, std::span<const int32_t> slot) {
  CHECK(static_cast<int64_t>(expert.size()) == tokens * top_k && alignment > 0);
  CHECK(slot.empty() || slot.size() == expert.size());
  const auto slot_of_choice = [&](size_t c) {
    if (slot.empty()) return static_cast<size_t>(placement.copies(expert[c])[0]);
    CHECK(placement.expert_of_slot[static_cast<size_t>(slot[c])] == expert[c], "slot {} of expert {}", slot[c], expert[c]);
    return static_cast<size_t>(slot[c]);
  };
  DispatchPlan plan;
  plan.tokens = tokens;
  plan.top_k = top_k;
  plan.segment_begin.resize(static_cast<size_t>(placement.slots));
  plan.segment_count.resize(static_cast<size_t>(placement.slots));
  plan.row_of_choice.resize(expert.size());
  plan.node_of_choice.resize(expert.size());
  for (size_t c = 0; c < expert.size(); ++c) ++plan.segment_count[slot_of_choice(c)];
  for (size_t s = 0; s < plan.segment_begin.size(); ++s) {
    plan.segment_begin[s] = plan.rows;
    plan.rows += (plan.segment_count[s] + alignment - 1) / alignment * alignment;
  }
  plan.source_token.assign(static_cast<size_t>(plan.rows), -1);
  plan.source_choice.assign(static_cast<size_t>(plan.rows), -1);
  std::vector<int64_t> next = plan.segment_begin;
  for (size_t c = 0; c < expert.size(); ++c) {
    const auto e = static_cast<size_t>(expert[c]);
    const auto row = static_cast<size_t>(next[slot_of_choice(c)]++);
    plan.source_token[row] = static_cast<int32_t>(static_cast<int64_t>(c) / top_k);
    plan.source_choice[row] = static_cast<int32_t>(c);
    plan.row_of_choice[c] = static_cast<int32_t>(row);
    plan.node_of_choice[c] = placement.logical_node_of_expert[e];
  }
  return plan;
}

}  // namespace rorqual
