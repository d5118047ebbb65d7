// One optimizer step over the tensor list: gradient norm, clipping, AdamW, and the routing bias that balances experts without a
// loss.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/adamw/adamw.h"
#include "model/weights.h"

namespace rorqual {

struct AdamWSettings {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.1;  // on matrices; norms are not decayed
  double clip_norm = 1.0;
};

struct GradientNorm {
  double norm = 0;
  std::string not_finite;  // the first tensor with a NaN or infinity; empty: none
  std::string largest;     // the tensor with the largest norm
};

class Optimizer {
 public:
  Optimizer(Weights& weights, const AdamWSettings& settings, Arena& arena);

  GradientNorm gradient_norm(const GradientBuffer& gradients, const Stream& stream) const;
  // `step` counts from 1. Updates the master weights and packs them, group by group. Gradients are scaled by min(1, clip /
  // (norm + 1e-6)).
  void step(const GradientBuffer& gradients, double norm, double learning_rate, int64_t step, const Stream& stream);

  // First and second moments, laid out as the master regions.
  Tensor dense_m() const { return dense_m_; }
  Tensor dense_v() const { return dense_v_; }
  Tensor expert_m() const { return expert_m_; }
  Tensor expert_v() const { return expert_v_; }

 private:
  AdamWTensor update_of(const GradientBuffer& gradients, size_t tensor) const;

  Weights& weights_;
  AdamWSettings settings_;
  Tensor dense_m_, dense_v_, expert_m_, expert_v_;
};

// b_i −= speed if load_i > mean, += speed if below (spec 1.5). load: tokens per expert of one block over the whole step.
void update_routing_bias(const Tensor& bias, const std::vector<int64_t>& load, double speed);

}  // namespace rorqual
