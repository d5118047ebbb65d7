// The attention of a block: multi-head latent attention (spec 1.3; report §2.1.1) or grouped-query attention (LLaMA).
#pragma once

#include "model/phase.h"

namespace rorqual {

// What AttentionPhase needs of either kind. s.h = s.x + attention(norm(s.x)).
class AttentionLayer {
 public:
  virtual ~AttentionLayer() = default;
  virtual void forward(const Pass& p, BlockState& s) const = 0;
  // s.d: gradient of s.h on entry, of s.x on exit.
  virtual void input_gradient(const Pass& p, BlockState& s) const = 0;
  virtual void weight_gradient(const Pass& p, BlockState& s) const = 0;
};

std::unique_ptr<AttentionLayer> make_attention_layer(const ModelConfig& config, Weights& weights, int64_t layer);

}  // namespace rorqual
