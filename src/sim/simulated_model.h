// What the simulator needs to know of a model: which blocks it has, and for each the products, passes over memory and rows on
// links that one token costs, phase by phase (design, idea 1: attention, dispatch, experts, combine).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/rank_dispatch.h"

namespace rorqual {

struct ModelConfig;
struct Recipe;

// Rows of a phase are tokens, or (routed) the rows that reach experts.
struct SimulatedProduct {
  int64_t n = 0, k = 0;  // [rows, k] · [n, k]ᵀ
  bool fp8 = false;
  bool routed = false;  // by experts, each its own rows
};

// Bytes that pass between a device's memory and its processors beside the operands of products, per token and routed row.
struct SimulatedPasses {
  double per_token = 0, per_row = 0;
  int kernels = 0;
};

// One phase that computes. The backward products are the forward's twice: input gradient and weight gradient.
struct SimulatedPhase {
  std::vector<SimulatedProduct> products;
  std::vector<SimulatedProduct> recomputed;  // forward products that backward repeats
  double attention_forward_per_key = 0;      // floating-point operations per token and key that it attends to
  double attention_backward_per_key = 0;
  SimulatedPasses forward, input_gradient, weight_gradient;
};

struct SimulatedBlock {
  std::string name;  // "dense", "experts", "embedding", "head", "mtp"
  SimulatedPhase attention, mlp;
  bool routed = false;            // rows travel to experts before `mlp` and back behind it
  int64_t dense_parameters = 0;   // trained on every rank
  int64_t expert_parameters = 0;  // of all experts together
};

struct SimulatedModel {
  std::string name;
  int64_t hidden = 0, sequence_length = 0;
  int64_t layers = 0, experts = 0, top_k = 0, groups = 1, topk_groups = 1;
  SimulatedBlock embedding;
  std::vector<SimulatedBlock> layer;  // [layers]
  std::vector<SimulatedBlock> tail;   // behind the last layer: head, then for each MTP module its projection, block and head
  RowBytes dispatch_row, combine_row;
  // Per trained token, as DeepSeek counts them: three times forward, without recompute, MTP modules and routers (what its
  // published speed and MFU mean together). Causal attention counts the keys that a token attends to, non-causal all of the
  // sequence.
  double flops_causal = 0, flops_non_causal = 0;
};

// fp8: linear layers of the blocks in FP8 (spec 2.1), else BF16. recompute: as the recipe's key (report §3.2.3).
SimulatedModel simulated_model(const ModelConfig& config, int64_t sequence_length, bool fp8, bool recompute);
SimulatedModel simulated_model(const Recipe& recipe);  // as the recipe trains it

// The blocks of stage `stage`: embedding before the first layer, tail behind the last. stage_begin: [stages + 1] (plan/mesh.h).
std::vector<const SimulatedBlock*> stage_blocks(const SimulatedModel& model, const std::vector<int64_t>& stage_begin,
                                                int64_t stage);

}  // namespace rorqual
