#include "plan/mesh.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <utility>

#include "base/error.h"

namespace rorqual {
namespace {

constexpr int64_t kMostRanks = int64_t{1} << 20;

using Axis = std::pair<std::string_view, int64_t Mesh::*>;
constexpr std::array<Axis, 6> kAxes = {Axis{"pp", &Mesh::pp}, {"dp", &Mesh::dp},       {"ep", &Mesh::ep},
                                       {"tp", &Mesh::tensor}, {"sp", &Mesh::sequence}, {"per_node", &Mesh::ranks_per_node}};

std::vector<int64_t> ranks_where(const Mesh& mesh, int64_t rank, bool (*same)(const MeshPlace&, const MeshPlace&)) {
  const MeshPlace own = place_of(mesh, rank);
  std::vector<int64_t> ranks;
  for (int64_t r = 0; r < mesh.ranks(); ++r) {
    if (same(own, place_of(mesh, r))) ranks.push_back(r);
  }
  return ranks;
}

}  // namespace

Mesh parse_mesh(std::string_view text) {
  Mesh mesh;
  std::set<std::string_view> seen;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    const size_t equals = part.find('=');
    const std::string_view name = part.substr(0, equals);
    const auto axis = std::find_if(kAxes.begin(), kAxes.end(), [&](const Axis& a) { return a.first == name; });
    if (axis == kAxes.end()) fail_usage("mesh '{}': '{}' is no axis; the axes are pp, dp, ep, tp, sp and per_node", text, name);
    if (!seen.insert(name).second) fail_usage("mesh '{}': axis {} stands twice", text, name);
    const std::string_view number = equals == std::string_view::npos ? "" : part.substr(equals + 1);
    int64_t value = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (error != std::errc() || end != number.data() + number.size() || value < 1 || value > kMostRanks) {
      fail_usage("mesh '{}': {} needs a number from 1 to {}, as in {}=8", text, name, kMostRanks, name);
    }
    mesh.*axis->second = value;
  }
  check_mesh(mesh);
  return mesh;
}

std::string to_string(const Mesh& mesh) {
  std::string text = fmt::format("pp={},dp={},ep={}", mesh.pp, mesh.dp, mesh.ep);
  if (mesh.tensor > 1) text += fmt::format(",tp={}", mesh.tensor);
  if (mesh.sequence > 1) text += fmt::format(",sp={}", mesh.sequence);
  if (mesh.ranks_per_node != Mesh().ranks_per_node) text += fmt::format(",per_node={}", mesh.ranks_per_node);
  return text;
}

void check_mesh(const Mesh& m) {
  for (const auto& [name, axis] : kAxes) {
    if (m.*axis < 1 || m.*axis > kMostRanks) fail_usage("mesh: {} is {}, not from 1 to {}", name, m.*axis, kMostRanks);
  }
  if (m.pp * m.dp > kMostRanks || m.ranks() > kMostRanks)
    fail_usage("mesh {} has more than {} ranks", to_string(m), kMostRanks);
  if (m.ep % m.tensor != 0) {
    fail_usage("mesh {}: tp must divide ep, as its ranks share the attention of one micro-batch", to_string(m));
  }
  if (m.ranks_per_node % m.tensor != 0)
    fail_usage("mesh {}: tp must divide the {} ranks of a node", to_string(m), m.ranks_per_node);
  if (m.sequence != 1 && m.sequence != m.tensor) fail_usage("mesh {}: sp is 1 or tp", to_string(m));
  if (m.ep % m.ranks_per_node != 0 && m.ranks_per_node % m.ep != 0) {
    fail_usage("mesh {}: ep must divide the {} ranks of a node or be a multiple of them", to_string(m), m.ranks_per_node);
  }
}

int64_t rank_of(const Mesh& mesh, const MeshPlace& p) {
  CHECK(p.pp_i >= 0 && p.pp_i < mesh.pp && p.dp_i >= 0 && p.dp_i < mesh.dp && p.ep_i >= 0 && p.ep_i < mesh.ep);
  return (p.pp_i * mesh.dp + p.dp_i) * mesh.ep + p.ep_i;
}

MeshPlace place_of(const Mesh& mesh, int64_t rank) {
  CHECK(rank >= 0 && rank < mesh.ranks(), "rank {} of {}", rank, mesh.ranks());
  return {rank / (mesh.dp * mesh.ep), rank / mesh.ep % mesh.dp, rank % mesh.ep};
}

