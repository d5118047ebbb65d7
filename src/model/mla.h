// Multi-head latent attention (spec 1.3): keys and values expanded from the latent, the form of training; or attention over the
// latents themselves with the up-projections absorbed into queries and outputs, the form of inference, for every position.
#pragma once

#include "model/attention_layer.h"

namespace rorqual {

class Mla : public AttentionLayer {
 public:
  Mla(const ModelConfig& config, Weights& weights, int64_t layer);
  void forward(const Pass& p, BlockState& s) const override;
  void input_gradient(const Pass& p, BlockState& s) const override;
  void weight_gradient(const Pass& p, BlockState& s) const override;
  int64_t cache_width() const override { return config_.kv_lora_rank + config_.qk_rope_head_dim; }
  AbsorbedWeights absorb(DType dtype, Arena& arena, std::vector<PackWeightArgs>& packing) const override;

 private:
  void norm_input(const Pass& p, BlockState& s, Arena& arena) const;
  void expand(const Pass& p, BlockState& s, Arena& arena) const;
  void make_queries(const Pass& p, BlockState& s, Arena& arena) const;
  void paged_forward(const Pass& p, BlockState& s) const;
  Tensor absorbed_queries(const Pass& p, const BlockState& s) const;
  void rotate(const Pass& p, const BlockState& s, const Tensor& q, const Tensor& k_rope, bool inverse) const;
  AttentionShape shape() const;

  const ModelConfig& config_;
  Tensor norm_, q_norm_, kv_norm_, kv_up_master_;
  size_t norm_tensor_ = 0, q_norm_tensor_ = 0, kv_norm_tensor_ = 0;
  const Linear* down_ = nullptr;  // q_a (or q) | kv_a
  const Linear* q_up_ = nullptr;  // q_b, absent without query LoRA
  const Linear* kv_up_ = nullptr;
  const Linear* out_ = nullptr;
  int64_t q_cols_ = 0;  // of down's output that belong to the query
};

}  // namespace rorqual
