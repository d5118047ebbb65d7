#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "kernels/elementwise/elementwise.h"

namespace rorqual {

Optimizer::Optimizer(Weights& weights, const AdamWSettings& settings, Arena& arena) : weights_(weights), settings_(settings) {
  const DType moments = weights.precision().moments;
  auto make = [&](const Tensor& like) { return arena.tensor(MemoryClass::kMoments, moments, 1, like.count()); };
  dense_m_ = make(weights.dense());
  dense_v_ = make(weights.dense());
  expert_m_ = make(weights.expert());
  expert_v_ = make(weights.expert());
}

GradientNorm Optimizer::gradient_norm(const GradientBuffer& gradients, const Stream& stream) const {
  GradientNorm result;
  double sum = 0, most = -1;
  for (size_t i = 0; i < weights_.list().size(); ++i) {
    if (!weights_.list()[i].trainable()) continue;
    const Tensor g = gradients.of(i);
    const double square = squared_norm({g.data, g.dtype, 1, g.count()}, stream);
    if (!std::isfinite(square) && result.not_finite.empty()) result.not_finite = weights_.list()[i].name;
    if (square > most) most = square, result.largest = weights_.list()[i].name;
    sum += square;
  }
  result.norm = std::sqrt(sum);
  return result;
}

AdamWTensor Optimizer::update_of(const GradientBuffer& gradients, size_t tensor) const {
  const TensorSpec& s = weights_.list()[tensor];
  const auto flat = [&](const Tensor& t) { return Tensor(t.data, t.dtype, 1, s.count()); };
  const bool expert = s.in_expert_region();
  return {flat(weights_.master(tensor)), flat(gradients.of(tensor)),
          (expert ? expert_m_ : dense_m_).col_range(s.offset, s.count()),
          (expert ? expert_v_ : dense_v_).col_range(s.offset, s.count()), s.decayed() ? settings_.weight_decay : 0};
}

void Optimizer::step(const GradientBuffer& gradients, double norm, double learning_rate, int64_t step, const Stream& stream) {
  // Of master values; with gradients and moments three times as much, about what the last-level cache holds for two cores.
  constexpr int64_t kGroupBytes = int64_t{1} << 20;
  AdamWArgs args;
  args.lr = learning_rate;
  args.beta1 = settings_.beta1;
  args.beta2 = settings_.beta2;
  args.eps = settings_.eps;
  args.grad_scale = std::min(1.0, settings_.clip_norm / (norm + 1e-6));
  args.step = step;
  for (const Weights::UpdateGroup& group : weights_.update_groups(kGroupBytes)) {
    std::vector<AdamWTensor> tensors;
    for (const size_t t : group.tensors) tensors.push_back(update_of(gradients, t));
    args.tensors = tensors;
    adamw(args, stream);
    pack_weights(group.packing, stream);
  }
}

void update_routing_bias(const Tensor& bias, const std::vector<int64_t>& load, double speed) {
  CHECK(bias.count() == static_cast<int64_t>(load.size()));
  int64_t sum = 0;
  for (const int64_t n : load) sum += n;
  const auto experts = static_cast<int64_t>(load.size());
  visit_float(bias.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* b = static_cast<T*>(bias.data);
    for (size_t i = 0; i < load.size(); ++i) {
      const int64_t excess = load[i] * experts - sum;  // load − mean, without rounding
      if (excess != 0)
        b[i] = static_cast<T>(static_cast<compute_t<T>>(b[i]) - static_cast<compute_t<T>>(excess > 0 ? speed : -speed));
    }
  });
}

}  // namespace rorqual
