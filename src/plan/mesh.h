// The device mesh: which rank is which, on which node, and what it holds (report §3.2; spec 3.1, 6).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rorqual {

// ranks = pp * dp * ep; rank = (pp_i * dp + dp_i) * ep + ep_i. Experts are spread over ep and replicated over dp; everything
// else is replicated over dp * ep, with its optimizer state cut among those ranks (ZeRO-1).
struct Mesh {
  int64_t pp = 1, dp = 1, ep = 1;
  int64_t tensor = 1;          // consecutive ranks of the ep axis that share one micro-batch's attention heads (TP)
  int64_t sequence = 1;        // 1, or `tensor`: the same ranks share its rows outside attention (SP)
  int64_t ranks_per_node = 8;  // consecutive

  int64_t ranks() const { return pp * dp * ep; }
  int64_t nodes() const { return (ranks() + ranks_per_node - 1) / ranks_per_node; }
  // Ranks of an expert-parallel group on one node.
  int64_t ep_per_node() const { return ep < ranks_per_node ? ep : ranks_per_node; }
  // Coordinates with micro-batches of their own: every (dp, ep), or every group of `tensor` ranks.
  int64_t batches() const { return dp * ep / tensor; }
};

struct MeshPlace {
  int64_t pp_i = 0, dp_i = 0, ep_i = 0;
  friend bool operator==(const MeshPlace&, const MeshPlace&) = default;
};

// "pp=16,dp=2,ep=64", in any order, an axis left out is 1; also tp, sp and per_node. Error (usage) otherwise.
Mesh parse_mesh(std::string_view text);
std::string to_string(const Mesh& mesh);
// Error (usage) that names the rule: axes at least 1 and at most 2^20 ranks; tp divides ep and a node; sp is 1 or tp; ep
// divides a node or is a whole number of nodes.
void check_mesh(const Mesh& mesh);

int64_t rank_of(const Mesh& mesh, const MeshPlace& place);
MeshPlace place_of(const Mesh& mesh, int64_t rank);
inline int64_t node_of(const Mesh& mesh, int64_t rank) {
  return rank / mesh.ranks_per_node;
}

// Groups of `rank`, itself included, ascending.
std::vector<int64_t> pipeline_group(const Mesh& mesh, int64_t rank);  // the same (dp, ep)
std::vector<int64_t> dense_group(const Mesh& mesh, int64_t rank);     // the same pp: dense gradients are summed
std::vector<int64_t> expert_group(const Mesh& mesh, int64_t rank);    // the same (pp, ep): expert gradients are summed
std::vector<int64_t> dispatch_group(const Mesh& mesh, int64_t rank);  // the same (pp, dp): tokens travel to experts
std::vector<int64_t> tensor_group(const Mesh& mesh, int64_t rank);    // the same micro-batch

// How pipeline ranks hold stages: one each; DualPipe, rank r holds r and pp-1-r, so that every stage is held twice; DualPipeV,
// rank r holds r and 2pp-1-r of 2pp.
enum class StageLayout { kSingle, kDualPipe, kDualPipeV };
int64_t stage_count(StageLayout layout, int64_t pp);
std::vector<int64_t> stages_of(StageLayout layout, int64_t pp, int64_t pp_i);
// [stages + 1] where each stage's layers begin, as even as can be; longer stages first, as the last one also has the head.
std::vector<int64_t> even_stages(int64_t layers, int64_t stages);

// A half-open range.
struct IndexRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  friend bool operator==(const IndexRange&, const IndexRange&) = default;
};

// One stage on one rank. The optimizer state of each of the stage's tensors exists once: this rank has shard `dense_shard` of
// `dense_shards` of the dense ones, `expert_shard` of `expert_shards` of its experts.
struct HeldStage {
  int64_t stage = 0;
  IndexRange layers;
  bool embedding = false, head = false;  // the first stage's; the last stage's, with the final norm and the MTP modules
  int64_t dense_shard = 0, dense_shards = 1;
  int64_t expert_shard = 0, expert_shards = 1;
};

struct RankHoldings {
  int64_t rank = 0, node = 0;
  MeshPlace place;
  int64_t batch = 0;              // of mesh.batches(): whose micro-batches it runs
  IndexRange slots;               // physical expert slots of each of its layers
  std::vector<HeldStage> stages;  // in the order of stages_of
};

// stage_begin: [stages + 1], as even_stages gives it; slots: of a layer, a multiple of ep (Error otherwise).
RankHoldings holdings_of(const Mesh& mesh, StageLayout layout, const std::vector<int64_t>& stage_begin, int64_t slots,
                         int64_t rank);

// Shard `shard` of `elements` cut into `shards` parts that are multiples of `alignment`, but for the last.
IndexRange shard_range(int64_t elements, int64_t shard, int64_t shards, int64_t alignment);
// The gradient lanes of batch coordinate `batch`: each owns as many. Error (usage) if they do not divide.
IndexRange lanes_of(const Mesh& mesh, int64_t grad_lanes, int64_t batch);

}  // namespace rorqual
