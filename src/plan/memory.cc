#include "plan/memory.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "base/error.h"

namespace rorqual {
namespace {

constexpr int64_t kAlignElements = 16;  // a shard of the master begins at a multiple

struct ClassFacts {
  std::string_view name, key, lifetime;
  bool host;
};
constexpr std::array<ClassFacts, kPlanMemoryClasses> kFacts = {{
    {"master weights", "master_weights", "run", false},
    {"FP8 weights", "fp8_weights", "run", false},
    {"BF16 weights", "bf16_weights", "run", false},
    {"other weights", "other_weights", "run", false},
    {"gradients", "gradients", "step", false},
    {"moments", "moments", "run", false},
    {"activations", "activations", "micro-batch", false},
    {"linear inputs", "linear_inputs", "micro-batch", false},
    {"attention outputs", "attention_outputs", "micro-batch", false},
    {"SwiGLU inputs", "swiglu_inputs", "micro-batch", false},
    {"deferred gradients", "deferred_gradients", "micro-batch", false},
    {"scratch", "scratch", "phase", false},
    {"logits", "logits", "phase", false},
    {"routed rows", "routed_rows", "phase", false},
    {"communication", "communication", "run", false},
    {"cache", "cache", "run", false},
    {"EMA (host)", "ema_host", "run", true},
    {"snapshot (host)", "snapshot_host", "run", true},
}};
const ClassFacts& facts(PlanMemory c) {
  return kFacts[static_cast<size_t>(c)];
}

// As an arena gives it (tensor/arena.h).
int64_t allocation(int64_t bytes) {
  return std::max<int64_t>((bytes + 63) / 64 * 64, 64);
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// The longest of `shards` shards.
int64_t longest_shard(int64_t elements, int64_t shards) {
  return std::min(elements, ceil_div(ceil_div(elements, kAlignElements), shards) * kAlignElements);
}

// How many accumulators a stage's tensors have (train/gradients.h): dense ones one for each lane of the open group, and a
// subtotal for each level of the tree; experts one for each group of lanes that reaches them at a time.
struct Accumulators {
  int64_t dense = 1, expert = 1;
};
Accumulators accumulators(const MemoryPlanRequest& r) {
  const int64_t directions = stage_layout(r.schedule) == StageLayout::kDualPipe ? 2 : 1;
  const IndexRange all = lanes_of(r.mesh, r.grad_lanes, 0);
  if (all.size() % directions != 0)
    fail_usage(
        "{} gradient lanes give each of the {} ranks with micro-batches of their own {}: the two directions of dualpipe need "
        "whole lanes each; raise grad_lanes to {}",
        r.grad_lanes, r.mesh.batches(), all.size(), r.grad_lanes * 2);
  const int64_t lanes = all.size() / directions, open = std::min(lanes, r.expert_lane_group), groups = lanes / open;
  const auto waiting = static_cast<int64_t>(std::bit_width(static_cast<uint64_t>(groups)));
  const int64_t sharing = std::min(r.mesh.ep, r.expert_lane_group / open);  // ranks whose lanes are in one group
  return {waiting + open - 1, waiting * (r.mesh.ep / sharing)};
}

struct Stage {
  HeldStage held;
  std::vector<int64_t> kinds;  // [kinds] layers of each
};

// What one rank's stages need, added up.
class RankPlanner {
 public:
  RankPlanner(const ModelNeeds& needs, const MemoryPlanRequest& request, const RankHoldings& held,
              const PipelineSchedule& table)
      : n_(needs), r_(request), table_(table), slots_(held.slots.size()) {
    for (const HeldStage& h : held.stages) {
      Stage s{h, std::vector<int64_t>(n_.kinds.size())};
      for (int64_t layer = h.layers.begin; layer < h.layers.end; ++layer)
        ++s.kinds[static_cast<size_t>(n_.kind_of_layer[static_cast<size_t>(layer)])];
      stages_.push_back(std::move(s));
      out_.stages.push_back(h.stage);
      out_.layers.push_back(h.layers.size());
    }
    out_.pp_i = held.place.pp_i;
  }

  RankMemory plan() {
    tensors();
    if (n_.experts > 0) {
      out_.expected_rows = n_.rows * n_.top_k;
      out_.worst_rows = n_.rows * r_.mesh.ep * std::min(n_.top_k, slots_);
    }
    micro_batches();
    messages();
    for (const Stage& s : stages_)
      out_.expected[PlanMemory::kCache] += r_.cache_tokens * n_.cache_bytes_per_token * s.held.layers.size();
    return out_;
  }

 private:
  bool holds_embedding() const {
    return std::any_of(stages_.begin(), stages_.end(), [](const Stage& s) { return s.held.embedding; });
  }

  void tensors() {
    const Accumulators lanes = accumulators(r_);
    int64_t master = 0, moments = 0;
    for (const Stage& s : stages_) {
      HeldTensors dense, expert;
      const auto add = [](HeldTensors& sum, const HeldTensors& part, int64_t times) {
        sum.elements += part.elements * times;
        sum.packed += part.packed * times;
        sum.unpacked += part.unpacked * times;
      };
      for (size_t k = 0; k < s.kinds.size(); ++k) {
        add(dense, n_.kinds[k].dense, s.kinds[k]);
        add(expert, n_.kinds[k].expert, s.kinds[k] * slots_);
      }
      int64_t uses = 0;
      if (s.held.embedding) add(dense, n_.embedding, 1);
      if (s.held.head) {
        add(dense, n_.head, 1);
        add(dense, n_.mtp, 1);
        add(expert, n_.mtp_expert, slots_);
        uses = n_.embedding_uses_elements + n_.head_uses_elements;
        // MTP modules read the embedding: a copy where it is not on this rank anyway.
        if (n_.mtp_modules > 0 && !holds_embedding()) out_.expected += n_.embedding.unpacked;
      }
      out_.expected += dense.packed;
      out_.expected += expert.packed;
      if (s.held.dense_shards > 1) out_.expected += dense.unpacked;
      for (const auto& [tensors, shards, accumulated, extra] : {std::tuple{&dense, s.held.dense_shards, lanes.dense, uses},
                                                                {&expert, s.held.expert_shards, lanes.expert, int64_t{0}}}) {
        const int64_t shard = longest_shard(tensors->elements, shards);
        out_.expected[PlanMemory::kGradients] +=
            accumulated * allocation((tensors->elements + extra) * n_.gradient_element_bytes);
        out_.expected[PlanMemory::kMasterWeights] += allocation(shard * n_.master_element_bytes);
        out_.expected[PlanMemory::kMoments] += 2 * allocation(shard * n_.moment_element_bytes);
        if (n_.averages) out_.expected[PlanMemory::kEma] += allocation(shard * n_.master_element_bytes);
        master += shard * n_.master_element_bytes;
        moments += 2 * shard * n_.moment_element_bytes;
      }
    }
    out_.expected[PlanMemory::kSnapshot] = allocation(master * (n_.averages ? 2 : 1) + moments);
  }

  struct StageUse {
    MemoryBytes saved, saved_per_row;
    int64_t forward = 0, backward = 0, deferred = 0;  // scratch; operands that wait
    int64_t forward_per_row = 0, backward_per_row = 0;
  };
  StageUse use_of(const Stage& s) const {
    StageUse u;
    u.saved[PlanMemory::kActivations] = n_.residual_bytes;
    for (size_t k = 0; k < s.kinds.size(); ++k) {
      if (s.kinds[k] == 0) continue;
      const BlockNeeds& b = n_.kinds[k];
      u.saved += b.saved * s.kinds[k];
      u.saved_per_row += b.saved_per_row * s.kinds[k];
      u.deferred += b.deferred * s.kinds[k];
      u.forward = std::max(u.forward, s.held.head ? b.scratch_with_head : b.forward_scratch);
      u.backward = std::max(u.backward, s.held.head ? b.scratch_with_head : n_.residual_gradient_bytes + b.backward_scratch);
      u.forward_per_row = std::max(u.forward_per_row, b.forward_scratch_per_row);
      u.backward_per_row = std::max(u.backward_per_row, b.backward_scratch_per_row);
    }
    if (s.held.head) {
      u.saved += n_.head_saved;
      if (n_.mtp_modules > 0) u.saved_per_row += n_.kinds.back().saved_per_row * n_.mtp_modules;
    }
    return u;
  }

  // Walks the schedule: what is alive at each of its computations, class by class.
  void micro_batches() {
    std::vector<StageUse> use;
    for (const Stage& s : stages_) use.push_back(use_of(s));
    std::vector<int64_t> live(use.size()), deferred(use.size());
    MemoryBytes peak;
    int64_t rows_peak = 0, scratch_rows = 0;
    for (const PipelineAction& action : table_.ranks[static_cast<size_t>(out_.pp_i)]) {
      if (!action.is_compute()) continue;
      const bool forward = action.kind == PipelineActionKind::kForward || action.kind == PipelineActionKind::kForwardBackward;
      const auto module = static_cast<size_t>(action.chunk.direction);
      const auto back = static_cast<size_t>(action.backward_chunk().direction);
      int64_t scratch = 0, per_row = 0;
      if (forward) {
        ++live[module];
        scratch += use[module].forward;
        per_row += use[module].forward_per_row;
      }
      if (action.kind != PipelineActionKind::kForward) {
        scratch += use[back].backward;
        per_row += use[back].backward_per_row;
      }
      if (action.kind == PipelineActionKind::kInputGradient) ++deferred[back];
      MemoryBytes now, rows;
      for (size_t m = 0; m < use.size(); ++m) {
        now += use[m].saved * live[m];
        rows += use[m].saved_per_row * live[m];
        now[PlanMemory::kDeferred] += use[m].deferred * deferred[m];
      }
      now[PlanMemory::kScratch] = scratch;
      for (size_t c = 0; c < now.bytes.size(); ++c) peak.bytes[c] = std::max(peak.bytes[c], now.bytes[c]);
      rows_peak = std::max(rows_peak, rows.device());
      scratch_rows = std::max(scratch_rows, per_row);
      out_.peak_activations = std::max(out_.peak_activations, std::accumulate(live.begin(), live.end(), int64_t{0}));
      if (action.kind == PipelineActionKind::kWeightGradient) --deferred[back];
      if (action.kind != PipelineActionKind::kForward && action.kind != PipelineActionKind::kInputGradient) --live[back];
    }
    peak[PlanMemory::kScratch] += n_.positions_bytes;
    out_.expected += peak;
    for (const Stage& s : stages_)
      if (s.held.head) out_.expected[PlanMemory::kLogits] = n_.logits;
    const int64_t travelling = travelling_row_bytes();
    out_.expected[PlanMemory::kRoutedRows] = travelling * out_.expected_rows;
    const int64_t per_row = rows_peak + scratch_rows + travelling, more = out_.worst_rows - out_.expected_rows;
    int64_t one_layer = 0;
    for (const BlockNeeds& b : n_.kinds) one_layer = std::max(one_layer, b.saved_per_row.device());
    out_.row_bytes = per_row * out_.expected_rows;
    out_.worst_bytes = per_row * more;
    out_.worst_layer_bytes = (one_layer + scratch_rows + travelling) * more;
  }

  // Of a row that comes from another rank and goes back: what dispatch brings, and the experts' sum for combine. A forward and
  // a backward that overlap have rows on their way at once.
  int64_t travelling_row_bytes() const {
    if (n_.experts == 0 || r_.mesh.ep == 1) return 0;
    const RowBytes sent = n_.fp8 ? fp8_dispatch_row(n_.hidden, n_.top_k) : bf16_combine_row(n_.hidden);
    const bool overlapped = r_.schedule == PipelineKind::kDualPipe || r_.schedule == PipelineKind::kDualPipeV;
    return (sent.total() + bf16_combine_row(n_.hidden).total()) * (overlapped ? 2 : 1);
  }

  void messages() {
    int64_t bytes = 0;
    if (n_.experts > 0)
      bytes += dispatch_ring_bytes(
          r_.mesh, std::max(fp8_dispatch_row(n_.hidden, n_.top_k).total(), bf16_combine_row(n_.hidden).total() + 4 * n_.top_k));
    // Of each module: an activation and a gradient that come, and those that go.
    if (r_.mesh.pp > 1) bytes += 4 * n_.residual_bytes * static_cast<int64_t>(stages_.size());
    out_.expected[PlanMemory::kCommunication] = bytes;
  }

  const ModelNeeds& n_;
  const MemoryPlanRequest& r_;
  const PipelineSchedule& table_;
  int64_t slots_;
  std::vector<Stage> stages_;
  RankMemory out_;
};

}  // namespace

std::string_view plan_memory_name(PlanMemory c) {
  return facts(c).name;
}
std::string_view plan_memory_key(PlanMemory c) {
  return facts(c).key;
}
std::string_view plan_memory_lifetime(PlanMemory c) {
  return facts(c).lifetime;
}
bool is_host_memory(PlanMemory c) {
  return facts(c).host;
}

MemoryBytes& MemoryBytes::operator+=(const MemoryBytes& other) {
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] += other.bytes[i];
  return *this;
}
MemoryBytes MemoryBytes::operator*(int64_t factor) const {
  MemoryBytes out = *this;
  for (int64_t& b : out.bytes) b *= factor;
  return out;
}
int64_t MemoryBytes::device() const {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0}) - host();
}
int64_t MemoryBytes::host() const {
  return (*this)[PlanMemory::kEma] + (*this)[PlanMemory::kSnapshot];
}

