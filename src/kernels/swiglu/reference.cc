// The scalar truth of SwiGLU, in FP32 (double for F64). The sum of d_weight runs in ascending order of columns.
#include <cmath>

#include "kernels/swiglu/kernels.h"

namespace rorqual::swiglu_reference {
namespace {

// sigmoid(x) and 1 − sigmoid(x), each to relative accuracy: exp never overflows and nothing cancels.
template <class C>
struct Sigmoid {
  C value, complement;
};
template <class C>
Sigmoid<C> sigmoid(C x) {
  const C e = std::exp(-std::abs(x));
  const C large = C(1) / (C(1) + e), small = e * large;
  return x < C(0) ? Sigmoid<C>{small, large} : Sigmoid<C>{large, small};
}

template <class X, class Y>
void forward_row(const X* gates, const X* ups, compute_t<X> weight, Y* h, int64_t n) {
  using C = compute_t<X>;
  for (int64_t i = 0; i < n; ++i) {
    const C gate = static_cast<C>(gates[i]), up = static_cast<C>(ups[i]);
    h[i] = static_cast<Y>(gate * sigmoid(gate).value * up * weight);
  }
}

// Returns Σ d_h · silu(gate) · up.
template <class X, class Dh, class Dx>
compute_t<X> backward_row(const X* gate_up, compute_t<X> weight, const Dh* d_h, Dx* d_gate_up, int64_t width) {
  using C = compute_t<X>;
  C d_weight = 0;
  for (int64_t i = 0; i < width; ++i) {
    const C gate = static_cast<C>(gate_up[i]), up = static_cast<C>(gate_up[width + i]), d = static_cast<C>(d_h[i]);
    const Sigmoid<C> s = sigmoid(gate);
    const C silu = gate * s.value;
    const C slope = s.value * (C(1) + gate * s.complement);
    d_weight += d * (silu * up);
    const C weighted = d * weight;
    d_gate_up[i] = static_cast<Dx>(weighted * up * slope);
    d_gate_up[width + i] = static_cast<Dx>(weighted * silu);
  }
  return d_weight;
}

}  // namespace

void forward(const void* gate, const void* up, DType x_type, double weight, void* h, DType h_type, int64_t n) {
  visit_float(x_type, [&](auto x_zero) {
    visit_float(h_type, [&](auto h_zero) {
      using X = decltype(x_zero);
      forward_row(static_cast<const X*>(gate), static_cast<const X*>(up), static_cast<compute_t<X>>(weight),
                  static_cast<decltype(h_zero)*>(h), n);
    });
  });
}

double backward(const void* gate_up, DType x_type, double weight, const void* d_h, DType d_h_type, void* d_gate_up,
                DType d_type, int64_t width) {
  double d_weight = 0;
  visit_float(x_type, [&](auto x_zero) {
    visit_float(d_h_type, [&](auto d_h_zero) {
      visit_float(d_type, [&](auto d_zero) {
        using X = decltype(x_zero);
        d_weight = backward_row(static_cast<const X*>(gate_up), static_cast<compute_t<X>>(weight),
                                static_cast<const decltype(d_h_zero)*>(d_h), static_cast<decltype(d_zero)*>(d_gate_up), width);
      });
    });
  });
  return d_weight;
}

}  // namespace rorqual::swiglu_reference
