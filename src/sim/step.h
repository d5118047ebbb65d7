// One training step on a cluster, predicted: the ranks run the plan's own tables (plan/pipeline.h, plan/rank_dispatch.h), and a
// cost model says how long each phase computes and travels. docs/simulator.md holds it against published runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/mesh.h"
#include "plan/pipeline.h"
#include "sim/routing.h"
#include "sim/simulated_model.h"

namespace rorqual {

struct Cluster;  // plan/cluster.h

// A rank whose computing takes `factor` times as long.
struct Straggler {
  int64_t rank = 0;
  double factor = 1;
};

struct StepOptions {
  PipelineKind schedule = PipelineKind::kDualPipe;
  int64_t batch_sequences = 0;  // of a step, all ranks together
  int64_t micro_batch_sequences = 1;
  std::vector<int64_t> stage_begin = {};  // [stages + 1]; empty: balanced_stages
  RoutingLoads routing = {};
  std::vector<Straggler> stragglers = {};
  bool spans = false;  // keep the timeline
};

struct StepSpan {
  int64_t rank = 0;  // of the pipeline
  enum class Lane : uint8_t { kChunk, kCompute, kCommunication, kOptimizer } lane = Lane::kChunk;
  PipelineActionKind action = PipelineActionKind::kForward;
  std::string name;
  double begin = 0, end = 0;  // seconds
};

// Bytes over a link for a trained token, all ranks and layers together.
struct BytesPerToken {
  double dispatch_network = 0, dispatch_nvlink = 0;  // forward and backward
  double combine_network = 0, combine_nvlink = 0;
  double pipeline_network = 0, pipeline_nvlink = 0;
  double gradients_network = 0, gradients_nvlink = 0;  // reduced, and the new weights gathered
  double network() const { return dispatch_network + combine_network + pipeline_network + gradients_network; }
  double nvlink() const { return dispatch_nvlink + combine_nvlink + pipeline_nvlink + gradients_nvlink; }
};

struct StepEstimate {
  double step_seconds = 0;
  double pipeline_seconds = 0, optimizer_seconds = 0;  // together the step
  double tokens_per_second = 0, tokens_per_day = 0, gpu_hours_per_trillion_tokens = 0;
  double bubble_share = 0;                    // of the step in which a rank neither computes nor moves rows, the mean of ranks
  double exposed_communication_share = 0;     // of the step in which rows travel and nothing computes, the mean of ranks
  double compute_share = 0;                   // of the step in which a rank computes, the mean of ranks
  double mfu_causal = 0, mfu_non_causal = 0;  // of the BF16 peak
  // Mean over ranks of the seconds that each kind of action takes in a step: forward, whole backward, input gradient, weight
  // gradient, forward beside backward.
  double forward_seconds = 0, backward_seconds = 0, input_gradient_seconds = 0, weight_gradient_seconds = 0,
         forward_backward_seconds = 0;
  double overlapped_pair_seconds = 0;  // the longest forward beside a backward of any rank
  double load_max_over_mean = 1;       // rows of a rank's experts, the worst layer
  std::string limit;                   // "compute", "communication", "bubble", "optimizer": the largest of what adds up
  int64_t micro_batches = 0;           // of a column, all directions
  std::vector<int64_t> stage_begin;
  BytesPerToken bytes;
  std::vector<StepSpan> spans;
};

// Error (usage) where the mesh does not fit the cluster, the batch or the experts; stages may not be empty. The mesh's
// ranks_per_node is the cluster's.
//
// What is simulated of 2,048 ranks: every dispatch and combine is a barrier of its expert group, so that the group moves at
// its slowest member's pace and pipelines of equal (dp) columns run alike. Each distinct column is run once; inside a chunk
// each distinct member of the group is. Columns differ where stragglers are.
StepEstimate simulate_step(const SimulatedModel& model, const Cluster& cluster, const Mesh& mesh, const StepOptions& options);

// Cuts the layers into stages: evenly, but for the last stage, which also has the head and the MTP modules and gets as many
// layers as make the pipeline fastest.
std::vector<int64_t> balanced_stages(const SimulatedModel& model, const Cluster& cluster, const Mesh& mesh,
                                     const StepOptions& options);

}  // namespace rorqual