std::vector<int64_t> pipeline_group(const Mesh& mesh, int64_t rank) {
  return ranks_where(mesh, rank, [](const MeshPlace& a, const MeshPlace& b) { return a.dp_i == b.dp_i && a.ep_i == b.ep_i; });
}
std::vector<int64_t> dense_group(const Mesh& mesh, int64_t rank) {
  return ranks_where(mesh, rank, [](const MeshPlace& a, const MeshPlace& b) { return a.pp_i == b.pp_i; });
}
std::vector<int64_t> expert_group(const Mesh& mesh, int64_t rank) {
  return ranks_where(mesh, rank, [](const MeshPlace& a, const MeshPlace& b) { return a.pp_i == b.pp_i && a.ep_i == b.ep_i; });
}
std::vector<int64_t> dispatch_group(const Mesh& mesh, int64_t rank) {
  return ranks_where(mesh, rank, [](const MeshPlace& a, const MeshPlace& b) { return a.pp_i == b.pp_i && a.dp_i == b.dp_i; });
}
std::vector<int64_t> tensor_group(const Mesh& mesh, int64_t rank) {
  std::vector<int64_t> ranks;
  for (int64_t i = 0; i < mesh.tensor; ++i) ranks.push_back(rank - rank % mesh.ep % mesh.tensor + i);
  return ranks;
}

int64_t stage_count(StageLayout layout, int64_t pp) {
  return layout == StageLayout::kDualPipeV ? 2 * pp : pp;
}

std::vector<int64_t> stages_of(StageLayout layout, int64_t pp, int64_t pp_i) {
  CHECK(pp_i >= 0 && pp_i < pp);
  if (layout == StageLayout::kSingle) return {pp_i};
  return {pp_i, stage_count(layout, pp) - 1 - pp_i};
}

std::vector<int64_t> even_stages(int64_t layers, int64_t stages) {
  CHECK(layers >= 0 && stages > 0);
  std::vector<int64_t> begin = {0};
  for (int64_t s = 0; s < stages; ++s) begin.push_back(begin.back() + layers / stages + (s < layers % stages ? 1 : 0));
  return begin;
}

RankHoldings holdings_of(const Mesh& mesh, StageLayout layout, const std::vector<int64_t>& stage_begin, int64_t slots,
                         int64_t rank) {
  check_mesh(mesh);
  const int64_t stages = stage_count(layout, mesh.pp);
  CHECK(static_cast<int64_t>(stage_begin.size()) == stages + 1, "{} bounds of {} stages", stage_begin.size(), stages);
  if (slots % mesh.ep != 0) fail_usage("{} expert slots do not divide over ep={}", slots, mesh.ep);
  RankHoldings held;
  held.rank = rank;
  held.node = node_of(mesh, rank);
  held.place = place_of(mesh, rank);
  const int64_t in_stage = held.place.dp_i * mesh.ep + held.place.ep_i, per = slots / mesh.ep;
  held.batch = in_stage / mesh.tensor;
  held.slots = {held.place.ep_i * per, (held.place.ep_i + 1) * per};
  const int64_t copies = layout == StageLayout::kDualPipe ? 2 : 1;
  int64_t copy = 0;
  for (const int64_t stage : stages_of(layout, mesh.pp, held.place.pp_i)) {
    HeldStage s;
    s.stage = stage;
    s.layers = {stage_begin[static_cast<size_t>(stage)], stage_begin[static_cast<size_t>(stage) + 1]};
    s.embedding = stage == 0;
    s.head = stage == stages - 1;
    s.dense_shards = copies * mesh.dp * mesh.ep;
    s.dense_shard = copy * mesh.dp * mesh.ep + in_stage;
    s.expert_shards = copies * mesh.dp;
    s.expert_shard = copy * mesh.dp + held.place.dp_i;
    held.stages.push_back(s);
    if (copies > 1) ++copy;
  }
  return held;
}

IndexRange shard_range(int64_t elements, int64_t shard, int64_t shards, int64_t alignment) {
  CHECK(elements >= 0 && shards > 0 && shard >= 0 && shard < shards && alignment > 0);
  const int64_t blocks = (elements + alignment - 1) / alignment;
  const auto at = [&](int64_t s) {
    const int64_t first = s * (blocks / shards) + std::min(s, blocks % shards);
    return std::min(elements, first * alignment);
  };
  return {at(shard), at(shard + 1)};
}

IndexRange lanes_of(const Mesh& mesh, int64_t grad_lanes, int64_t batch) {
  const int64_t batches = mesh.batches();
  CHECK(batch >= 0 && batch < batches);
  if (grad_lanes % batches != 0) {
    fail_usage("{} gradient lanes do not divide over the {} ranks with micro-batches of their own of mesh {}: raise grad_lanes",
               grad_lanes, batches, to_string(mesh));
  }
  const int64_t per = grad_lanes / batches;
  return {batch * per, (batch + 1) * per};
}

}  // namespace rorqual
