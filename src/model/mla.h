// Multi-head latent attention, keys and values expanded from the latent (the form of training; spec 1.3).
#pragma once

#include "model/attention_layer.h"

namespace rorqual {

class Mla : public AttentionLayer {
 public:
  Mla(const ModelConfig& config, Weights& weights, int64_t layer);
  void forward(const Pass& p, BlockState& s) const override;
  void input_gradient(const Pass& p, BlockState& s) const override;
  void weight_gradient(const Pass& p, BlockState& s) const override;

 private:
  void norm_input(const Pass& p, BlockState& s, Arena& arena) const;
  void expand(const Pass& p, BlockState& s, Arena& arena) const;
  void rotate(const Pass& p, const BlockState& s, const Tensor& q, const Tensor& k_rope, bool inverse) const;
  AttentionShape shape() const;

  const ModelConfig& config_;
  Tensor norm_, q_norm_, kv_norm_;
  size_t norm_tensor_ = 0, q_norm_tensor_ = 0, kv_norm_tensor_ = 0;
  const Linear* down_ = nullptr;  // q_a (or q) | kv_a
  const Linear* q_up_ = nullptr;  // q_b, absent without query LoRA
  const Linear* kv_up_ = nullptr;
  const Linear* out_ = nullptr;
  int64_t q_cols_ = 0;  // of down's output that belong to the query
};

}  // namespace rorqual
