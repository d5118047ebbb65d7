// The dispatch of a micro-batch's tokens to physical expert slots, as a table (design, ideas 2 and 5).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rorqual {

// Where logical experts live: a table from experts to physical slots, of one layer. Every rank holds the same number of slots,
// rank r those from r * slots / ranks. Training uses the identity; when serving, an expert may have several copies.
struct Placement {
  int64_t slots = 0;
  std::vector<int32_t> expert_of_slot;          // [slots]
  std::vector<int32_t> copy_begin;              // [experts + 1] where an expert's copies begin in slot_of_copy
  std::vector<int32_t> slot_of_copy;            // [slots] each expert's slots, in the order of its copies
  std::vector<int32_t> logical_node_of_expert;  // [experts], ascending: combine's order of sums

  int64_t experts() const { return static_cast<int64_t>(copy_begin.size()) - 1; }
  // The slots of expert e, at least one.
  std::span<const int32_t> copies(int64_t e) const {
    const auto i = static_cast<size_t>(e);
    return std::span(slot_of_copy)
        .subspan(static_cast<size_t>(copy_begin[i]), static_cast<size_t>(copy_begin[i + 1] - copy_begin[i]));
  }
};
// Slot e holds expert e; `logical_nodes` (at least 1, divides experts) contiguous runs of experts.
Placement identity_placement(int64_t experts, int64_t logical_nodes);
// Slot s holds expert expert_of_slot[s] as its copy number copy_of_slot[s]; without copy_of_slot, copies are numbered by
// ascending slot. Every expert has a slot.
Placement replicated_placement(std::vector<int32_t> expert_of_slot, int64_t experts, int64_t logical_nodes,
                               std::span<const int32_t> copy_of_slot = {});

// Rows are grouped by slot, ascending; inside a slot by token, ascending. A slot's segment begins at a multiple of `alignment`.
struct DispatchPlan {
  int64_t tokens = 0, top_k = 0;
  int64_t rows = 0;                     // of the permuted matrix, padding included
  std::vector<int64_t> segment_begin;   // [slots]
  std::vector<int64_t> segment_count;   // [slots] tokens, padding excluded
  std::vector<int32_t> source_token;    // [rows]; -1: padding
  std::vector<int32_t> source_choice;   // [rows] index into [tokens, top_k]; -1: padding
  std::vector<int32_t> row_of_choice;   // [tokens, top_k]
  std::vector<int32_t> node_of_choice;  // [tokens, top_k] logical node, ascending within a token
};

// expert: [tokens, top_k], ascending within a token, each below the placement's experts. Every row goes to its expert's first
// copy, or to the slot that `slot` ([tokens, top_k], a copy of that expert; plan/replica_dispatch.h chooses) names.
DispatchPlan plan_dispatch(std::span<const int32_t> expert, int64_t tokens, int64_t top_k, const Placement& placement,
                           int64_t alignment, std::span<const int32_t> slot = {});

}  // namespace rorqual