double RankMemory::load_that_fits(int64_t device_bytes) const {
  const int64_t rest = expected.device() - row_bytes;
  if (rest > device_bytes) return 0;
  if (row_bytes == 0) return std::numeric_limits<double>::infinity();
  return static_cast<double>(device_bytes - rest) / static_cast<double>(row_bytes);
}

const RankMemory& MemoryPlan::largest() const {
  return *std::max_element(ranks.begin(), ranks.end(),
                           [](const RankMemory& a, const RankMemory& b) { return a.expected.device() < b.expected.device(); });
}

StageLayout stage_layout(PipelineKind kind) {
  return kind == PipelineKind::kDualPipe    ? StageLayout::kDualPipe
         : kind == PipelineKind::kDualPipeV ? StageLayout::kDualPipeV
                                            : StageLayout::kSingle;
}

int64_t dispatch_ring_bytes(const Mesh& mesh, int64_t row_bytes) {
  constexpr int64_t kChannels = 10;  // 20 SMs, two of them a channel (report §3.2.2)
  if (mesh.ep == 1) return 0;
  const int64_t nodes = ceil_div(mesh.ep, mesh.ranks_per_node), slot = (row_bytes + 15) / 16 * 16;
  if (nodes == 1) return kChannels * mesh.ep * 256 * slot;
  const int64_t inside = mesh.ep > 64 ? 560 : 288;
  // A ring to send and one to receive for each node; one for each GPU of the own node.
  return kChannels * (2 * nodes * 128 + mesh.ranks_per_node * inside) * slot;
}

