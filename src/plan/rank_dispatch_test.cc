#include "plan/rank_dispatch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include "base/rng.h"

namespace rorqual {
namespace {

struct Row {
  int64_t source = -1, token = -1;
  friend bool operator==(const Row&, const Row&) = default;
};

// Every rank's tokens with their slots; some tokens choose nothing, some slots twice on one rank.
struct Cluster {
  DispatchShape shape;
  int64_t top_k;
  std::vector<int64_t> tokens;              // [ranks]
  std::vector<std::vector<int32_t>> slots;  // [ranks][tokens, top_k]

  Cluster(DispatchShape s, int64_t k, uint64_t seed) : shape(s), top_k(k) {
    for (int64_t r = 0; r < shape.ranks; ++r) {
      const auto draw = [&](uint32_t purpose, int64_t i, int64_t n) {
        return static_cast<int64_t>(random_below({seed, RandomPurpose::kTest, static_cast<uint64_t>(r), purpose},
                                                 static_cast<uint64_t>(i), static_cast<uint64_t>(n)));
      };
      tokens.push_back(r == 1 ? 0 : draw(0, 0, 20));
      slots.emplace_back();
      for (int64_t c = 0; c < tokens.back() * top_k; ++c) {
        const bool none = draw(1, c, 10) == 0 || draw(2, c / top_k, 8) == 0;
        slots.back().push_back(none ? -1 : static_cast<int32_t>(draw(3, c, shape.slots)));
      }
    }
  }
  bool wants(int64_t source, int64_t token, int64_t rank) const {
    for (int64_t k = 0; k < top_k; ++k) {
      const int32_t s = slots[static_cast<size_t>(source)][static_cast<size_t>(token * top_k + k)];
      if (s >= 0 && shape.rank_of_slot(s) == rank) return true;
    }
    return false;
  }
};

// Executes the tables literally, one payload after another, and keeps what passed every link.
struct Executor {
  const Cluster& c;
  std::vector<SendPlan> sends;
  std::vector<ReceivePlan> receives;
  std::vector<ForwardPlan> forwards;
  std::vector<std::vector<Row>> inbox;     // [ranks] rows of the first hop
  std::vector<std::vector<Row>> received;  // [ranks]
  LinkRows seen;

  explicit Executor(const Cluster& cluster) : c(cluster) {
    const DispatchShape& s = c.shape;
    for (int64_t r = 0; r < s.ranks; ++r) sends.push_back(plan_send(c.slots[at(r)], c.tokens[at(r)], c.top_k, s));
    for (int64_t r = 0; r < s.ranks; ++r) {
      std::vector<int64_t> from;
      for (const SendPlan& send : sends) from.push_back(send.tokens_per_rank[at(r)]);
      receives.push_back(plan_receive(from));
    }
    seen.network.resize(at(s.ranks * s.nodes()));
    seen.nvlink.resize(at(s.ranks * s.ranks_per_node));
    for (int64_t r = 0; r < s.ranks; ++r) forward(r);
  }

  static size_t at(int64_t i) { return static_cast<size_t>(i); }

