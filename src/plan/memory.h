// What every rank of a mesh holds in memory, by class, before anything runs. The needs of a model are plain numbers that
// train/model_memory.h measures by dry runs of the trainer's own code; plan_memory spreads them over the ranks as the tables
// of the mesh and of the pipeline schedule say, by the arena's rules. On one rank the plan is what a run allocates.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "plan/mesh.h"
#include "plan/pipeline.h"
#include "plan/rank_dispatch.h"

namespace rorqual {

enum class PlanMemory : uint8_t {
  kMasterWeights,     // FP32; a shard where several ranks hold the same tensors (ZeRO-1)
  kFp8Weights,        // copies laid out for the kernels, both ways
  kBf16Weights,       // the same, and the embedding where the master is cut
  kFullWeights,       // the same of the router; norms and routing biases where the master is cut
  kGradients,         // one accumulator for each lane that is live
  kMoments,           // sharded as the master
  kActivations,       // kept from forward to backward: residual stream, latents, routing
  kLinearInputs,      // kept inputs of linear layers; what dispatch brought
  kAttentionOutputs,  // kept inputs of the output projection
  kSwiGluInputs,      // kept
  kDeferred,          // operands of weight gradients that the schedule puts off
  kScratch,           // of the phases that run
  kLogits,            // of a chunk of rows
  kRoutedRows,        // rows on their way to and from experts of other ranks
  kCommunication,     // rings of dispatch and combine; the pipeline's messages
  kCache,             // latents of served sequences
  kEma,               // host: the averaged parameters
  kSnapshot,          // host: what a checkpoint is written from
};
inline constexpr int kPlanMemoryClasses = 18;
std::string_view plan_memory_name(PlanMemory c);  // "master weights"
std::string_view plan_memory_key(PlanMemory c);   // "master_weights", in JSON
// How long it lives: "run", "step", "micro-batch", "phase".
std::string_view plan_memory_lifetime(PlanMemory c);
bool is_host_memory(PlanMemory c);

struct MemoryBytes {
  std::array<int64_t, kPlanMemoryClasses> bytes{};

  int64_t& operator[](PlanMemory c) { return bytes[static_cast<size_t>(c)]; }
  int64_t operator[](PlanMemory c) const { return bytes[static_cast<size_t>(c)]; }
  MemoryBytes& operator+=(const MemoryBytes& other);
  MemoryBytes operator*(int64_t factor) const;
  int64_t device() const;
  int64_t host() const;
};

// Tensors that are held together: a block without its experts, one expert, the embedding, the head.
struct HeldTensors {
  int64_t elements = 0;  // of the master, alignment included
  MemoryBytes packed;    // the kernels' copies
  MemoryBytes unpacked;  // copies of what kernels read from the master itself: needed where it is cut
};

// One kind of block, for one micro-batch of the model's rows. Where rows of experts count, each rank's experts get as many
// rows as its micro-batch has choices.
struct BlockNeeds {
  struct Phase {
    std::string name;
    MemoryBytes saved;  // from forward to backward
  };
  std::string kind;  // "dense", "experts"
  HeldTensors dense, expert;
  std::vector<Phase> phases;
  MemoryBytes saved;  // of all phases
  int64_t forward_scratch = 0, backward_scratch = 0;
  int64_t scratch_with_head = 0;  // the most while a stage runs that has such blocks and the head
  int64_t deferred = 0;           // what the weight gradients need beside what is saved
  // Of one more row of the experts.
  MemoryBytes saved_per_row;
  int64_t forward_scratch_per_row = 0, backward_scratch_per_row = 0;
};

struct ModelNeeds {
  int64_t hidden = 0, experts = 0, top_k = 0, mtp_modules = 0;
  int64_t rows = 0;  // of a micro-batch
  int64_t master_element_bytes = 4, gradient_element_bytes = 4, moment_element_bytes = 2;
  std::vector<BlockNeeds> kinds;
  std::vector<int> kind_of_layer;  // [layers]

  HeldTensors embedding;
  HeldTensors head;        // with the final norm; of a tied model the kernels' copies alone
  HeldTensors mtp;         // all modules, their experts not counted
  HeldTensors mtp_expert;  // one expert of each module
  // Elements of gradient accumulators beside the tensors' own: further uses of embedding and head, all where the head is.
  int64_t embedding_uses_elements = 0, head_uses_elements = 0;
  MemoryBytes head_saved;  // of a micro-batch: final norm, losses, MTP modules
  int64_t logits = 0;
  int64_t residual_bytes = 0;           // a micro-batch's residual stream
  int64_t residual_gradient_bytes = 0;  // its gradient
  int64_t positions_bytes = 0;          // rotary table
  int64_t cache_bytes_per_token = 0;    // of one layer
  bool fp8 = false;                     // dispatch sends codes
  bool averages = false;                // EMA is kept

  int64_t layers() const { return static_cast<int64_t>(kind_of_layer.size()); }
};

struct MemoryPlanRequest {
  Mesh mesh = {};
  PipelineKind schedule = PipelineKind::k1F1B;
  int64_t micro_batches = 1;  // of a step and a batch coordinate, both directions together
  int64_t grad_lanes = 1, expert_lane_group = 1;
  int64_t cache_tokens = 0;               // served at once by a rank
  std::vector<int64_t> stage_begin = {};  // [stages + 1]; empty: even_stages
};

// Ranks of one pipeline coordinate hold the same; where a shard is a few elements longer, the longest is given.
struct RankMemory {
  int64_t pp_i = 0;
  std::vector<int64_t> stages, layers;  // layers: of each stage
  MemoryBytes expected;                 // each expert group's rows are spread evenly
  int64_t row_bytes = 0;                // of `expected`: what grows with the rows that its experts get
  int64_t expected_rows = 0;            // of a micro-batch
  int64_t worst_rows = 0;               // every token of the group chooses this rank's experts
  int64_t worst_layer_bytes = 0;        // with worst_rows in one layer of one micro-batch, beyond `expected`
  int64_t worst_bytes = 0;              // with worst_rows in all of them, beyond `expected`
  int64_t peak_activations = 0;         // chunks alive at once

  // How far the rows of this rank may exceed the mean, in all layers and micro-batches, until `device_bytes` are full; 0 if
  // even the rest does not fit. Infinite where nothing depends on them.
  double load_that_fits(int64_t device_bytes) const;
};

struct MemoryPlan {
  std::vector<RankMemory> ranks;  // [pp]
  const RankMemory& largest() const;
};

// Error (usage) that names the rule: what plan/mesh.h and plan/pipeline.h refuse; tp above 1; more stages than layers; lanes
// that do not divide over the mesh and the schedule's directions.
MemoryPlan plan_memory(const ModelNeeds& needs, const MemoryPlanRequest& request);

// How stages lie on ranks under a schedule.
StageLayout stage_layout(PipelineKind kind);

// The ring buffers of dispatch and combine on one rank (spec 5.2), for the larger of the two rows.
int64_t dispatch_ring_bytes(const Mesh& mesh, int64_t row_bytes);

}  // namespace rorqual
