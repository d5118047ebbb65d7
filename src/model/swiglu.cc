#include "model/swiglu.h"

#include "kernels/swiglu/swiglu.h"

namespace rorqual {

Tensor SwiGlu::input(int64_t rows) const {
  return compute_tensor(p_, cached_as_it_is() ? *s_.saved : *s_.scratch, rows, 2 * width_, MemoryClass::kSwiGluInputs);
}

void SwiGlu::forward(const Tensor& gate_up, const Tensor& weight, ScaledTensor& kept, ScaledTensor& hidden) const {
  const auto [cache_class, hidden_class] = experts_
                                               ? std::pair{QuantisedTensor::kExpertGateUpCache, QuantisedTensor::kExpertHidden}
                                               : std::pair{QuantisedTensor::kGateUpCache, QuantisedTensor::kHidden};
  hidden = operand_tensor(p_, s_.kept(recomputed()), gate_up.rows, width_);
  ScaledTensor cache;
  if (cached_as_it_is())
    kept = gate_up;
  else if (p_.training)
    kept = cache = scaled_tensor(*s_.saved, MemoryClass::kSwiGluInputs, p_.precision.swiglu_cache, gate_up.rows, 2 * width_);
  swiglu_forward({gate_up, weight, hidden, quantiser_of(p_, s_, hidden_class), cache, quantiser_of(p_, s_, cache_class)},
                 *p_.stream);
}

void SwiGlu::recompute(const ScaledTensor& kept, const Tensor& weight, ScaledTensor& hidden) const {
  if (!recomputed()) return;
  hidden = operand_tensor(p_, *s_.scratch, kept.rows(), width_);
  swiglu_forward(
      {kept, weight, hidden, quantiser_of(p_, s_, experts_ ? QuantisedTensor::kExpertHidden : QuantisedTensor::kHidden)},
      *p_.stream);
}

ScaledTensor SwiGlu::backward(const ScaledTensor& kept, const Tensor& weight, const Tensor& d_hidden,
                              const Tensor& d_weight) const {
  const ScaledTensor d_gate_up =
      scaled_tensor(*s_.scratch, MemoryClass::kScratch, p_.precision.gradient, kept.rows(), 2 * width_);
  swiglu_backward({kept, weight, d_hidden, d_gate_up, d_weight,
                   quantiser_of(p_, s_, experts_ ? QuantisedTensor::kExpertGateUpGradient : QuantisedTensor::kGateUpGradient)},
                  *p_.stream);
  return d_gate_up;
}

}  // namespace rorqual
