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

  // Inference: elements of a cache row, and what else of the weights it takes, allocated in `arena` and packed by `packing`.
  virtual int64_t cache_width() const = 0;
  virtual AbsorbedWeights absorb(DType, Arena&, std::vector<PackWeightArgs>&) const { return {}; }

 protected:
  // What both kinds do with the heads' output o [rows, cols] in the compute type: where attention writes it; what is kept of it
  // and s.h = s.x + o · Wᵀ; and in backward, attention.d_out from s.d, and the gradient of o.
  static Tensor attention_output(const Pass& p, BlockState& s, int64_t cols);
  static void project_output(const Pass& p, BlockState& s, const Tensor& o, const Linear& out);
  static Tensor output_gradient(const Pass& p, BlockState& s, const Linear& out);
};

std::unique_ptr<AttentionLayer> make_attention_layer(const ModelConfig& config, Weights& weights, int64_t layer);

}  // namespace rorqual
