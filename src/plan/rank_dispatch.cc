#include "plan/rank_dispatch.h"

#include <utility>

#include "base/error.h"

namespace rorqual {
namespace {

void check_shape(const DispatchShape& s) {
  CHECK(s.ranks > 0 && s.ranks_per_node > 0 && s.ranks_per_node <= 64 && s.ranks % s.ranks_per_node == 0 && s.slots > 0 &&
            s.slots % s.ranks == 0,
        "{} slots over {} ranks, {} in a node", s.slots, s.ranks, s.ranks_per_node);
}

}  // namespace

SendPlan plan_send(std::span<const int32_t> slot, int64_t tokens, int64_t top_k, const DispatchShape& shape) {
  check_shape(shape);
  CHECK(static_cast<int64_t>(slot.size()) == tokens * top_k);
  const auto nodes = static_cast<size_t>(shape.nodes()), k = static_cast<size_t>(top_k);
  SendPlan plan;
  plan.tokens_per_rank.resize(static_cast<size_t>(shape.ranks));
  plan.tokens_per_node.resize(nodes);
  plan.rows_per_slot.resize(static_cast<size_t>(shape.slots));
  // A token's nodes and masks in the order of its choices; the lists by node are filled once their lengths are known.
  std::vector<std::pair<int32_t, uint64_t>> visits;  // [tokens, at most top_k]
  std::vector<size_t> visits_end;
  for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
    const size_t first = visits.size();
    for (const int32_t s : slot.subspan(t * k, k)) {
      if (s < 0) continue;
      CHECK(s < shape.slots, "slot {} of {}", s, shape.slots);
      ++plan.rows_per_slot[static_cast<size_t>(s)];
      const int64_t rank = shape.rank_of_slot(s);
      const auto node = static_cast<int32_t>(rank / shape.ranks_per_node);
      size_t v = first;
      while (v < visits.size() && visits[v].first != node) ++v;
      if (v == visits.size()) visits.emplace_back(node, 0);
      const uint64_t bit = uint64_t{1} << (rank % shape.ranks_per_node);
      if ((visits[v].second & bit) == 0) ++plan.tokens_per_rank[static_cast<size_t>(rank)];
      visits[v].second |= bit;
    }
    for (size_t v = first; v < visits.size(); ++v) ++plan.tokens_per_node[static_cast<size_t>(visits[v].first)];
    visits_end.push_back(visits.size());
  }
  plan.node_begin.assign(nodes + 1, 0);
  for (size_t n = 0; n < nodes; ++n) plan.node_begin[n + 1] = plan.node_begin[n] + plan.tokens_per_node[n];
  plan.token.resize(visits.size());
  plan.gpu_mask.resize(visits.size());
  std::vector<int64_t> next(plan.node_begin.begin(), plan.node_begin.end() - 1);
  for (size_t t = 0, v = 0; t < visits_end.size(); ++t) {
    for (; v < visits_end[t]; ++v) {
      const auto at = static_cast<size_t>(next[static_cast<size_t>(visits[v].first)]++);
      plan.token[at] = static_cast<int32_t>(t);
      plan.gpu_mask[at] = visits[v].second;
    }
  }
  return plan;
}

ReceivePlan plan_receive(std::span<const int64_t> tokens_from) {
  ReceivePlan plan;
  plan.source_begin.push_back(0);
  for (const int64_t n : tokens_from) plan.source_begin.push_back(plan.source_begin.back() + n);
  return plan;
}

ForwardPlan plan_forward(const DispatchShape& shape, int64_t rank, std::span<const std::span<const uint64_t>> masks,
                         std::span<const ReceivePlan> receivers) {
  check_shape(shape);
  CHECK(static_cast<int64_t>(masks.size()) == shape.nodes() && static_cast<int64_t>(receivers.size()) == shape.ranks_per_node);
  ForwardPlan plan;
  plan.node_begin.push_back(0);
  for (const auto& from : masks) plan.node_begin.push_back(plan.node_begin.back() + static_cast<int64_t>(from.size()));
  plan.gpu_begin.push_back(0);
  const int64_t index = rank % shape.ranks_per_node;
  for (size_t gpu = 0; gpu < receivers.size(); ++gpu) {
    for (size_t node = 0; node < masks.size(); ++node) {
      const auto source = static_cast<size_t>(static_cast<int64_t>(node) * shape.ranks_per_node + index);
      int64_t target = receivers[gpu].source_begin[source];
      for (size_t i = 0; i < masks[node].size(); ++i) {
        if ((masks[node][i] >> gpu & 1) == 0) continue;
        plan.row.push_back(plan.node_begin[node] + static_cast<int64_t>(i));
        plan.target_row.push_back(target++);
      }
      CHECK(target == receivers[gpu].source_begin[source + 1], "masks and counts of source {} differ", source);
    }
    plan.gpu_begin.push_back(static_cast<int64_t>(plan.row.size()));
  }
  return plan;
}