  void forward(int64_t rank) {
    const DispatchShape& s = c.shape;
    const int64_t node = rank / s.ranks_per_node, index = rank % s.ranks_per_node;
    std::vector<std::span<const uint64_t>> masks;
    inbox.emplace_back();
    for (int64_t n = 0; n < s.nodes(); ++n) {
      const int64_t source = n * s.ranks_per_node + index;
      const SendPlan& send = sends[at(source)];
      const auto begin = at(send.node_begin[at(node)]), end = at(send.node_begin[at(node + 1)]);
      masks.push_back(std::span(send.gpu_mask).subspan(begin, end - begin));
      for (size_t i = begin; i < end; ++i) {
        inbox.back().push_back({source, send.token[i]});
        if (n != node) ++seen.network[at(source * s.nodes() + node)];
      }
    }
    const int64_t first = node * s.ranks_per_node;
    forwards.push_back(plan_forward(s, rank, masks, std::span(receives).subspan(at(first), at(s.ranks_per_node))));
    const ForwardPlan& plan = forwards.back();
    received.resize(at(s.ranks));
    for (int64_t gpu = 0; gpu < s.ranks_per_node; ++gpu) {
      std::vector<Row>& target = received[at(first + gpu)];
      target.resize(at(receives[at(first + gpu)].rows()));
      for (int64_t i = plan.gpu_begin[at(gpu)]; i < plan.gpu_begin[at(gpu + 1)]; ++i) {
        Row& row = target[at(plan.target_row[at(i)])];
        EXPECT_EQ(row, Row()) << "a row is written twice";
        row = inbox.back()[at(plan.row[at(i)])];
        if (gpu != index) ++seen.nvlink[at(rank * s.ranks_per_node + gpu)];
      }
    }
  }
};

// What an expert makes of a token: any function of both.
int64_t expert_output(int64_t slot, const Row& row) {
  return (slot + 1) * 1000003 + row.source * 7919 + row.token * 31;
}

// Combine walks the routes backward: experts sum per GPU, forwarders per node, owners over nodes.
std::vector<std::vector<int64_t>> combine(const Executor& x, const std::vector<std::vector<int64_t>>& partial) {
  const DispatchShape& s = x.c.shape;
  std::vector<std::vector<int64_t>> out;
  for (const int64_t n : x.c.tokens) out.emplace_back(static_cast<size_t>(n));
  for (int64_t rank = 0; rank < s.ranks; ++rank) {
    const ForwardPlan& plan = x.forwards[static_cast<size_t>(rank)];
    std::vector<int64_t> node_sum(x.inbox[static_cast<size_t>(rank)].size());
    for (int64_t gpu = 0; gpu < s.ranks_per_node; ++gpu) {
      const auto& from = partial[static_cast<size_t>(rank / s.ranks_per_node * s.ranks_per_node + gpu)];
      for (auto i = static_cast<size_t>(plan.gpu_begin[static_cast<size_t>(gpu)]);
           i < static_cast<size_t>(plan.gpu_begin[static_cast<size_t>(gpu) + 1]); ++i) {
        node_sum[static_cast<size_t>(plan.row[i])] += from[static_cast<size_t>(plan.target_row[i])];
      }
    }
    for (size_t i = 0; i < node_sum.size(); ++i) {
      const Row& row = x.inbox[static_cast<size_t>(rank)][i];
      out[static_cast<size_t>(row.source)][static_cast<size_t>(row.token)] += node_sum[i];
    }
  }
  return out;
}

class RankDispatch : public testing::TestWithParam<DispatchShape> {};

TEST_P(RankDispatch, ConservesEveryToken) {
  const DispatchShape s = GetParam();
  for (uint64_t seed = 0; seed < 10; ++seed) {
    SCOPED_TRACE(seed);
    const Cluster cluster(s, 4, seed);
    const Executor x(cluster);
    for (int64_t rank = 0; rank < s.ranks; ++rank) {
      // Receive order: by source rank, then token; one row for a token however many of the rank's experts need it.
      std::vector<Row> expected;
      for (int64_t source = 0; source < s.ranks; ++source) {
        for (int64_t t = 0; t < cluster.tokens[static_cast<size_t>(source)]; ++t) {
          if (cluster.wants(source, t, rank)) expected.push_back({source, t});
        }
      }
      EXPECT_EQ(x.received[static_cast<size_t>(rank)], expected) << "rank " << rank;
    }
    const LinkRows links = count_link_rows(s, x.sends);
    EXPECT_EQ(links.network, x.seen.network);
    EXPECT_EQ(links.nvlink, x.seen.nvlink);
  }
}

TEST_P(RankDispatch, EveryChoiceReachesItsSlotOnceAndComesBack) {
  const DispatchShape s = GetParam();
  for (const bool by_source : {false, true}) {
    const Cluster cluster(s, 3, 77);
    const Executor x(cluster);
    std::map<std::array<int64_t, 3>, int> reached;  // (source, token, choice)
    std::vector<std::vector<int64_t>> partial(static_cast<size_t>(s.ranks));
    const int64_t own = s.slots / s.ranks, sources = by_source ? s.ranks : 1, alignment = 8;
    for (int64_t rank = 0; rank < s.ranks; ++rank) {
      const auto& rows = x.received[static_cast<size_t>(rank)];
      std::vector<int32_t> slot;
      for (const Row& row : rows) {
        const auto& all = cluster.slots[static_cast<size_t>(row.source)];
        slot.insert(slot.end(), all.begin() + row.token * 3, all.begin() + row.token * 3 + 3);
      }
      const DispatchPlan plan = plan_expert_rows(s, rank, slot, 3, x.receives[static_cast<size_t>(rank)], by_source, alignment);
      partial[static_cast<size_t>(rank)].resize(rows.size());
      ASSERT_EQ(static_cast<int64_t>(plan.segment_begin.size()), own * sources);
      int64_t filled = 0;
      for (size_t g = 0; g < plan.segment_begin.size(); ++g) {
        EXPECT_EQ(plan.segment_begin[g] % alignment, 0);
        int32_t last = -1;
        for (int64_t i = plan.segment_begin[g]; i < plan.segment_begin[g] + plan.segment_count[g]; ++i, ++filled) {
          const int32_t choice = plan.source_choice[static_cast<size_t>(i)], token = plan.source_token[static_cast<size_t>(i)];
          const Row& row = rows[static_cast<size_t>(token)];
          EXPECT_EQ(plan.row_of_choice[static_cast<size_t>(choice)], i);
          EXPECT_GE(token, last);
          last = token;
          const int64_t expert_slot = rank * own + static_cast<int64_t>(g) / sources;
          EXPECT_EQ(slot[static_cast<size_t>(choice)], expert_slot);
          EXPECT_TRUE(!by_source || row.source == static_cast<int64_t>(g) % sources);
          ++reached[{row.source, row.token, choice % 3}];
          partial[static_cast<size_t>(rank)][static_cast<size_t>(token)] += expert_output(expert_slot, row);
        }
      }
      EXPECT_EQ(plan.rows - filled, std::count(plan.source_choice.begin(), plan.source_choice.end(), -1));
    }
    const auto out = combine(x, partial);
    for (int64_t r = 0; r < s.ranks; ++r) {
      for (int64_t t = 0; t < cluster.tokens[static_cast<size_t>(r)]; ++t) {
        int64_t sum = 0;
        for (int64_t k = 0; k < 3; ++k) {
          const int32_t chosen = cluster.slots[static_cast<size_t>(r)][static_cast<size_t>(t * 3 + k)];
          if (chosen < 0) continue;
          sum += expert_output(chosen, {r, t});
          EXPECT_EQ((reached[{r, t, k}]), 1) << "rank " << r << " token " << t << " choice " << k;
        }
        EXPECT_EQ(out[static_cast<size_t>(r)][static_cast<size_t>(t)], sum);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RankDispatch,
                         testing::Values(DispatchShape{1, 1, 4}, DispatchShape{4, 4, 8}, DispatchShape{6, 2, 12},
                                         DispatchShape{16, 8, 16}, DispatchShape{5, 1, 10}),
                         [](const auto& test) {
                           return "Ranks" + std::to_string(test.param.ranks) + "PerNode" +
                                  std::to_string(test.param.ranks_per_node);
                         });

TEST(RankDispatchRows, CountsOncePerNodeRankAndChoice) {
  // Two nodes of two ranks, two slots on each. Token 0: slots 0 and 1 (rank 0) and 7 (rank 3); token 1: slots 4 and 6; token 2:
  // none.
  const DispatchShape s{4, 2, 8};
  const std::vector<int32_t> slot = {0, 1, 7, 4, 6, -1, -1, -1, -1};
  const SendPlan plan = plan_send(slot, 3, 3, s);
  EXPECT_EQ(plan.tokens_per_rank, (std::vector<int64_t>{1, 0, 1, 2}));
  EXPECT_EQ(plan.tokens_per_node, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(plan.rows_per_slot, (std::vector<int64_t>{1, 1, 0, 0, 1, 0, 1, 1}));
  EXPECT_EQ(plan.token, (std::vector<int32_t>{0, 0, 1}));
  EXPECT_EQ(plan.gpu_mask, (std::vector<uint64_t>{1, 2, 3}));
}

TEST(RankDispatchRows, Bytes) {
  // 7168 codes, 56 scales, source and mask, 8 slots and weights: 7168 + 224 + 72 = 7464, to a multiple of 16.
  const RowBytes dispatch = fp8_dispatch_row(7168, 8);
  EXPECT_EQ(dispatch.payload(), 7392);
  EXPECT_EQ(dispatch.total(), 7472);
  EXPECT_EQ(bf16_combine_row(7168).total(), 14336);
}

}  // namespace
}  // namespace rorqual
