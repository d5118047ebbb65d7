#include "train/model_memory.h"

#include <cstdlib>

#include "base/error.h"
#include "model/model.h"
#include "model/ops.h"
#include "model/rope_table.h"
#include "train/gradients.h"

namespace rorqual {
namespace {

constexpr std::array<std::pair<MemoryClass, PlanMemory>, 4> kSaved = {{
    {MemoryClass::kActivations, PlanMemory::kActivations},
    {MemoryClass::kLinearInputs, PlanMemory::kLinearInputs},
    {MemoryClass::kAttentionOutputs, PlanMemory::kAttentionOutputs},
    {MemoryClass::kSwiGluInputs, PlanMemory::kSwiGluInputs},
}};

using ClassBytes = std::array<int64_t, kMemoryClasses>;

int64_t of(const ClassBytes& bytes, MemoryClass c) {
  return bytes[static_cast<size_t>(c)];
}

MemoryBytes saved_between(const ClassBytes& before, const ClassBytes& after) {
  MemoryBytes saved;
  for (const auto& [from, to] : kSaved) saved[to] = of(after, from) - of(before, from);
  return saved;
}

MemoryBytes difference(const MemoryBytes& a, const MemoryBytes& b) {
  MemoryBytes d = b * -1;
  d += a;
  return d;
}

// As an arena gives it.
int64_t allocation(int64_t bytes) {
  return std::max<int64_t>((bytes + 63) / 64 * 64, 64);
}

PlanMemory class_of_copy(DType dtype) {
  return dtype == DType::kE4M3   ? PlanMemory::kFp8Weights
         : dtype == DType::kBF16 ? PlanMemory::kBf16Weights
                                 : PlanMemory::kFullWeights;
}

int64_t rows_of(const Recipe& r) {
  return r.train.micro_batch_sequences * r.train.sequence_length;
}

// The same model with one block.
ModelConfig one_block(const ModelConfig& config, bool moe) {
  ModelConfig c = config;
  c.num_hidden_layers = 1;
  c.first_k_dense_replace = moe ? 0 : 1;
  c.moe_layer_freq = 1;
  return c;
}

// A model that is only counted.
struct DryModel {
  DryModel(const Recipe& r, const ModelConfig& c)
      : config(c),
        arena(&use, Arena::Kind::kMeasure),
        weights(config, make_precision(r.formats), true, arena),
        model(config, weights, r.logical_nodes, arena),
        gradients(weights, config, 1, 1, arena) {}
  ModelConfig config;
  MemoryUse use;
  Arena arena;
  Weights weights;
  Model model;
  GradientAccumulators gradients;
};

// What a tensor is held with; null: an expert after the first.
HeldTensors* place_of(const TensorSpec& s, ModelNeeds& needs, BlockNeeds& block) {
  if (s.layer < 0) return s.role == Role::kEmbedding ? &needs.embedding : &needs.head;
  if (s.in_expert_region()) return s.expert > 0 ? nullptr : s.layer == 0 ? &block.expert : &needs.mtp_expert;
  return s.layer == 0 ? &block.dense : &needs.mtp;
}

// Fills `block`'s tensors, and those outside the layers anew.
void measure_tensors(const DryModel& m, ModelNeeds& needs, BlockNeeds& block) {
  needs.embedding = needs.head = needs.mtp = needs.mtp_expert = {};
  const TensorList& list = m.weights.list();
  const Precision& precision = m.weights.precision();
  std::vector<bool> read_from_master(list.size(), true);
  int64_t packed = 0;
  for (const Weights::UpdateGroup& group : m.weights.update_groups(1)) {
    for (const PackWeightArgs& p : group.packing) {
      const TensorSpec& first = list[group.tensors.front()];
      // A tied embedding is multiplied as the head.
      HeldTensors* place = first.role == Role::kEmbedding ? &needs.head : place_of(first, needs, block);
      for (const PackedWeight& w : {p.packed, p.transposed}) {
        int64_t bytes = allocation(PackedWeight::bytes(w.dtype, w.n, w.k));
        if (w.dtype == DType::kE4M3) bytes += allocation(PackedWeight::scale_count(w.n, w.k) * size_of(DType::kF32));
        packed += bytes;
        if (place != nullptr) place->packed[class_of_copy(w.dtype)] += bytes;
      }
      for (const size_t t : group.tensors) read_from_master[t] = list[t].role == Role::kEmbedding;
    }
  }
  CHECK(packed == of(m.use.now, MemoryClass::kPackedWeights), "{} bytes of packed weights found, {} held", packed,
        of(m.use.now, MemoryClass::kPackedWeights));
  std::array<int64_t, 2> end = {(list.dense_elements() + 15) / 16 * 16, (list.expert_elements() + 15) / 16 * 16};
  for (size_t i = list.size(); i-- > 0;) {
    const TensorSpec& s = list[i];
    int64_t& region_end = end[s.in_expert_region() ? 1 : 0];
    HeldTensors* place = place_of(s, needs, block);
    if (place != nullptr) {
      place->elements += region_end - s.offset;
      if (read_from_master[i]) {
        const DType copy = s.role == Role::kEmbedding ? precision.compute : precision.full;
        place->unpacked[class_of_copy(copy)] += allocation(s.count() * size_of(copy));
      }
    }
    region_end = s.offset;
  }
}

// What the weight gradients read that is neither saved nor computed again by them (the calls in model/).
int64_t deferred_bytes(const BlockState& s, bool recompute) {
  const AttentionState& a = s.attention;
  const MoeState& m = s.moe;
  int64_t bytes = s.d_u.bytes();
  for (const ScaledTensor* t : {&a.d_out, &a.d_q, &a.d_kv, &a.d_down, &s.mlp.d_out, &s.mlp.d_gate_up, &m.d_out, &m.d_gate_up,
                                &m.shared.d_out, &m.shared.d_gate_up})
    bytes += t->bytes();
  for (const Tensor* t : {&a.d_q_latent, &a.d_kv_latent, &a.d_in, &m.d_logits}) bytes += t->bytes();
  if (recompute)
    for (const ScaledTensor* t : {&a.q_latent, &a.kv_latent}) bytes += t->bytes();
  return bytes;
}

// A dry run of one block, phase by phase, forward and backward.
BlockNeeds measure_block(const Recipe& r, const ModelConfig& config) {
  const Stream dry = Stream::dry();
  MemoryUse weights_use;
  Arena arena(&weights_use, Arena::Kind::kMeasure);
  Weights weights(config, make_precision(r.formats), true, arena);
  const bool moe = config.is_moe_layer(0);
  const Placement placement = moe ? identity_placement(config.n_routed_experts, r.logical_nodes) : Placement{};
  const Block block(config, weights, 0, moe, placement);
  const GradientAccumulators gradients(weights, config, 1, 1, arena);
  const GradientBuffer buffer = gradients.buffer(0);
  Pass p;
  p.config = &config;
  p.precision = weights.precision();
  p.stream = &dry;
  p.training = true;
  p.recompute = r.recompute;
  p.gradients = &buffer;
  p.rope_table = make_rope_table(config, r.train.sequence_length, p.precision.full, arena, dry);

  MemoryUse use;
  Workspace work(&use, Arena::Kind::kMeasure);
  const RowLayout layout = uniform_layout(r.train.micro_batch_sequences, r.train.sequence_length);
  BlockState s;
  s.layout = &layout;
  s.saved = &work.saved;
  s.scratch = &work.scratch;
  s.x = residual_tensor(p, work.saved, layout.rows, config.hidden_size);
  BlockNeeds needs;
  needs.kind = moe ? "experts" : "dense";
  const ClassBytes begin = use.now;
  for (const auto& phase : block.phases()) {
    const ClassBytes before = use.now;
    phase->forward(p, s);
    needs.phases.push_back({std::string(phase->name()), saved_between(before, use.now)});
  }
  needs.saved = saved_between(begin, use.now);
  needs.forward_scratch = of(use.peak, MemoryClass::kScratch);
  work.scratch.release({});

  s.d = full_tensor(p, work.saved, layout.rows, config.hidden_size, MemoryClass::kScratch);
  use.peak = use.now;
  const int64_t base = of(use.now, MemoryClass::kScratch);
  for (auto phase = block.phases().rbegin(); phase != block.phases().rend(); ++phase) {
    (*phase)->input_gradient(p, s);
    (*phase)->weight_gradient(p, s);
  }
  needs.backward_scratch = of(use.peak, MemoryClass::kScratch) - base;
  needs.deferred = deferred_bytes(s, r.recompute);
  return needs;
}

// What one more row of the experts takes: the same block with one choice more or less for each token.
void measure_rows(const Recipe& r, const ModelConfig& config, BlockNeeds& needs) {
  ModelConfig other = config;
  other.num_experts_per_tok += config.num_experts_per_tok > 1 ? -1 : 1;
  const BlockNeeds changed = measure_block(r, other);
  const int64_t rows = rows_of(r) * (config.num_experts_per_tok - other.num_experts_per_tok);
  MemoryBytes saved;
  for (size_t i = 1; i < needs.phases.size(); ++i)  // the first, attention, ends with the router
    saved += difference(needs.phases[i].saved, changed.phases[i].saved);
  for (size_t c = 0; c < saved.bytes.size(); ++c) needs.saved_per_row.bytes[c] = saved.bytes[c] / rows;
  needs.forward_scratch_per_row = (needs.forward_scratch - changed.forward_scratch) / rows;
  needs.backward_scratch_per_row = (needs.backward_scratch - changed.backward_scratch) / rows;
}

// Forward and backward of a whole micro-batch through one block, head and MTP modules.
MemoryUse measure_micro_batch(const Recipe& r, const DryModel& m) {
  MemoryUse use;
  Workspace work(&use, Arena::Kind::kMeasure);
  MicroBatch batch;
  batch.sequences = r.train.micro_batch_sequences;
  batch.length = r.train.sequence_length;
  batch.tokens.resize(static_cast<size_t>(batch.sequences * (batch.length + 1)));
  m.model.train(batch, {}, m.gradients.buffer(0), r.recompute, work, Stream::dry());
  return use;
}

void measure_uses(const DryModel& m, ModelNeeds& needs) {
  const GradientLayout layout(m.weights.list(), m.config);
  for (const GradientUse& use : layout.extra_uses()) {
    const TensorSpec& s = m.weights.list()[use.tensor];
    (s.role == Role::kEmbedding ? needs.embedding_uses_elements : needs.head_uses_elements) += (s.count() + 15) / 16 * 16;
  }
}

void measure_kind(const Recipe& r, bool moe, ModelNeeds& needs) {
  const ModelConfig config = one_block(r.model, moe);
  BlockNeeds block = measure_block(r, config);
  if (moe) measure_rows(r, config, block);
  const DryModel m(r, config);
  measure_tensors(m, needs, block);
  const int64_t before = of(m.use.now, MemoryClass::kScratch);
  const MemoryUse use = measure_micro_batch(r, m);
  needs.positions_bytes = of(m.use.now, MemoryClass::kScratch) - before;
  block.scratch_with_head = of(use.peak, MemoryClass::kScratch);
  needs.head_saved = difference(saved_between({}, use.peak), block.saved);
  needs.head_saved[PlanMemory::kActivations] -= needs.residual_bytes;
  needs.logits = of(use.peak, MemoryClass::kLogits);
  if (needs.kinds.empty()) measure_uses(m, needs);
  needs.kinds.push_back(std::move(block));
}

}  // namespace

ModelNeeds model_needs(const Recipe& r) {
  const ModelConfig& c = r.model;
  const Precision precision = make_precision(r.formats);
  ModelNeeds needs;
  needs.hidden = c.hidden_size;
  needs.experts = c.n_routed_experts;
  needs.top_k = c.num_experts_per_tok;
  needs.mtp_modules = c.num_nextn_predict_layers;
  needs.rows = rows_of(r);
  needs.master_element_bytes = needs.gradient_element_bytes = size_of(precision.full);
  needs.moment_element_bytes = size_of(precision.moments);
  needs.residual_bytes = allocation(needs.rows * c.hidden_size * size_of(precision.residual));
  needs.residual_gradient_bytes = allocation(needs.rows * c.hidden_size * size_of(precision.full));
  needs.fp8 = precision.is_fp8();
  needs.averages = r.train.ema_decay > 0;
  const int64_t width = c.is_mla() ? c.kv_lora_rank + c.qk_rope_head_dim : 2 * c.kv_heads() * c.qk_head_dim();
  needs.cache_bytes_per_token = width * size_of(precision.compute);
  for (const bool moe : {false, true}) {
    bool some = false;
    for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) some |= c.is_moe_layer(layer) == moe;
    if (some) measure_kind(r, moe, needs);
  }
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer)
    needs.kind_of_layer.push_back(c.is_moe_layer(layer) ? static_cast<int>(needs.kinds.size()) - 1 : 0);
  return needs;
}

MemoryPlanRequest memory_plan_request(const Recipe& r, const Mesh& mesh, PipelineKind schedule) {
  check_mesh(mesh);
  const int64_t unit = r.train.micro_batch_sequences * mesh.batches();
  if (r.train.batch_sequences % unit != 0)
    fail_usage(
        "train.batch_sequences = {} is no multiple of micro_batch_sequences · (ranks with micro-batches of their own) = {} · "
        "{}",
        r.train.batch_sequences, r.train.micro_batch_sequences, mesh.batches());
  return {.mesh = mesh,
          .schedule = schedule,
          .micro_batches = r.train.batch_sequences / unit,
          .grad_lanes = r.grad_lanes,
          .expert_lane_group = r.expert_lane_group,
          .cache_tokens = 0};
}

}  // namespace rorqual
