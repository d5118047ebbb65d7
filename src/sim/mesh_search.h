// Which meshes train a model fastest on a cluster: every mesh and schedule that the cluster, the batch and the experts allow,
// first by memory (plan/memory.h), then by the simulated step (sim/step.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "plan/cluster.h"
#include "plan/memory.h"
#include "sim/step.h"

namespace rorqual {

struct MeshSearch {
  ModelNeeds needs;
  SimulatedModel model;
  Cluster cluster;
  int64_t batch_sequences = 0, micro_batch_sequences = 1;
  int64_t device_bytes = 0;  // of a device
};

struct MeshCandidate {
  Mesh mesh;
  PipelineKind schedule = PipelineKind::k1F1B;
  int64_t micro_batches = 0;
  // The recipe's keys that this mesh needs: every rank a lane for each direction, a group for the ranks that share experts.
  int64_t grad_lanes = 1, expert_lane_group = 1;
  int64_t device_bytes = 0;   // of the fullest rank
  double load_that_fits = 0;  // how far the rows of that rank may exceed the mean
  bool fits = false;
  StepEstimate step;  // where it fits
  std::string limit;  // "memory", or what the step's time is mostly made of
};

// All meshes over the cluster's ranks, without regard to memory: pp up to the layers, ep divides the experts and is part of a
// node or whole nodes, the batch divides, lanes are a power of two; every schedule that has enough micro-batches.
std::vector<MeshCandidate> possible_meshes(const MeshSearch& search);

// Those that fit, fastest first; behind them those that do not, the nearest first. `progress` (may be empty) is told how many
// of how many steps have been simulated.
std::vector<MeshCandidate> search_meshes(const MeshSearch& search,
                                         const std::function<void(size_t done, size_t of)>& progress = {});

}  // namespace rorqual