DispatchPlan plan_expert_rows(const DispatchShape& shape, int64_t rank, std::span<const int32_t> slot, int64_t top_k,
                              const ReceivePlan& received, bool by_source, int64_t alignment) {
  check_shape(shape);
  CHECK(static_cast<int64_t>(slot.size()) == received.rows() * top_k && alignment > 0);
  const int64_t own_slots = shape.slots / shape.ranks, sources = by_source ? shape.ranks : 1;
  DispatchPlan plan;
  plan.tokens = received.rows();
  plan.top_k = top_k;
  plan.segment_begin.resize(static_cast<size_t>(own_slots * sources));
  plan.segment_count.resize(plan.segment_begin.size());
  plan.row_of_choice.assign(slot.size(), -1);
  // The segment of every choice in turn; -1 for those of other ranks.
  const auto for_each_choice = [&](auto&& visit) {
    for (size_t source = 0; source + 1 < received.source_begin.size(); ++source) {
      const auto end = static_cast<size_t>(received.source_begin[source + 1] * top_k);
      for (auto c = static_cast<size_t>(received.source_begin[source] * top_k); c < end; ++c) {
        if (slot[c] < 0 || shape.rank_of_slot(slot[c]) != rank) continue;
        visit(c, static_cast<size_t>((slot[c] - rank * own_slots) * sources + (by_source ? static_cast<int64_t>(source) : 0)));
      }
    }
  };
  for_each_choice([&](size_t, size_t segment) { ++plan.segment_count[segment]; });
  for (size_t s = 0; s < plan.segment_begin.size(); ++s) {
    plan.segment_begin[s] = plan.rows;
    plan.rows += (plan.segment_count[s] + alignment - 1) / alignment * alignment;
  }
  plan.source_token.assign(static_cast<size_t>(plan.rows), -1);
  plan.source_choice.assign(static_cast<size_t>(plan.rows), -1);
  std::vector<int64_t> next = plan.segment_begin;
  for_each_choice([&](size_t c, size_t segment) {
    const auto row = static_cast<size_t>(next[segment]++);
    plan.source_token[row] = static_cast<int32_t>(static_cast<int64_t>(c) / top_k);
    plan.source_choice[row] = static_cast<int32_t>(c);
    plan.row_of_choice[c] = static_cast<int32_t>(row);
  });
  return plan;
}

LinkRows count_link_rows(const DispatchShape& shape, std::span<const SendPlan> sends) {
  check_shape(shape);
  CHECK(static_cast<int64_t>(sends.size()) == shape.ranks);
  LinkRows links{std::vector<int64_t>(static_cast<size_t>(shape.ranks * shape.nodes())),
                 std::vector<int64_t>(static_cast<size_t>(shape.ranks * shape.ranks_per_node))};
  for (int64_t source = 0; source < shape.ranks; ++source) {
    const SendPlan& send = sends[static_cast<size_t>(source)];
    const int64_t own = source / shape.ranks_per_node, index = source % shape.ranks_per_node;
    for (int64_t node = 0; node < shape.nodes(); ++node) {
      if (node != own)
        links.network[static_cast<size_t>(source * shape.nodes() + node)] = send.tokens_per_node[static_cast<size_t>(node)];
      const int64_t forwarder = node * shape.ranks_per_node + index;
      for (int64_t gpu = 0; gpu < shape.ranks_per_node; ++gpu) {
        if (gpu == index) continue;
        links.nvlink[static_cast<size_t>(forwarder * shape.ranks_per_node + gpu)] +=
            send.tokens_per_rank[static_cast<size_t>(node * shape.ranks_per_node + gpu)];
      }
    }
  }
  return links;
}

RowBytes fp8_dispatch_row(int64_t hidden, int64_t top_k) {
  RowBytes bytes{hidden, (hidden + 127) / 128 * 4, 8 + top_k * 8};
  bytes.routing += (16 - bytes.total() % 16) % 16;
  return bytes;
}

RowBytes bf16_combine_row(int64_t hidden) {
  return {hidden * 2, 0, 0};
}

}  // namespace rorqual
