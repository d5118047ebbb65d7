#include "model/attention_layer.h"

#include "model/gqa.h"
#include "model/mla.h"
#include "model/ops.h"

namespace rorqual {

Tensor AttentionLayer::attention_output(const Pass& p, BlockState& s, int64_t cols) {
  const bool cached_as_it_is = p.precision.attention_cache == p.precision.compute;
  return compute_tensor(p, cached_as_it_is ? *s.saved : *s.scratch, s.x.rows, cols, MemoryClass::kAttentionOutputs);
}

void AttentionLayer::project_output(const Pass& p, BlockState& s, const Tensor& o, const Linear& out) {
  if (p.precision.attention_cache == p.precision.compute) {
    s.attention.o = o;
  } else if (p.training) {
    s.attention.o = scaled_tensor(*s.saved, MemoryClass::kAttentionOutputs, p.precision.attention_cache, o.rows, o.cols);
    quantise({o, s.attention.o, quantiser_of(p, s, QuantisedTensor::kAttentionOutputCache)}, *p.stream);
  }
  s.h = residual_tensor(p, *s.saved, s.x.rows, s.x.cols);
  copy(p, s.x, s.h);
  project(p, as_operand(p, s, o, p.precision.operand, QuantisedTensor::kAttentionOutput), out.forward, s.h, true);
}

Tensor AttentionLayer::output_gradient(const Pass& p, BlockState& s, const Linear& out) {
  s.attention.d_out = quantised(p, s, *s.scratch, s.d, p.precision.gradient, QuantisedTensor::kAttentionOutputGradient);
  const Tensor d_o = compute_tensor(p, *s.scratch, s.d.rows, out.k);
  project(p, s.attention.d_out, out.backward, d_o);
  return d_o;
}

std::unique_ptr<AttentionLayer> make_attention_layer(const ModelConfig& config, Weights& weights, int64_t layer) {
  if (config.is_mla()) return std::make_unique<Mla>(config, weights, layer);
  return std::make_unique<Gqa>(config, weights, layer);
}

}  // namespace rorqual
