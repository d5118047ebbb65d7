// Dispatch between ranks, as tables (spec 5.1, 5.2). A token travels once to each node that needs it, to the GPU with its
// source's index there (over the network), and from that GPU once to each GPU of the node that holds one of its experts (over
// NVLink). Combine walks the same routes backward. No table depends on the order in which anything arrives.
//
// Each table is made by the rank that uses it: a source from its own choices, a forwarder from the masks that come with its
// rows, a receiver from counts. What they exchange first are counts alone (ReceivePlan).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/dispatch.h"

namespace rorqual {

// The ranks of one expert-parallel group, numbered within it; slot s is on rank s / (slots / ranks).
struct DispatchShape {
  int64_t ranks = 1;
  int64_t ranks_per_node = 1;  // divides ranks, at most 64
  int64_t slots = 1;           // physical expert slots, a multiple of ranks
  int64_t nodes() const { return ranks / ranks_per_node; }
  int64_t rank_of_slot(int64_t slot) const { return slot / (slots / ranks); }
};

// What one rank sends.
struct SendPlan {
  std::vector<int64_t> tokens_per_rank;  // [ranks] a token once for each rank that holds one of its experts
  std::vector<int64_t> tokens_per_node;  // [nodes] once for each node
  std::vector<int64_t> rows_per_slot;    // [slots] once for each choice
  // The rows of the first hop: by node, inside a node by token, both ascending. Those of the own node stay where they are.
  std::vector<int64_t> node_begin;  // [nodes + 1]
  std::vector<int32_t> token;       // [node_begin.back()]
  std::vector<uint64_t> gpu_mask;   // [node_begin.back()] bit i: the node's GPU with index i needs the row
};
// slot: [tokens, top_k] physical slots, or -1 for none.
SendPlan plan_send(std::span<const int32_t> slot, int64_t tokens, int64_t top_k, const DispatchShape& shape);

// What one rank receives: a row for each (source rank, token), ascending, whichever way it came.
struct ReceivePlan {
  std::vector<int64_t> source_begin;  // [ranks + 1]
  int64_t rows() const { return source_begin.back(); }
};
// tokens_from: [ranks] what each source's tokens_per_rank says of this rank.
ReceivePlan plan_receive(std::span<const int64_t> tokens_from);

// What one rank hands on inside its node: the rows that it got from the rank with its own index on every node (from itself for
// its own node), by source node, then token.
struct ForwardPlan {
  std::vector<int64_t> node_begin;  // [nodes + 1] where each source node's rows begin
  std::vector<int64_t> gpu_begin;   // [ranks_per_node + 1] into the lists below
  std::vector<int64_t> row;         // of those rows, ascending for each GPU
  std::vector<int64_t> target_row;  // the row of that GPU's ReceivePlan
};
// masks[n]: the masks of the rows that came from node n. receivers[i]: the plan of the node's GPU with index i.
ForwardPlan plan_forward(const DispatchShape& shape, int64_t rank, std::span<const std::span<const uint64_t>> masks,
                         std::span<const ReceivePlan> receivers);

// The rows of one rank's experts, from what it received. slot: [rows, top_k] as the sources chose, -1 for none; those of other
// ranks are passed over. Rows of a slot keep the order of the received ones. A slot's rows are one segment, or, if
// `by_source`, one for each source rank (its micro-batch, which weight gradients are summed by); each begins at a multiple of
// `alignment`. In the plan that results, tokens are received rows, segments are [slots of the rank] or [slots of the rank,
// ranks], row_of_choice is -1 where a choice is not this rank's, and node_of_choice is empty.
DispatchPlan plan_expert_rows(const DispatchShape& shape, int64_t rank, std::span<const int32_t> slot, int64_t top_k,
                              const ReceivePlan& received, bool by_source, int64_t alignment);

// Rows on every link for dispatch; combine sends as many the other way. Rows that stay on their rank load no link.
struct LinkRows {
  std::vector<int64_t> network;  // [ranks, nodes] from a rank to the GPU with its index on a node; 0 for its own
  std::vector<int64_t> nvlink;   // [ranks, ranks_per_node] from a forwarder to a GPU of its node; 0 for itself
};
LinkRows count_link_rows(const DispatchShape& shape, std::span<const SendPlan> sends);  // sends: [ranks]

// Bytes of one row.
struct RowBytes {
  int64_t values = 0, scales = 0;
  int64_t routing = 0;  // where it goes and with what weights, padding included
  int64_t payload() const { return values + scales; }
  int64_t total() const { return payload() + routing; }
};
// E4M3 with an FP32 scale per 128 values, source and mask (8 bytes), top_k slots (int32) and weights (FP32), to 16 bytes.
RowBytes fp8_dispatch_row(int64_t hidden, int64_t top_k);
// BF16 values alone: the way back is known.
RowBytes bf16_combine_row(int64_t hidden);

}  // namespace rorqual
