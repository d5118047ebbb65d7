// Grouped-query attention as LLaMA and DeepSeek LLM have it: rotate-half RoPE on the whole head.
#pragma once

#include "model/attention_layer.h"

namespace rorqual {

class Gqa : public AttentionLayer {
 public:
  Gqa(const ModelConfig& config, Weights& weights, int64_t layer);
  void forward(const Pass& p, BlockState& s) const override;
  void input_gradient(const Pass& p, BlockState& s) const override;
  void weight_gradient(const Pass& p, BlockState& s) const override;
  int64_t cache_width() const override { return 2 * kv_cols_; }

 private:
  void norm_input(const Pass& p, BlockState& s, Arena& arena) const;
  void rotate(const Pass& p, const BlockState& s, const Tensor& qkv, bool inverse) const;
  AttentionShape shape() const;

  const ModelConfig& config_;
  Tensor norm_;
  size_t norm_tensor_ = 0;
  const Linear* qkv_ = nullptr;
  const Linear* out_ = nullptr;
  int64_t dim_ = 0, q_cols_ = 0, kv_cols_ = 0;
};

}  // namespace rorqual
