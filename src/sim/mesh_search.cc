#include "sim/mesh_search.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace rorqual {
namespace {

constexpr std::array kSchedules = {PipelineKind::k1F1B, PipelineKind::kZB1P, PipelineKind::kDualPipe, PipelineKind::kDualPipeV};

bool power_of_two(int64_t n) {
  return n > 0 && std::has_single_bit(static_cast<uint64_t>(n));
}

// Whether the schedule exists (plan/pipeline.h).
bool exists(PipelineKind kind, int64_t ranks, int64_t micro_batches) {
  try {
    validate(PipelineShape{.kind = kind, .ranks = static_cast<int>(ranks), .micro_batches = static_cast<int>(micro_batches)});
    return true;
  } catch (const Error&) {
    return false;
  }
}

void add_schedules(const MeshSearch& search, const Mesh& mesh, std::vector<MeshCandidate>& out) {
  const int64_t unit = search.micro_batch_sequences * mesh.batches();
  if (search.batch_sequences % unit != 0 || !power_of_two(mesh.batches())) return;
  for (const PipelineKind kind : kSchedules) {
    if (mesh.pp == 1 && kind != PipelineKind::k1F1B) continue;  // all are the same walk there
    const StageLayout layout = stage_layout(kind);
    MeshCandidate c;
    c.mesh = mesh;
    c.schedule = kind;
    c.micro_batches = search.batch_sequences / unit;
    c.grad_lanes = mesh.batches() * (layout == StageLayout::kDualPipe ? 2 : 1);
    c.expert_lane_group = search.needs.experts > 0 ? mesh.ep : 1;
    const bool lanes_divide = search.batch_sequences % (search.micro_batch_sequences * c.grad_lanes) == 0;
    if (lanes_divide && stage_count(layout, mesh.pp) <= search.needs.layers() && exists(kind, mesh.pp, c.micro_batches))
      out.push_back(c);
  }
}

StepOptions step_options(const MeshSearch& search, const MeshCandidate& c) {
  StepOptions options;
  options.schedule = c.schedule;
  options.batch_sequences = search.batch_sequences;
  options.micro_batch_sequences = search.micro_batch_sequences;
  return options;
}

void plan_candidate(const MeshSearch& search, const std::vector<int64_t>& stage_begin, MeshCandidate& c) {
  const MemoryPlan plan = plan_memory(search.needs, {.mesh = c.mesh,
                                                     .schedule = c.schedule,
                                                     .micro_batches = c.micro_batches,
                                                     .grad_lanes = c.grad_lanes,
                                                     .expert_lane_group = c.expert_lane_group,
                                                     .cache_tokens = 0,
                                                     .stage_begin = stage_begin});
  c.device_bytes = plan.largest().expected.device();
  c.load_that_fits = plan.largest().load_that_fits(search.device_bytes);
  c.fits = c.device_bytes <= search.device_bytes;
  c.limit = c.fits ? "" : "memory";
}

}  // namespace

std::vector<MeshCandidate> possible_meshes(const MeshSearch& search) {
  std::vector<MeshCandidate> out;
  const int64_t ranks = search.cluster.ranks, node = search.cluster.ranks_per_node;
  for (int64_t pp = 1; pp <= std::min(ranks, search.needs.layers()); ++pp) {
    if (ranks % pp != 0) continue;
    for (int64_t ep = 1; ep <= std::max<int64_t>(search.needs.experts, 1); ++ep) {
      const bool whole = node % ep == 0 || ep % node == 0;
      if (ranks / pp % ep != 0 || !whole || (search.needs.experts > 0 && search.needs.experts % ep != 0)) continue;
      add_schedules(search, {.pp = pp, .dp = ranks / pp / ep, .ep = ep, .ranks_per_node = node}, out);
    }
  }
  return out;
}

std::vector<MeshCandidate> search_meshes(const MeshSearch& search, const std::function<void(size_t, size_t)>& progress) {
  std::vector<MeshCandidate> all = possible_meshes(search);
  for (MeshCandidate& c : all) {
    plan_candidate(search, {}, c);
    // Stages that suit the simulator move a layer or two; a mesh that is far from fitting needs no such care.
    if (c.device_bytes <= search.device_bytes / 4 * 5)
      plan_candidate(search, balanced_stages(search.model, search.cluster, c.mesh, step_options(search, c)), c);
  }
  const auto behind = std::stable_partition(all.begin(), all.end(), [](const MeshCandidate& c) { return c.fits; });
  const auto fitting = static_cast<size_t>(behind - all.begin());
  for (size_t i = 0; i < fitting; ++i) {
    all[i].step = simulate_step(search.model, search.cluster, all[i].mesh, step_options(search, all[i]));
    all[i].limit = all[i].step.limit;
    if (progress) progress(i + 1, fitting);
  }
  std::stable_sort(all.begin(), behind,
                   [](const MeshCandidate& a, const MeshCandidate& b) { return a.step.step_seconds < b.step.step_seconds; });
  std::stable_sort(behind, all.end(),
                   [](const MeshCandidate& a, const MeshCandidate& b) { return a.device_bytes < b.device_bytes; });
  return all;
}

}  // namespace rorqual
