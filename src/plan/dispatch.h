// The dispatch of a micro-batch's tokens to physical expert slots, as a table (design, ideas 2 and 5).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rorqual {

// Where logical experts live. Training uses the identity; replicas will map an expert to several slots.
struct Placement {
  std::vector<int32_t> slot_of_expert;          // [experts]
  std::vector<int32_t> logical_node_of_expert;  // [experts], ascending: combine's order of sums
  int64_t slots = 0;
};
// Slot e holds expert e; `logical_nodes` (at least 1, divides experts) contiguous runs of experts.
Placement identity_placement(int64_t experts, int64_t logical_nodes);

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

// expert: [tokens, top_k], ascending within a token, each below the placement's experts.
DispatchPlan plan_dispatch(std::span<const int32_t> expert, int64_t tokens, int64_t top_k, const Placement& placement,
                           int64_t alignment);

}  // namespace rorqual