MemoryPlan plan_memory(const ModelNeeds& needs, const MemoryPlanRequest& request) {
  const Mesh& mesh = request.mesh;
  check_mesh(mesh);
  if (mesh.tensor != 1) fail_usage("tp={}: training has no tensor parallelism, the memory plan neither", mesh.tensor);
  const StageLayout layout = stage_layout(request.schedule);
  const int64_t stages = stage_count(layout, mesh.pp);
  if (stages > needs.layers())
    fail_usage("pp={} with {} makes {} stages, the model has {} layers: every stage needs one", mesh.pp,
               pipeline_kind_name(request.schedule), stages, needs.layers());
  if (needs.experts == 0 && mesh.ep > 1) fail_usage("ep={}: the model has no experts; use dp", mesh.ep);
  if (needs.experts > 0 && needs.experts % mesh.ep != 0)
    fail_usage("ep={} does not divide the model's {} experts", mesh.ep, needs.experts);
  const PipelineShape shape{
      .kind = request.schedule, .ranks = static_cast<int>(mesh.pp), .micro_batches = static_cast<int>(request.micro_batches)};
  const PipelineSchedule table = make_pipeline_schedule(shape);
  const std::vector<int64_t> begin = request.stage_begin.empty() ? even_stages(needs.layers(), stages) : request.stage_begin;
  MemoryPlan plan;
  for (int64_t pp_i = 0; pp_i < mesh.pp; ++pp_i) {
    const RankHoldings held =
        holdings_of(mesh, layout, begin, needs.experts > 0 ? needs.experts : mesh.ep, rank_of(mesh, {.pp_i = pp_i}));
    plan.ranks.push_back(RankPlanner(needs, request, held, table).plan());
  }
  return plan;
}

}  // namespace rorqual
