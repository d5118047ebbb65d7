#include "plan/dispatch.h"

#include "base/error.h"

namespace rorqual {

Placement identity_placement(int64_t experts, int64_t logical_nodes) {
  CHECK(experts > 0 && logical_nodes > 0 && experts % logical_nodes == 0, "{} experts over {} logical nodes", experts,
        logical_nodes);
  Placement p;
  p.slots = experts;
  for (int64_t e = 0; e < experts; ++e) {
    p.slot_of_expert.push_back(static_cast<int32_t>(e));
    p.logical_node_of_expert.push_back(static_cast<int32_t>(e / (experts / logical_nodes)));
  }
  return p;
}

DispatchPlan plan_dispatch(std::span<const int32_t> expert, int64_t tokens, int64_t top_k, const Placement& placement,
                           int64_t alignment) {
  CHECK(static_cast<int64_t>(expert.size()) == tokens * top_k && alignment > 0);
  DispatchPlan plan;
  plan.tokens = tokens;
  plan.top_k = top_k;
  plan.segment_begin.resize(static_cast<size_t>(placement.slots));
  plan.segment_count.resize(static_cast<size_t>(placement.slots));
  plan.row_of_choice.resize(expert.size());
  plan.node_of_choice.resize(expert.size());
  for (const int32_t e : expert) ++plan.segment_count[static_cast<size_t>(placement.slot_of_expert[static_cast<size_t>(e)])];
  for (size_t s = 0; s < plan.segment_begin.size(); ++s) {
    plan.segment_begin[s] = plan.rows;
    plan.rows += (plan.segment_count[s] + alignment - 1) / alignment * alignment;
  }
  plan.source_token.assign(static_cast<size_t>(plan.rows), -1);
  plan.source_choice.assign(static_cast<size_t>(plan.rows), -1);
  std::vector<int64_t> next = plan.segment_begin;
  for (size_t c = 0; c < expert.size(); ++c) {
    const auto e = static_cast<size_t>(expert[c]);
    const auto row = static_cast<size_t>(next[static_cast<size_t>(placement.slot_of_expert[e])]++);
    plan.source_token[row] = static_cast<int32_t>(static_cast<int64_t>(c) / top_k);
    plan.source_choice[row] = static_cast<int32_t>(c);
    plan.row_of_choice[c] = static_cast<int32_t>(row);
    plan.node_of_choice[c] = placement.logical_node_of_expert[e];
  }
  return plan;
}

}  // namespace rorqual
